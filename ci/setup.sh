#!/usr/bin/env bash
# Installs what Conclave is built with, on Debian 12 or Ubuntu 24.04.
#
#   ci/setup.sh            what builds the programs
#   ci/setup.sh --tests    that, and what the tests and checks need (also the Python packages of tests/requirements.txt)
#   ci/setup.sh --kubernetes   that of the tests, and what ci/kubernetes.sh needs
#   ci/setup.sh --print    lists the packages, marking those that are missing, and installs nothing (also with --tests)
#
# Idempotent: with everything in place it asks no network and needs no root.
set -euo pipefail
cd "$(dirname "$0")/.."

build_packages=(
  build-essential cmake ninja-build git ca-certificates pkg-config
  libgrpc++-dev protobuf-compiler-grpc libprotobuf-dev protobuf-compiler libabsl-dev libssl-dev libnghttp2-dev zlib1g-dev
  libboost-dev nlohmann-json3-dev libyaml-cpp-dev libcli11-dev libspdlog-dev prometheus-cpp-dev
)
test_packages=(
  libgtest-dev libgmock-dev librapidcheck-dev libbenchmark-dev clang-16 libclang-rt-16-dev clang-format-16
  python3 python3-venv python3-yaml curl jq iproute2 openssl procps
  docker-compose patchelf systemd prometheus
)
kubernetes_packages=(
  containerd runc containernetworking-plugins iptables nftables conntrack ethtool socat ebtables ipset zstd openssl python3-yaml
)
rust_minimum=1.82  # of the text crates

tests=false
kubernetes=false
print=false
for argument in "$@"; do
  case $argument in
    --tests) tests=true ;;
    --kubernetes)
      tests=true
      kubernetes=true
      ;;
    --print) print=true ;;
    *)
      echo "usage: ci/setup.sh [--tests] [--kubernetes] [--print]" >&2
      exit 2
      ;;
  esac
done

# A cargo that is new enough, in one of the places where shared/text/CMakeLists.txt looks.
rust_is_present() {
  local cargo version
  for cargo in "${CARGO_HOME:-$HOME/.cargo}/bin/cargo" "/usr/lib/rust-$rust_minimum/bin/cargo" "$(command -v cargo)"; do
    [ -x "$cargo" ] || continue
    version=$("$cargo" --version 2>/dev/null | awk '{print $2}')
    if [ "$(printf '%s\n' "$rust_minimum" "$version" | sort -V | head -n 1)" = "$rust_minimum" ]; then return 0; fi
  done
  return 1
}

packages=("${build_packages[@]}")
if $tests; then packages+=("${test_packages[@]}"); fi
if $kubernetes; then packages+=("${kubernetes_packages[@]}"); fi
if ! rust_is_present; then
  # Debian keeps a current Rust under these names for building browsers; Ubuntu has versioned packages.
  if grep -qs '^ID=ubuntu' /etc/os-release; then
    packages+=("rustc-$rust_minimum" "cargo-$rust_minimum")
  else
    packages+=(rustc-web cargo-web)
  fi
fi

missing=()
for package in "${packages[@]}"; do
  state=$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)
  [ "$state" = installed ] || missing+=("$package")
done

if $print; then
  for package in "${packages[@]}"; do
    case " ${missing[*]} " in
      *" $package "*) echo "$package (missing)" ;;
      *) echo "$package" ;;
    esac
  done
  exit 0
fi

if ((${#missing[@]})); then
  if ! command -v apt-get >/dev/null; then
    echo "error: this system has no apt-get; install by hand what ci/setup.sh --print lists" >&2
    exit 1
  fi
  sudo=()
  if [ "$(id -u)" != 0 ]; then
    if ! command -v sudo >/dev/null; then
      echo "error: ${#missing[@]} packages are missing and there is no sudo; run as root:" >&2
      echo "  apt-get install -y --no-install-recommends ${missing[*]}" >&2
      exit 1
    fi
    sudo=(sudo)
  fi
  echo "installing ${#missing[@]} packages: ${missing[*]}"
  "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get update -q
  "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}"
else
  echo "packages: all ${#packages[@]} are there"
fi

if $tests && [ -f tests/requirements.txt ]; then
  # Of its own, so that no system package is touched; made again when the list changes.
  stamp=.cache/venv/requirements.txt
  if cmp -s tests/requirements.txt "$stamp"; then
    echo "Python packages: all there (.cache/venv)"
  else
    echo "installing the Python packages of tests/requirements.txt into .cache/venv"
    rm -rf .cache/venv
    python3 -m venv .cache/venv
    .cache/venv/bin/pip install --quiet --disable-pip-version-check -r tests/requirements.txt
    cp tests/requirements.txt "$stamp"
  fi
fi
