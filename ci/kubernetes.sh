#!/usr/bin/env bash
# The chart on a real Kubernetes: two nodes in network namespaces of this machine, from binaries, without a container registry.
#
#   ci/kubernetes.sh           everything; 6 to 8 minutes on two cores
#   ci/kubernetes.sh --quick   installation, first requests, one upgrade and one change of size under load, uninstallation
#   ci/kubernetes.sh --keep    and leave the cluster running
#
# Needs root, a build in build/ (or $BUILD), and the packages that ci/setup.sh --kubernetes installs. KUBE_ARCHIVE names a folder with the
# cluster's programs; without it they are built from Go modules, once, and the definitions of custom resources come from Go modules in any
# case. The last line is the sum.
set -euo pipefail
cd "$(dirname "$0")/.."
build=$(realpath "${BUILD:-build}")
if ! obstacles=$(python3 -B tests/kubernetes/machine.py); then
  echo "error: this machine cannot run the test cluster: $obstacles" >&2
  exit 1
fi
exec python3 -B tests/kubernetes/run.py "$build" "$@"
