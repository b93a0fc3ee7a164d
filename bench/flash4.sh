#!/usr/bin/env bash
# Records what `kvasir bench` measures on four layers of Flash: one JSON file and one table per numerics.
#   bench/flash4.sh [OUTPUT_FOLDER]        (default: bench/results/cpu-zen5; needs 16 GB of free memory)
# KVASIR names the binary; build it with -DKVASIR_ONEDNN=ON so that the bf16 ceiling is oneDNN's.
set -euo pipefail
cd "$(dirname "$0")/.."

out=${1:-bench/results/cpu-zen5}
kvasir=${KVASIR:-build/kvasir}
mkdir -p "$out"
partial=$(mktemp)
trap 'rm -f "$partial"' EXIT

record() { # NAME FLAGS...
  local name=$1
  shift
  {
    echo "$ kvasir bench --synthetic flash --layers 4 $*"
    echo "# $(git rev-parse --short HEAD), $(date -u +%F), load before the run $(cut -d' ' -f1 /proc/loadavg)"
    "$kvasir" bench --synthetic flash --layers 4 "$@" --out "$out/$name.json"
  } | tee "$partial"
  cp "$partial" "$out/$name.txt"
}

record flash4-fast --context 512,4096,8192,131072 --batch 1,4
record flash4-native --numerics native --context 8192 --batch 1,4
record flash4-exact --numerics exact --context 512 --batch 1,4
