#!/usr/bin/env bash
# The chart on a real Kubernetes: two nodes in network namespaces of this machine, from binaries, without a container registry.
#
#   ci/kubernetes.sh           everything; 6 to 8 minutes on two cores
#   ci/kubernetes.sh --quick   installation, first requests, one upgrade and one change of size under load, uninstallation
#   ci/kubernetes.sh --keep    and leave the cluster running
#
# Needs root, a build in build/ (or $BUILD), and the packages that ci/setup.sh --kubernetes installs. KUBE_ARCHIVE names a folder with the
# cluster's programs; without it they are built from Go modules, once. The last line is the sum.
set -euo pipefail
cd "$(dirname "$0")/.."
build=$(realpath "${BUILD:-build}")
if [ "$(id -u)" != 0 ]; then
  echo "error: network namespaces and containers need root; run: sudo -E ci/kubernetes.sh" >&2
  exit 1
fi
for program in containerd runc ctr iptables conntrack ip nsenter zstd openssl curl; do
  if ! command -v "$program" >/dev/null; then
    echo "error: $program is missing; run: ci/setup.sh --kubernetes" >&2
    exit 1
  fi
done
exec python3 -B tests/kubernetes/run.py "$build" "$@"
