#!/usr/bin/env bash
# Checks who includes whom and who links what (docs/architecture.md, "Who may include whom"):
#   services -> shared -> {kernels, proto}, nothing back, no service another; inside shared as listed below;
#   kernels know the standard library and SIMD headers alone; gateway and controller link no kernels.
# The link check runs when build/ is configured.
set -euo pipefail
cd "$(dirname "$0")/.."
errors=0

# FOLDER ALLOWED-PREFIXES...: every include in quotes of FOLDER starts with one of the prefixes or names no part of ours.
only() {
  local folder=$1 allowed found
  shift
  [ -d "$folder" ] || return 0
  allowed=$(IFS='|'; echo "$*")
  found=$(git ls-files "$folder/*.h" "$folder/*.cc" | xargs -r grep -nE '^#include "(services|shared|kernels|conclave)/' |
    grep -vE "#include \"($allowed)/" || true)
  if [ -n "$found" ]; then
    echo "$found"
    echo "  -> $folder may include only: $*"
    errors=$((errors + 1))
  fi
}

only kernels kernels
only shared/base shared/base
only shared/metrics shared/metrics shared/base
only shared/tls shared/tls shared/base shared/metrics
only shared/options shared/options shared/base shared/tls
only shared/identity shared/identity shared/base
only shared/net shared/net shared/base shared/tls
only shared/shm shared/shm shared/base
only shared/http shared/http shared/net shared/base shared/metrics shared/tls
# Row frames carry the kernels' row types; they are a target of their own, which gateway and controller do not link.
only shared/h2 shared/h2 shared/base shared/net shared/rpc
only shared/rpc shared/rpc shared/base shared/metrics shared/net shared/shm shared/tls conclave/v1 kernels
only shared/weights shared/weights shared/base kernels
only shared/text shared/text shared/base shared/weights
only shared/experts shared/experts shared/weights shared/base shared/metrics kernels
only shared/model shared/model shared/options shared/placement shared/weights shared/base kernels
only shared/placement shared/placement shared/base shared/metrics shared/rpc conclave/v1
for service in services/*/; do
  service=${service%/}
  only "$service" "$service" shared kernels conclave/v1
done
for service in services/gateway services/controller; do
  only "$service" "$service" shared conclave/v1
done

foreign=$(git ls-files 'kernels/*.h' 'kernels/*.cc' |
  xargs -r grep -nE '#include [<"](absl|grpc|grpcpp|google|nlohmann|spdlog|boost|fstream|filesystem)[/>]' || true)
if [ -n "$foreign" ]; then
  echo "$foreign"
  echo "  -> kernels know the standard library, SIMD headers and CUDA; no RPC, no files"
  errors=$((errors + 1))
fi
unguarded=$(git ls-files '*.h' | xargs -r grep -L '^#pragma once' || true)
if [ -n "$unguarded" ]; then
  echo "$unguarded"
  echo "  -> headers say #pragma once"
  errors=$((errors + 1))
fi

linked="not checked: build/ is not configured"
if [ -f build/build.ninja ]; then
  linked="checked"
  for program in conclave-gateway conclave-controller; do
    ninja -C build -t query "$program" >/dev/null 2>&1 || continue
    kernels=$(ninja -C build -t inputs "$program" | grep -E '(^|/)kernels/' || true)
    if [ -n "$kernels" ]; then
      echo "$kernels" | head -n 5
      echo "  -> $program links kernels; its image shall hold none"
      errors=$((errors + 1))
    fi
  done
fi

if ((errors)); then
  echo "includes: $errors rules are broken" >&2
  exit 1
fi
echo "includes: all directions hold; links $linked"
