#!/usr/bin/env bash
# Reads every #include "room/..." under src/ and fails on an arrow that the map below does not have: rooms see
# base and what stands beside them, nothing points upward. The map is style.md section 1, followed to the end
# (a room also sees what its own rooms see). A test may include what its room may; it is code of that room.
#
#   layering.sh [SRC]    SRC: another tree to check, for the test of this script
set -euo pipefail

declare -A sees=(
  [base]=""
  [tensor]="base"
  [io]="base tensor"
  [ops]="base tensor"
  [backend/reference]="base tensor ops"
  [backend/cpu]="base tensor ops"
  [backend/cuda]="base tensor ops"
  [backend]="base tensor ops backend/reference backend/cpu backend/cuda"
  [model]="base tensor io ops"
  [cache]="base tensor io"
  [engine]="base tensor io ops model cache"
  [text]="base tensor io"
  [grammar]="base tensor io text"
  [net]="base"
  [router]="base"
  [api]="base tensor io ops model cache engine text grammar router net"
)
everything="base tensor io ops backend/reference backend/cpu backend/cuda backend model cache engine text grammar net router api"
sees[server]="$everything"
sees[cli]="$everything server"

src=${1:-$(cd "$(dirname "$0")/.." && pwd)/src}

# Sets `room` to the room of a path relative to src: its first folder; below backend/, its first two.
room_of() {
  local rest=${1#*/}
  room=${1%%/*}
  if [[ $room == backend && $rest == */* ]]; then room=backend/${rest%%/*}; fi
}

# A backend is checked against the scalar oracle, so its tests may see that too.
allowed() {
  local file=$1 from=$2 to=$3
  [[ $from == "$to" ]] && return 0
  [[ " ${sees[$from]} " == *" $to "* ]] && return 0
  [[ ( $file == *_test.cc || $file == *_test.h ) && $from == backend/* && $to == backend/reference ]]
}

count=0 wrong=0
while IFS=: read -r file line text; do
  file=${file#./}
  target=${text#*\"} target=${target%%\"*}
  room_of "$file" && from=$room
  room_of "$target" && to=$room
  count=$((count + 1))
  if [[ $target != */* ]]; then
    echo "src/$file:$line: \"$target\" names no room; write the path from src/"
    wrong=$((wrong + 1))
  elif [[ ! -v sees[$from] ]]; then
    echo "src/$file:$line: room $from is not in the map of tests/layering.sh"
    wrong=$((wrong + 1))
  elif ! allowed "$file" "$from" "$to"; then
    echo "src/$file:$line: $from may not include $to (\"$target\")"
    wrong=$((wrong + 1))
  fi
done < <(cd "$src" && grep -rnE --include='*.h' --include='*.cc' --include='*.cu' --include='*.cuh' --include='*.inc' \
  '^[[:space:]]*#[[:space:]]*include[[:space:]]*"' .)

if [[ $count -eq 0 ]]; then
  echo "layering: no #include found under $src"
  exit 1
fi
if [[ $wrong -gt 0 ]]; then
  echo "layering: $wrong of $count includes point where they may not"
  exit 1
fi
echo "layering: $count includes, all downward"
