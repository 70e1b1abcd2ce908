#!/usr/bin/env bash
# Makes a Debian package and a tarball of a finished build, for hosts without a compiler. Reproducible: the same build gives
# the same bytes (SOURCE_DATE_EPOCH sets the times, 0 unless given).
#
#   deploy/package/build.sh BUILD_DIR OUT_DIR
#
# OUT_DIR/conclave_VERSION_ARCH.deb             programs, bundled model, systemd units; depends on Debian's libraries
# OUT_DIR/conclave-VERSION-linux-ARCH.tar.gz    the same to be unpacked as /opt/conclave or anywhere, with its libraries; for
#                                               distributions whose glibc is at least the builder's
set -euo pipefail
if [ $# != 2 ]; then
  echo "usage: deploy/package/build.sh BUILD_DIR OUT_DIR" >&2
  exit 2
fi
build=$(realpath "$1")
out=$(realpath -m "$2")
cd "$(dirname "$0")/../.."
programs=(conclave conclave-gateway conclave-controller conclave-engine conclave-expert)
for program in "${programs[@]}"; do
  if [ ! -x "$build/$program" ]; then
    echo "error: $1 holds no program $program: build with cmake --preset release && cmake --build build" >&2
    exit 1
  fi
done
for tool in dpkg-deb dpkg-shlibdeps patchelf; do
  if ! command -v "$tool" >/dev/null; then
    echo "error: $tool is missing: install dpkg-dev and patchelf" >&2
    exit 1
  fi
done
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-0} LC_ALL=C
version=$("$build/conclave" --version | awk '{ print $2 }')
architecture=$(dpkg --print-architecture)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
umask 022
mkdir -p "$out"

# What both hold, below PREFIX: programs without symbols, model, documents.
stage() {
  local prefix=$1
  for program in "${programs[@]}"; do
    install -D -m 0755 "$build/$program" "$prefix/bin/$program"
    strip --strip-unneeded "$prefix/bin/$program"
  done
  install -D -m 0644 -t "$prefix/share/conclave/models/tales" models/tales/*
  install -D -m 0644 -t "$prefix/share/doc/conclave" docs/*.md README.md CHANGELOG.md NOTICE THIRD_PARTY.md
}

# The Debian package.
deb=$work/deb
stage "$deb/usr"
install -D -m 0644 LICENSE "$deb/usr/share/doc/conclave/copyright"
install -D -m 0644 -t "$deb/lib/systemd/system" deploy/systemd/*.service deploy/systemd/*.target
install -D -m 0644 -t "$deb/etc/conclave" deploy/package/conclave.yaml
install -d "$deb/DEBIAN"
install -m 0755 -t "$deb/DEBIAN" deploy/package/{postinst,prerm,postrm}
echo /etc/conclave/conclave.yaml >"$deb/DEBIAN/conffiles"
# dpkg-shlibdeps wants a source package around it.
mkdir "$work/debian"
printf 'Source: conclave\n\nPackage: conclave\nArchitecture: any\n' >"$work/debian/control"
depends=$(cd "$work" && dpkg-shlibdeps -O "${programs[@]/#/deb/usr/bin/}" 2>"$work/shlibdeps.log") ||
  { cat "$work/shlibdeps.log" >&2; exit 1; }
cat >"$deb/DEBIAN/control" <<CONTROL
Package: conclave
Version: $version
Architecture: $architecture
Maintainer: The Conclave authors <conclave@localhost>
Section: science
Priority: optional
Installed-Size: $(du -k --apparent-size -s "$deb" | cut -f1)
Depends: ${depends#shlibs:Depends=}, adduser, ca-certificates
Description: serves Mixture-of-Experts language models from a cluster
 Engines hold attention and the KV cache, expert workers hold the experts; a
 gateway serves gRPC and an OpenAI-compatible API. The same request gives the
 same tokens, whatever happens. With a small demonstration model.
CONTROL
(cd "$deb" && find . -type f -not -path './DEBIAN/*' -printf '%P\0' | sort -z | xargs -0 md5sum) >"$work/md5sums"
install -m 0644 "$work/md5sums" "$deb/DEBIAN/md5sums"
find "$deb" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
dpkg-deb --root-owner-group --threads-max=1 -Zzstd -z9 --build "$deb" "$out/conclave_${version}_$architecture.deb" >/dev/null

# The tarball: all libraries but glibc's own come along, found by the programs' run path. RPATH, not RUNPATH, because it
# also holds for the libraries of libraries.
name=conclave-$version-linux-$architecture
tarball=$work/$name
stage "$tarball"
install -m 0644 -t "$tarball" LICENSE
mkdir "$tarball/lib"
glibc='(^|/)(libc|libm|libdl|libpthread|librt|libresolv)\.so'
for program in "${programs[@]}"; do
  ldd "$tarball/bin/$program" | awk '$2 == "=>" { print $1, $3 }'
done | sort -u | grep -vE "$glibc" | while read -r library path; do
  install -m 0644 "$path" "$tarball/lib/$library"
done
for program in "${programs[@]}"; do ldd "$build/$program" | awk '$2 == "=>" { print $3 }'; done | sort -u |
  grep -vE "$glibc" | xargs deploy/copyrights.sh "$tarball/share/doc"
for program in "${programs[@]}"; do
  patchelf --force-rpath --set-rpath "\$ORIGIN/../lib" "$tarball/bin/$program"
done
install -d "$tarball/share/conclave/systemd"
for unit in deploy/systemd/*; do
  sed 's#/usr/bin/#/opt/conclave/bin/#; s#/usr/share/#/opt/conclave/share/#' "$unit" >"$tarball/share/conclave/systemd/${unit##*/}"
done
sed 's#/usr/share/#/opt/conclave/share/#' deploy/package/conclave.yaml >"$tarball/share/conclave/conclave.yaml"
tar -C "$work" --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$SOURCE_DATE_EPOCH" --format=ustar -cf - "$name" |
  gzip -n -4 >"$out/$name.tar.gz"
(cd "$out" && ls -l "conclave_${version}_$architecture.deb" "$name.tar.gz" | awk '{ printf "%s  %.1f MB\n", $9, $5 / 1e6 }')
