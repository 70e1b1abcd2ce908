#!/usr/bin/env bash
# Runs deploy/compose.yaml with the assembled images: a Docker daemon of its own, in network and process namespaces that end
# with the script. Not part of CI, because it needs docker.io. Needs root, docker.io, docker-compose, and a finished build.
#
#   tests/package/compose.sh WORK_DIR
#
# Prometheus and Grafana take part where WORK_DIR/prometheus.tar and WORK_DIR/grafana.tar (of `docker save`) are.
set -euo pipefail
cd "$(dirname "$0")/../.."
if [ $# != 1 ]; then
  echo "usage: tests/package/compose.sh WORK_DIR" >&2
  exit 2
fi
mkdir -p "$1"
work=$(realpath "$1")
if [ -z "${COMPOSE_TEST_INSIDE:-}" ]; then
  COMPOSE_TEST_INSIDE=1 exec unshare --mount --net --pid --fork --kill-child --mount-proc "$0" "$work"
fi

passed=0
failed=0
check() { if "${@:2}"; then passed=$((passed + 1)); else failed=$((failed + 1)); echo "FAILED: $1" >&2; fi; }
# TEXT SECONDS COMMAND...: until it succeeds.
wait_until() {
  local end=$((SECONDS + $2))
  until "${@:3}" >/dev/null 2>&1; do
    if ((SECONDS > end)); then echo "not in $2 s: $1" >&2; return 1; fi
    read -r -t 0.2 <> <(:) || true
  done
}

ip link set lo up
mkdir -p /run/docker
mount -t tmpfs tmpfs /run/docker
export DOCKER_HOST=unix:///run/docker/test.sock
# The daemon leaves its parent group empty behind.
trap 'rmdir /sys/fs/cgroup/*/conclave-compose-test /sys/fs/cgroup/conclave-compose-test 2>/dev/null || true' EXIT
/usr/sbin/dockerd --cgroup-parent conclave-compose-test --data-root "$work/docker" --exec-root /run/docker/exec --pidfile /run/docker/pid --host "$DOCKER_HOST" \
  >"$work/dockerd.log" 2>&1 &
wait_until "the daemon answers" 60 docker info

deploy/images/assemble.sh "${BUILD_DIR:-build}" "$work/images"
for archive in "$work"/images/*.tar "$work"/prometheus.tar "$work"/grafana.tar; do
  if [ -f "$archive" ]; then docker load --quiet --input "$archive"; fi
done
(umask 077 && head -c 32 /dev/urandom | base64 >"$work/cluster.secret")
chown 65532 "$work/cluster.secret"
export CONCLAVE_CLUSTER_SECRET_FILE=$work/cluster.secret COMPOSE_PROJECT_NAME=conclave
# Compose 1.29 knows every key but the project's name.
grep -v '^name:' deploy/compose.yaml >"$work/compose.yaml"
compose() { docker-compose --project-directory deploy -f "$work/compose.yaml" "$@"; }

services=(controller gateway engine-0 expert-0 expert-1)
members=("${services[@]}")
if [ -f "$work/prometheus.tar" ]; then services+=(prometheus); fi
if [ -f "$work/grafana.tar" ]; then services+=(grafana); fi
container() { compose ps -q "$1"; }
is_healthy() { [ "$(docker inspect -f '{{.State.Health.Status}}' "$(container "$1")")" = healthy ]; }
answers() { compose run --rm cli run "What is the capital of France?" --gateway gateway:8001 --temperature 0 | grep "The capital of France is Paris."; }
answers_http() {
  curl -sf 127.0.0.1:8000/v1/chat/completions -H 'content-type: application/json' \
    -d '{"model":"tales","messages":[{"role":"user","content":"What is the capital of France?"}],"temperature":0}' | grep "is Paris"
}
all_scraped() {
  [ "$(curl -sf '127.0.0.1:9090/api/v1/query?query=up{job="conclave"}==1' -g | jq '.data.result | length')" = ${#members[@]} ]
}
rules_are_good() { curl -sf 127.0.0.1:9090/api/v1/rules | jq -e '[.data.groups[].rules[] | select(.health == "err")] == []'; }
ended_well() { [ "$(docker inspect -f '{{.State.ExitCode}}' "$1")" = 0 ]; }

started=$SECONDS
check "the cluster starts" compose up -d "${services[@]}"
for member in "${members[@]}"; do check "$member is healthy" wait_until "$member is healthy" 120 is_healthy "$member"; done
echo "healthy after $((SECONDS - started)) s"
check "the command line's image gets an answer" answers
check "the published port gives an answer" answers_http
if [ -f "$work/prometheus.tar" ]; then
  check "Prometheus reads all members" wait_until "all members are up" 60 all_scraped
  check "Prometheus computes the rules" rules_are_good
fi

# The same with keys and TLS: only the gateway is made anew.
public=$work/public
rm -rf "$public"
mkdir "$public"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -noenc -days 2 -subj /CN=localhost \
  -addext subjectAltName=DNS:localhost,IP:127.0.0.1 -keyout "$public/server.key" -out "$public/server.crt" 2>/dev/null
"${BUILD_DIR:-build}/conclave" key create --tenant acme --gateway-keys-file "$public/keys.json" >"$work/key"
chown -R 65532 "$public"
export CONCLAVE_PUBLIC_DIR=$public CONCLAVE_PUBLIC_NAMES=llm.example.org
public() { compose -f deploy/compose.public.yaml "$@"; }
status_with() {
  curl -s -o /dev/null -w '%{http_code}' --cacert "$public/server.crt" https://localhost:8443/v1/models "${@:2}" | grep -qx "$1"
}
check "the public cluster starts" public up -d "${members[@]}"
check "the gateway is healthy again" wait_until "gateway is healthy" 120 is_healthy gateway
check "a key is let in" status_with 200 -H "authorization: Bearer $(cat "$work/key")"
check "no key is refused" status_with 401
check "a wrong key is refused" status_with 401 -H "authorization: Bearer ck-wrong"

containers=()
for member in "${members[@]}"; do containers+=("$(container "$member")"); done
check "the cluster stops" compose stop
for id in "${containers[@]}"; do check "ended well: $(docker inspect -f '{{.Name}}' "$id")" ended_well "$id"; done
check "the cluster goes" compose down --volumes
echo
echo "$passed passed, $failed failed"
((failed == 0))
