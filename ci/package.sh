#!/usr/bin/env bash
# Tests of what is shipped, given a finished build: images, packages, units, compose file. As root, since programs are run
# confined as a container engine or systemd confines them; otherwise only what needs no namespaces. The last line counts.
#
#   ci/package.sh [NAME...]      such as images; all of tests/package/NAME_test.py unless given
set -uo pipefail
cd "$(dirname "$0")/.."
export BUILD_DIR=${BUILD_DIR:-$PWD/build}
passed=0
failed=0
output=$(mktemp)
trap 'rm -f "$output"' EXIT
# WORDS: the sum of the numbers that unittest's last line has for them.
sum_of() {
  grep -E '^(OK|FAILED) \(' "$output" | grep -oE "($1)=[0-9]+" | awk -F= '{ n += $2 } END { print n + 0 }'
}

if [ $# -gt 0 ]; then tests=("${@/%/_test.py}"); else tests=($(cd tests/package && ls -- *_test.py)); fi
for test in "${tests[@]}"; do
  echo "== $test"
  python3 -B "tests/package/$test" 2>&1 | tee "$output"
  code=${PIPESTATUS[0]}
  if [ "$code" = 77 ]; then continue; fi
  # unittest ends with "Ran 16 tests in 31.8s" and "OK (skipped=1)" or "FAILED (failures=1, errors=1)".
  ran=$(sed -nE 's/^Ran ([0-9]+) tests? in .*/\1/p' "$output")
  bad=$(sum_of 'failures|errors')
  ran=$((${ran:-0} - $(sum_of skipped)))
  if ((code != 0 && bad == 0)); then
    failed=$((failed + 1))
    continue
  fi
  failed=$((failed + bad))
  passed=$((passed + ran - bad))
done
echo
echo "$passed passed, $failed failed"
((failed == 0))
