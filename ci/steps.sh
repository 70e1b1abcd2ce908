# Sourced by the scripts of ci/: steps with progress, times, logs, and a clear end on failure.
#
#   begin_steps NUMBER        how many steps there will be
#   step NAME TEXT REMEDY COMMAND...   runs COMMAND with its output in $logs/NAME.log, shows the last "[12/187]" or
#                             "12 %" of it meanwhile, and its time after. On failure: prints the last lines and REMEDY,
#                             and returns COMMAND's exit code.

logs=${logs:-build/logs}
steps_total=0
steps_done=0

begin_steps() { steps_total=$1; steps_done=0; mkdir -p "$logs"; }

# 598 -> "9 min 58 s"; tenths below ten seconds.
show_time() {
  local ms=$1
  if ((ms < 9950)); then
    printf '%d.%d s' $((ms / 1000)) $((ms % 1000 / 100))
  elif ((ms < 60000)); then
    printf '%d s' $((ms / 1000))
  else
    printf '%d min %d s' $((ms / 60000)) $((ms % 60000 / 1000))
  fi
}

now_ms() { echo $((${EPOCHREALTIME/[.,]/} / 1000)); }

# The last counter in a log: ninja's "[12/187]", ctest's " 12/40 Test", apt's "12%".
last_counter() {
  tail -c 2000 "$1" 2>/dev/null | tr '\r' '\n' |
    grep -oE '^\[[0-9]+/[0-9]+\]|^ *[0-9]+/[0-9]+ Test' | tail -n 1 | grep -oE '[0-9]+/[0-9]+'
}

# LOG: why it failed. Of ctest's log, what each failed test said was wrong; of any other, the last lines.
explain() {
  local failures
  failures=$(tr '\r' '\n' <"$1" | awk '
    /^ *Start +[0-9]+: / { failed = 0 }
    /Test +#[0-9]+: .*(\*\*\*|\(Failed\)|\(Timeout\))/ { failed = 1; left = 1; shown = 0 }
    /[0-9]+% tests passed/ { failed = 0 }
    failed && /: Failure$|^(FAIL|ERROR): |ERROR: |Traceback|runtime error:|WARNING: ThreadSanitizer|what\(\): / { left = 25 }
    failed && left > 0 && shown < 120 { print; --left; ++shown }')
  if [ -n "$failures" ]; then
    echo "what the failed tests said (all of it is in $1):"
    cut -c1-300 <<<"$failures" | sed 's/^/    /'
  else
    echo "the last lines of $1:"
    tail -n 25 "$1" | tr '\r' '\n' | cut -c1-300 | sed 's/^/    /'
  fi
}

step() {
  local name=$1 text=$2 remedy=$3 log=$logs/$1.log
  shift 3
  steps_done=$((steps_done + 1))
  local head start last_shown now counter code=0
  head=$(printf '[%d/%d] %-9s %-50s' "$steps_done" "$steps_total" "$name" "$text")
  start=$(now_ms)
  last_shown=$start
  if [ -t 1 ]; then printf '%s' "$head"; else printf '%s\n' "${head%"${head##*[! ]}"}"; fi
  "$@" >"$log" 2>&1 </dev/null &
  local pid=$!
  step_pid=$pid
  while kill -0 "$pid" 2>/dev/null; do
    sleep 0.1
    now=$(now_ms)
    if [ -t 1 ] && ((now - last_shown > 400)); then
      printf '\r%s %9s  %s ' "$head" "$(last_counter "$log")" "$(show_time $((now - start)))"
      last_shown=$now
    elif [ ! -t 1 ] && ((now - last_shown > 30000)); then
      counter=$(last_counter "$log")
      printf '      %s %s after %s\n' "$name" "${counter:-goes on}" "$(show_time $((now - start)))"
      last_shown=$now
    fi
  done
  wait "$pid" || code=$?
  step_pid=
  local took
  took=$(show_time $(($(now_ms) - start)))
  # A build that found nothing to do stops counting early: then the count says nothing.
  counter=$(last_counter "$log")
  if [ "${counter%/*}" != "${counter#*/}" ]; then counter=; fi
  if [ -t 1 ]; then
    printf '\r%s %9s  %-12s\n' "$head" "$counter" "$took"
  else
    printf '      %s %s %s\n' "$name" "${counter:+$counter }" "$took"
  fi
  ((code == 0)) && return 0
  {
    echo
    echo "FAILED at step $steps_done, $name (exit code $code): $*"
    explain "$log"
    echo "what to do: $remedy"
  } >&2
  return "$code"
}

# Ends the running command when the script is interrupted.
end_running_step() { [ -z "${step_pid:-}" ] || kill "$step_pid" 2>/dev/null || true; }
trap 'end_running_step; exit 130' INT
trap 'end_running_step; exit 143' TERM
