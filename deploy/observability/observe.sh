#!/usr/bin/env bash
# Prometheus and Alertmanager beside the runs of this checkout, until Ctrl-C. Both listen on this machine only.
set -euo pipefail
cd "$(dirname "$0")/../.."

need() { # package, then the names that the program goes by
  local package=$1 name
  shift
  for name in "$@"; do
    if command -v "$name"; then return; fi
  done
  echo "expected $1, found none: apt-get install $package" >&2
  exit 64
}

prometheus=$(need prometheus prometheus)
alertmanager=$(need prometheus-alertmanager prometheus-alertmanager alertmanager)
here=deploy/observability
state=runs/.observe
mkdir -p runs/.targets/ray "$state"

trap 'kill $(jobs -p) 2>/dev/null; wait' EXIT
"$alertmanager" --config.file=$here/alertmanager.yml --storage.path="$state/alertmanager" \
  --web.listen-address=127.0.0.1:9093 --cluster.listen-address= --log.level=warn &
"$prometheus" --config.file=$here/prometheus.yml --storage.tsdb.path="$state/prometheus" \
  --web.listen-address=127.0.0.1:9090 --log.level=warn &
echo "Prometheus http://127.0.0.1:9090/alerts   Alertmanager http://127.0.0.1:9093   Ctrl-C ends both"
wait -n
