#!/usr/bin/env bash
# Checks that every header compiles alone. Needs the generated protocol headers: build conclave_proto first.
set -euo pipefail
cd "$(dirname "$0")/.."
check() {
  local extra=()
  # SIMD headers of the kernels are included by sources that are compiled for that level.
  case $1 in kernels/cpu/*) extra=(-march=sapphirerapids) ;; esac
  c++ -std=c++20 -fsyntax-only -Wall -Wextra -Werror -Wno-restrict "${extra[@]}" -I. -isystem build/proto \
    -isystem build/generated -x c++ -include "$1" /dev/null || { echo "$1 does not compile alone"; return 1; }
}
export -f check
mapfile -t headers < <(git ls-files 'kernels/*.h' 'shared/*.h' 'services/*.h')
printf '%s\0' "${headers[@]}" | xargs -0 -n 1 -P "$(nproc)" bash -c 'check "$0"'
echo "headers: ${#headers[@]} compile alone"
