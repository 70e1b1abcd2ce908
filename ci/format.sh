#!/usr/bin/env bash
# Checks that all C++ is formatted (clang-format-16, .clang-format) and all shell scripts parse. --fix formats.
set -euo pipefail
cd "$(dirname "$0")/.."
mode=(--dry-run --Werror)
if [ "${1:-}" = --fix ]; then mode=(-i); fi
mapfile -t sources < <(git ls-files '*.h' '*.cc')
differing=$(printf '%s\0' "${sources[@]}" | xargs -0 -n 20 -P "$(nproc)" clang-format-16 "${mode[@]}" 2>&1 |
  grep -E 'error:' | cut -d: -f1 | sort | uniq -c || true)
if [ -n "$differing" ]; then
  echo "$differing"
  echo "format: the files above differ from clang-format-16's; run ci/format.sh --fix" >&2
  exit 1
fi
mapfile -t scripts < <(git ls-files '*.sh' .ci/run)
for script in "${scripts[@]}"; do bash -n "$script"; done
echo "format: ${#sources[@]} sources and ${#scripts[@]} scripts are good"
