#!/usr/bin/env bash
# `make bench`: CPU per request of build/moongate beside Debian's nginx and HAProxy; and without arguments what policies cost and, where the cluster of
# tests/cluster is built, scale against a real API server. Installs what is missing, then measures.
#   tests/bench/run.sh [--seconds N] [--repetitions N] [--scenario S]... [--target T]... [--hosts N] [--connections N]
set -euo pipefail
cd "$(dirname "$0")/../.."

missing=()
for package in nginx haproxy wrk openssl python3; do
  dpkg -s "$package" >/dev/null 2>&1 || missing+=("$package")
done
if [ "${#missing[@]}" -gt 0 ]; then
  echo "installing: ${missing[*]}"
  sudo=""
  [ "$(id -u)" = 0 ] || sudo=sudo
  mkdir -p build/bench
  $sudo apt-get update -qq
  DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends "${missing[@]}" >build/bench/apt.log 2>&1 || { cat build/bench/apt.log; exit 1; }
  # The packages start services of their own where systemd runs; the bench does not want them.
  for service in nginx haproxy; do
    if [[ " ${missing[*]} " == *" $service "* ]] && [ -d /run/systemd/system ]; then $sudo systemctl disable --now "$service" >/dev/null 2>&1 || true; fi
  done
fi
PATH=$PATH:/usr/sbin
[ $# -eq 0 ] || exec python3 tests/bench/bench.py "$@"
status=0
python3 tests/bench/bench.py || status=$?
python3 tests/bench/policies.py || status=$?
built=("${XDG_CACHE_HOME:-$HOME/.cache}"/moongate/cluster/*/controlplane)
if command -v go >/dev/null && [ "$(id -u)" = 0 ] && [ -x "${built[0]}" ]; then
  python3 tests/bench/cluster_scale.py || status=$?
else
  echo "scale against an API server is not measured: it needs root, Go 1.26 and the cluster that \`make test-cluster\` builds (make bench-cluster)"
fi
exit "$status"
