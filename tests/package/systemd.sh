#!/usr/bin/env bash
# Installs the Debian package into a fresh Debian, with apt and its dependencies, boots that with systemd, and serves by the
# units. Not part of CI, because it downloads a system. Needs root, debootstrap, systemd-container, Debian's package sources.
#
#   tests/package/systemd.sh WORK_DIR
#
# WORK_DIR keeps the fresh system for the next time; the package goes into a copy.
set -euo pipefail
cd "$(dirname "$0")/../.."
if [ $# != 1 ]; then
  echo "usage: tests/package/systemd.sh WORK_DIR" >&2
  exit 2
fi
mkdir -p "$1"
work=$(realpath "$1")
if [ ! -e "$work/fresh/etc/os-release" ]; then
  debootstrap --variant=minbase --include=systemd,systemd-sysv,dbus,curl,ca-certificates bookworm "$work/fresh"
fi
root=$work/root
rm -rf "$root"
cp -a "$work/fresh" "$root"
deploy/package/build.sh "${BUILD_DIR:-build}" "$work/package"
cp "$work"/package/conclave_*.deb "$root/conclave.deb"
cp /etc/resolv.conf "$root/etc/resolv.conf"
cat >"$root/usr/sbin/policy-rc.d" <<<'exit 101'
chmod +x "$root/usr/sbin/policy-rc.d"
chroot "$root" apt-get -o Dpkg::Use-Pty=0 install -y -q --no-install-recommends /conclave.deb

cat >"$root/check.sh" <<'CHECK'
#!/bin/bash
exec >/result 2>&1
passed=0
failed=0
check() {
  if "${@:2}" >/out 2>&1; then passed=$((passed + 1)); else failed=$((failed + 1)); echo "FAILED: $1"; tail -n 20 /out; fi
}
wait_until() { local end=$((SECONDS + $1)); until "${@:2}"; do ((SECONDS < end)) || return 1; read -r -t 0.2 <> <(:) || true; done; }
services=(conclave-controller conclave-gateway conclave-engine@0 conclave-expert@0 conclave-expert@1)
healthy() { /usr/bin/conclave-gateway --config /etc/conclave/conclave.yaml --check-health; }
answers() { conclave run "What is the capital of France?" --gateway 127.0.0.1:8001 --temperature 0 | grep "The capital of France is Paris."; }
runs_as_conclave() { [ "$(stat -c %U "/proc/$(systemctl show -P MainPID "$1")")" = conclave ]; }
is_confined() {
  local status=/proc/$(systemctl show -P MainPID "$1")/status
  grep -q '^Seccomp:.*2$' "$status" && grep -q '^NoNewPrivs:.*1$' "$status" && grep -qE '^CapBnd:\s0+$' "$status"
}
ended_well() { [ "$(systemctl show -P Result "$1")" = success ] && [ "$(systemctl show -P ActiveState "$1")" = inactive ]; }
restarted() { [ "$(systemctl show -P MainPID "$1")" != "$2" ] && systemctl -q is-active "$1"; }
inactive() { [ "$(systemctl show -P ActiveState "$1")" = inactive ]; }
lacks() { ! [ -e "$1" ]; }

check "nothing runs before it is enabled" inactive conclave.target
check "the target starts" systemctl enable --now conclave.target
check "the gateway becomes healthy" wait_until 60 healthy
for service in "${services[@]}"; do
  check "$service is active" systemctl -q is-active "$service"
  check "$service runs as conclave" runs_as_conclave "$service"
  check "$service is confined" is_confined "$service"
done
check "an answer" answers
pid=$(systemctl show -P MainPID conclave-engine@0)
kill -KILL "$pid"
check "a killed engine is started again" wait_until 30 restarted conclave-engine@0 "$pid"
check "healthy after it" wait_until 60 healthy
check "an answer after it" answers
pid=$(systemctl show -P MainPID conclave-gateway)
check "an upgrade" dpkg -i /conclave.deb
check "restarts what ran" wait_until 30 restarted conclave-gateway "$pid"
check "healthy after the upgrade" wait_until 60 healthy
check "an instance more" systemctl start conclave-expert@2
check "it becomes healthy" wait_until 30 env CONCLAVE_EXPERT_OPS_LISTEN=127.0.0.1:9032 conclave-expert --config /etc/conclave/conclave.yaml --check-health
check "the target stops" systemctl stop conclave.target
for service in "${services[@]}" conclave-expert@2; do check "$service ended well" wait_until 40 ended_well "$service"; done
check "starts again" systemctl start conclave.target
check "is removed while it runs" dpkg --remove conclave
check "no process is left" lacks "/proc/$(systemctl show -P MainPID conclave-gateway)/exe"
check "is purged" dpkg --purge conclave
check "no settings are left" lacks /etc/conclave
check "no state is left" lacks /var/lib/conclave
journalctl -b --no-pager -u 'conclave*' >/journal
echo
echo "$passed passed, $failed failed"
CHECK
chmod +x "$root/check.sh"
cat >"$root/etc/systemd/system/check.service" <<'UNIT'
[Unit]
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/check.sh
ExecStopPost=/bin/systemctl poweroff --no-block
TimeoutStartSec=400
[Install]
WantedBy=graphical.target
UNIT
mkdir -p "$root/etc/systemd/system/graphical.target.wants"
ln -sf ../check.service "$root/etc/systemd/system/graphical.target.wants/check.service"
timeout 500 systemd-nspawn --quiet --directory "$root" --private-network --register=no --keep-unit --boot >"$work/boot.log" 2>&1 </dev/null ||
  echo "the system ended with $? (boot.log)"
cp "$root/journal" "$work/journal.log" 2>/dev/null || true
cat "$root/result"
grep -qE '^[0-9]+ passed, 0 failed$' "$root/result"
