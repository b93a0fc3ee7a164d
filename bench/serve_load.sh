#!/usr/bin/env bash
# Server over engine: the same requests through `kvasir serve` and on the engine alone, in turns, one compute thread.
#
#   cmake --preset cpu -DKVASIR_BENCH=ON && cmake --build build --target kvasir serve_load
#   bench/serve_load.sh [ROUNDS] > FILE
#
# Prints the JSON lines of serve_load, then the ratios server / engine of each round and their medians.
set -euo pipefail
cd "$(dirname "$0")/.."
rounds=${1:-6}
folder=$(mktemp -d)
build/kvasir serve --threads 1 --port 0 --cache-dir "$folder/cache" --log-level error > "$folder/ready" &
server=$!
trap 'kill $server; wait $server || true; rm -rf "$folder"' EXIT
until grep -q http "$folder/ready"; do sleep 0.05; done
port=$(sed -n 's|.*http://[^:]*:\([0-9]*\).*|\1|p' "$folder/ready")
for ((round = 0; round < rounds; ++round)); do
  for load in "8 800" "64 250"; do
    # Who goes first alternates, so that a machine that gets slower or faster favours neither.
    order=("$port" engine)
    ((round % 2)) || order=(engine "$port")
    for from in "${order[@]}"; do build/bench/serve_load "$from" $load 64 1; done
  done
done | tee "$folder/rows"
awk -F'[:,]' '
  { of = $2; streams = $4; rate = 0
    for (i = 1; i < NF; ++i) if ($i ~ /^"tokens_per_s"$/) rate = $(i + 1)
    if (of ~ /server/) { server[streams, ++s[streams]] = rate } else { engine[streams, ++e[streams]] = rate } }
  END { for (n in s) {
      line = ""
      for (i = 1; i <= s[n]; ++i) { ratio[i] = server[n, i] / engine[n, i]; line = line sprintf(" %.3f", ratio[i]) }
      for (i = 1; i <= s[n]; ++i) for (j = i + 1; j <= s[n]; ++j) if (ratio[j] < ratio[i]) { t = ratio[i]; ratio[i] = ratio[j]; ratio[j] = t }
      median = s[n] % 2 ? ratio[(s[n] + 1) / 2] : (ratio[s[n] / 2] + ratio[s[n] / 2 + 1]) / 2
      printf "%d streams: server / engine%s, median %.3f\n", n, line, median } }' "$folder/rows"
