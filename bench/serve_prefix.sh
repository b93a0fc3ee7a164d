#!/usr/bin/env bash
# Time to first token of one long prompt through `kvasir serve`: cold, from memory, from disk after a restart.
#   bench/serve_prefix.sh BUILD TOKENS [serve options...]
# BUILD: a build folder with -DKVASIR_BENCH=ON. Prints one JSON line each; the last has the ratios.
set -euo pipefail
build=$1 tokens=$2
shift 2
cache=$(mktemp -d)
trap 'kill $server 2>/dev/null; wait $server || true; rm -rf "$cache"' EXIT

start() {
  "$build/kvasir" serve --port 0 --cache-dir "$cache" --log-level error "$@" >"$cache/out" &
  server=$!
  until port=$(grep -oE "[0-9]+\$" "$cache/out" 2>/dev/null); do sleep 0.05; done
}
ask() { "$build/bench/serve_load" "$port" 1 4 "$tokens"; }
first() { sed -E 's/.*"first_token_s":\{"p50":([0-9.]+).*/\1/'; }

start "$@"
cold=$(ask); echo "{\"cold\":$cold}"
memory=$(ask); echo "{\"memory\":$memory}"
memory2=$(ask); echo "{\"memory\":$memory2}"
kill -TERM $server; wait $server
start "$@"
disk=$(ask); echo "{\"disk\":$disk}"
c=$(first <<<"$cold") m=$(first <<<"$memory2") d=$(first <<<"$disk")
awk -v c="$c" -v m="$m" -v d="$d" 'BEGIN { printf "{\"memory_over_cold\":%.4f,\"disk_over_cold\":%.4f}\n", m / c, d / c }'
