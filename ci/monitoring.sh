#!/usr/bin/env bash
# Dashboards, alerts, recording and scaling rules of the chart: unit tests of the alerts with promtool, then every query against a
# real Prometheus that watches a local cluster under load, and every alert provoked there. Needs a finished build (BUILD_DIR, else
# build). The last line counts the tests.
#
#   ci/monitoring.sh
#   PROMETHEUS=/path/to/prometheus ci/monitoring.sh     with another Prometheus than the one of the PATH
set -uo pipefail
cd "$(dirname "$0")/.."
export BUILD_DIR=${BUILD_DIR:-$PWD/build}
if [ ! -x "$BUILD_DIR/conclave" ]; then
  echo "error: no programs in $BUILD_DIR; build them first: ci/test.sh, or cmake --build build" >&2
  echo "0 passed, 1 failed"
  exit 1
fi
exec python3 -B tests/monitoring/run.py
