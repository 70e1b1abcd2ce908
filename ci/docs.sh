#!/usr/bin/env bash
# Writes the generated pages: docs/metrics.md from the metrics' catalogue.
set -euo pipefail
cd "$(dirname "$0")/.."
[ -f build/build.ninja ] || cmake --preset release
cmake --build build --target conclave-metrics-docs
build/tools/conclave-metrics-docs docs/metrics.md
