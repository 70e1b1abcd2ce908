#!/usr/bin/env bash
# Copies what the distribution says about the licences of libraries that are passed on: images and the tarball hold them.
#
#   deploy/copyrights.sh DOC_DIR LIBRARY...
#
# Writes DOC_DIR/PACKAGE/copyright for each package that one of the files came with.
set -euo pipefail
doc=$1
shift
# Packages name their files with or without /usr, whichever the merged folders are.
for library in "$@"; do
  path=$(realpath "$library")
  printf '%s\n%s\n' "${path#/usr}" "/usr${path#/usr}"
done | sort -u | { xargs dpkg-query --search 2>/dev/null || true; } | cut -d: -f1 | sort -u | while read -r package; do
  install -D -m 0644 "/usr/share/doc/$package/copyright" "$doc/$package/copyright"
done
