#!/usr/bin/env bash
# Installs what is missing, builds everything, and runs all tests. Idempotent. The last line counts the tests.
#
#   ci/test.sh [CTEST-ARGUMENTS...]     such as -R engine, or -L system
set -uo pipefail
cd "$(dirname "$0")/.."
. ci/steps.sh
cores=$(nproc)
begin_steps 4
counts() { echo; echo "$1 passed, $2 failed"; }

step packages "what build and tests need (ci/setup.sh --tests --print)" \
  "see the lines above; without network install by hand what ci/setup.sh --tests --print lists" \
  ci/setup.sh --tests || { counts 0 1; exit 1; }
step configure "cmake --preset release" "see the lines above; rm -rf build starts over" \
  cmake --preset release -D CONCLAVE_BUILD_TESTS=ON || { counts 0 1; exit 1; }
step build "programs and tests, $cores cores" "correct the first error: above or in build/logs/build.log" \
  cmake --build build -- -j"$cores" || { grep -n -m 5 -E 'error:|FAILED' "$logs/build.log" >&2; counts 0 1; exit 1; }
code=0
step test "ctest" "run one alone: ctest --test-dir build -R NAME --output-on-failure" \
  ctest --test-dir build -j2 --output-on-failure "$@" || code=$?

summary=$(grep -E 'tests passed, [0-9]+ tests? failed out of [0-9]+' "$logs/test.log" | tail -n 1)
total=$(sed -E 's/.* out of ([0-9]+).*/\1/' <<<"$summary")
failed=$(sed -E 's/.*passed, ([0-9]+) tests? failed.*/\1/' <<<"$summary")
if [ -z "$summary" ]; then total=1 failed=1; fi
grep -E '\*\*\*(Failed|Timeout|Exception|Not Run|Skipped)|\(Skipped\)' "$logs/test.log" | sort -u
counts $((total - failed)) "$failed"
((failed == 0)) && exit "$code"
exit 1
