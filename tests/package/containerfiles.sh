#!/usr/bin/env bash
# Builds the container files with buildah, without a daemon or an image registry: the base image is made by debootstrap from
# Debian's packages, under the name that the files ask for. Not part of CI, because each image compiles its program (minutes).
# Needs root, debootstrap, buildah and the package sources of Debian and Rust.
#
#   tests/package/containerfiles.sh WORK_DIR [NAME...]      such as expert model-tales; all unless given
#
# An image must hold the same files as the one that deploy/images/assemble.sh makes of build/, and its program must answer
# with its version. WORK_DIR keeps base and layers for the next time. With ccache on this machine, its cache is used.
set -euo pipefail
cd "$(dirname "$0")/../.."
if [ $# = 0 ]; then
  echo "usage: tests/package/containerfiles.sh WORK_DIR [NAME...]" >&2
  exit 2
fi
mkdir -p "$1"
work=$(realpath "$1")
shift
names=("$@")
if ((${#names[@]} == 0)); then names=(model-tales controller gateway engine expert cli); fi
base=docker.io/library/debian:bookworm-slim
export STORAGE_DRIVER=overlay
buildah() { command buildah --root "$work/storage" --runroot "$work/run" "$@"; }
passed=0
failed=0
check() { if "${@:2}"; then passed=$((passed + 1)); else failed=$((failed + 1)); echo "FAILED: $1" >&2; fi; }

build_flags=()
if ! buildah inspect --type image "$base" >/dev/null 2>&1; then
  [ -e "$work/debian/etc/os-release" ] || debootstrap --variant=minbase --include=ca-certificates,ccache bookworm "$work/debian"
  # What this machine trusts besides, where its way to the package sources needs it.
  cp -r /usr/local/share/ca-certificates/. "$work/debian/usr/local/share/ca-certificates/"
  chroot "$work/debian" update-ca-certificates >/dev/null
  printf 'cache_dir = /ccache\nbase_dir = /src\nhash_dir = false\n' >"$work/debian/etc/ccache.conf"
  container=$(buildah from scratch)
  buildah add -q "$container" "$work/debian" / >/dev/null
  buildah commit -q "$container" "$base" >/dev/null
  buildah rm "$container" >/dev/null
fi
if command -v ccache >/dev/null; then build_flags+=(--volume "$(ccache -k cache_dir):/ccache"); fi

# A fresh clone: what is committed and nothing else.
clone=$work/clone
rm -rf "$clone" "$work/assembled"
mkdir "$clone"
git archive HEAD | tar -x -C "$clone"
deploy/images/assemble.sh "${BUILD_DIR:-build}" "$work/assembled" >/dev/null

files_of_archive() {
  for layer in $(tar -xOf "$1" manifest.json | jq -r '.[0].Layers[]'); do tar -xOf "$1" "$layer" | tar -t; done |
    sed 's,/$,,' | sort -u
}
same_files() { diff <(files_of_archive "$work/assembled/conclave-$2.tar") <(cd "$1" && find . -mindepth 1 -printf '%P\n' | sort -u); }
answers() { [ "$2" = model-tales ] || chroot --userspec=65532:65532 "$1" "/usr/bin/$3" --version; }
runs_as_nobody() { [ "$(buildah inspect --type image "$1" | jq -r .OCIv1.config.User)" = 65532:65532 ]; }

for name in "${names[@]}"; do
  image=localhost/conclave-$name:trial
  echo "== $name"
  started=$SECONDS
  check "$name builds" buildah build -q --isolation chroot --network host --layers --pull-never --timestamp 0 --format docker \
    "${build_flags[@]}" --build-arg "COMMIT=$(git rev-parse --short=12 HEAD)" \
    -f "$clone/deploy/images/$name.Containerfile" -t "$image" "$clone"
  program=conclave-$name
  if [ "$name" = cli ]; then program=conclave; fi
  container=$(buildah from --pull-never "$image")
  root=$(buildah mount "$container")
  check "$name holds the files of the assembled image" same_files "$root" "$name"
  check "$name answers" answers "$root" "$name" "$program"
  check "$name runs as 65532" runs_as_nobody "$image"
  du -sh --apparent-size "$root" | awk -v name="$name" -v seconds=$((SECONDS - started)) '{ print name, $1, "after", seconds, "s" }'
  buildah umount "$container" >/dev/null
  buildah rm "$container" >/dev/null
done
echo
echo "$passed passed, $failed failed"
((failed == 0))
