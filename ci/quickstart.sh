#!/usr/bin/env bash
# From a fresh clone to an answer: installs packages, builds the programs, starts a local cluster of separate processes on
# the bundled model, and asks it something. Leaves the cluster running on a terminal and stops it otherwise. Idempotent:
# with everything in place it takes seconds.
#
#   ci/quickstart.sh [--model DIR]      another checkpoint than models/tales
set -uo pipefail
cd "$(dirname "$0")/.."
. ci/steps.sh
model=models/tales
question="What is the capital of France?"
if [ "${1:-}" = --model ] && [ -n "${2:-}" ]; then
  model=$2
elif [ $# -gt 0 ]; then
  echo "usage: ci/quickstart.sh [--model DIR]" >&2
  exit 2
fi
cores=$(nproc)
began=$(now_ms)
begin_steps 4

missing=$(ci/setup.sh --print | grep -c '(missing)')
if ((missing)); then
  text="$missing to install$([ "$(id -u)" = 0 ] || echo ' with sudo') (list: ci/setup.sh --print)"
  # sudo asks here, where a person can see it, and not inside a step.
  [ "$(id -u)" = 0 ] || ! command -v sudo >/dev/null || sudo -v || exit 1
else
  text="all there (list: ci/setup.sh --print)"
fi
step packages "$text" "see the lines above; without network install by hand what ci/setup.sh --print lists" \
  ci/setup.sh || exit 1

programs=(conclave conclave-gateway conclave-engine conclave-expert conclave-controller)
build() {
  # Tests are built by ci/test.sh, which also installs what they need.
  [ -f build/build.ninja ] || cmake --preset release -D CONCLAVE_BUILD_TESTS=OFF || return 1
  cmake --build build --target "${programs[@]}" -- -j"$cores"
}
text="${#programs[@]} programs, $cores cores"
[ -x build/conclave-gateway ] || text="$text, about 10 min the first time"
step build "$text" "correct the first error in $logs/build.log; rm -rf build starts over" build || exit 1

running_before=false
if build/conclave ps >/dev/null 2>&1; then running_before=true; fi
start() {
  if $running_before; then return 0; fi
  build/conclave up -d --auto-ports --model "$model"
}
checked_ms=$(($(now_ms) - began))
started_at=$(now_ms)
text="controller, gateway, engine-0, expert-0, expert-1"
$running_before && text="the cluster that runs already"
step start "$text" "build/conclave doctor --model $model says what is wrong; build/conclave logs shows the processes' logs" \
  start || exit 1

stop() { $running_before || build/conclave down; }
printf '[4/4] %-9s %s\n' ask "$question"
answer=$logs/ask.log
if ! build/conclave run "$question" --temperature 0 --max-tokens 64 2>&1 | tee "$answer" | sed 's/^/                /'; then
  {
    echo "FAILED at step 4, ask"
    echo "what to do: build/conclave ps shows the processes, build/conclave logs what they say, build/conclave doctor checks the machine"
  } >&2
  stop
  exit 1
fi
# Where something was installed or built, the checks of the next run are taken to need a second and a half.
if ((checked_ms > 3000)); then checked_ms=1500; fi
warm=$(show_time $(($(now_ms) - started_at + checked_ms)))
urls=$(build/conclave ps --json)
field() { sed -nE "s/.*\"$1\": *\"([^\"]*)\".*/\1/p" <<<"$urls" | head -n 1; }
http=$(field http_address)
grpc=$(field grpc_address)
state=$(field state_dir)
if [ -t 1 ]; then
  echo "Ready (next time in $warm). Loopback only, no authentication."
  echo "  HTTP http://$http/v1   gRPC $grpc   logs ${state/#$HOME/\~}"
  echo "  talk: build/conclave chat   look: build/conclave ps   stop: build/conclave down"
else
  stop
  echo "Done in $(show_time $(($(now_ms) - began))); not on a terminal, so the cluster was stopped: build/conclave up starts it"
fi
