#!/usr/bin/env bash
# Builds and runs under sanitizers: address + undefined for the tests labelled "input" (they parse what others wrote:
# settings, checkpoints, frames, HTTP, fuzz corpora), thread for those labelled "threads" (threads without gRPC, whose
# Debian build gives false reports).
#
#   ci/sanitize.sh [asan|tsan]          both without an argument
set -uo pipefail
cd "$(dirname "$0")/.."
. ci/steps.sh
cores=$(nproc)
which=${1:-both}
# The Rust crate is not instrumented: all builds share one.
export CONCLAVE_CARGO_TARGET_DIR=$PWD/build/cargo
passed=0
failed=0

# PRESET LABEL
sanitize() {
  local preset=$1 label=$2 runner=()
  step "$preset" "configure" "rm -rf build-$preset starts over" cmake --preset "$preset" || return 1
  step "$preset-build" "the tests labelled $label, $cores cores" "correct the first error in $logs/$preset-build.log" \
    cmake --build "build-$preset" --target "tests-$label" -- -j"$cores" || return 1
  # GCC 12's thread sanitizer wants less address randomisation than newer kernels give.
  if [ "$preset" = tsan ] && setarch "$(uname -m)" -R true 2>/dev/null; then runner=(setarch "$(uname -m)" -R); fi
  step "$preset-run" "ctest -L $label" \
    "run one alone: ctest --test-dir build-$preset -R NAME --output-on-failure" \
    env ASAN_OPTIONS=detect_stack_use_after_return=1:strict_string_checks=1 UBSAN_OPTIONS=print_stacktrace=1 \
    TSAN_OPTIONS=halt_on_error=1 \
    "${runner[@]}" ctest --test-dir "build-$preset" -L "^$label\$" -j2 --output-on-failure
}

# PRESET LABEL: runs it and adds its counts.
count() {
  local preset=$1 summary bad total
  if ! sanitize "$@"; then
    summary=$(grep -E 'tests? failed out of' "$logs/$preset-run.log" 2>/dev/null | tail -n 1)
    bad=$(sed -nE 's/.*passed, ([0-9]+) tests? failed.*/\1/p' <<<"$summary")
    total=$(sed -nE 's/.* out of ([0-9]+).*/\1/p' <<<"$summary")
    bad=${bad:-1}
    failed=$((failed + (bad > 0 ? bad : 1)))
    passed=$((passed + ${total:-$bad} - bad))
    return
  fi
  total=$(sed -nE 's/.* out of ([0-9]+).*/\1/p' "$logs/$preset-run.log" | tail -n 1)
  passed=$((passed + ${total:-0}))
}

case $which in
  asan) begin_steps 3 ;;
  tsan) begin_steps 3 ;;
  both) begin_steps 6 ;;
  *)
    echo "usage: ci/sanitize.sh [asan|tsan]" >&2
    exit 2
    ;;
esac
rm -f "$logs"/{asan,tsan}-run.log
if [ "$which" != tsan ]; then count asan input; fi
if [ "$which" != asan ]; then count tsan threads; fi
echo
echo "$passed passed, $failed failed"
((failed == 0))
