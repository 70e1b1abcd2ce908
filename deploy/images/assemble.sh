#!/usr/bin/env bash
# Assembles the images from a finished build, without a container engine, a registry or the network: the same root file
# systems and settings as the container files beside this script make. Reproducible: the same build gives the same bytes.
#
#   deploy/images/assemble.sh BUILD_DIR OUT_DIR
#
# Writes OUT_DIR/conclave-{gateway,controller,engine,expert,cli,model-tales}.tar: OCI archives named
# localhost/conclave-NAME:VERSION that `docker load`, `podman load`, `ctr images import` and `skopeo` read. The files that
# all programs share are one layer, the same in every archive. SOURCE_DATE_EPOCH sets the time in them (0 unless given).
set -euo pipefail
if [ $# != 2 ]; then
  echo "usage: deploy/images/assemble.sh BUILD_DIR OUT_DIR" >&2
  exit 2
fi
build=$(realpath "$1")
out=$(realpath -m "$2")
cd "$(dirname "$0")/../.."
images=$PWD/deploy/images
if [ ! -x "$build/conclave" ]; then
  echo "error: $1 holds no program conclave: build with cmake --preset release && cmake --build build" >&2
  exit 1
fi
version=$("$build/conclave" --version | awk '{ print $2 }')

staging=$(mktemp -d)
trap 'rm -rf "$staging"' EXIT
"$images/rootfs.sh" "$build/conclave" "$staging/cli"
for service in gateway controller engine expert; do
  "$images/rootfs.sh" "$build/conclave-$service" "$staging/$service"
done
"$images/rootfs.sh" /bin/cp "$staging/model-tales"
install -d -m 0755 "$staging/model-tales/models"
install -D -m 0644 -t "$staging/model-tales/model" models/tales/*.json models/tales/*.safetensors

mkdir -p "$out"
python3 -B "$images/oci.py" "$version" "$staging" "$out"
