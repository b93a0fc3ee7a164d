#!/usr/bin/env bash
# layering.sh must find each kind of wrong arrow, and let the right ones be.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT

# expect VERDICT FILE INCLUDE: a tree with this one include passes or fails.
expect() {
  rm -rf "${tree:?}/src"
  mkdir -p "$tree/src/$(dirname "$2")"
  printf '// a file\n  #  include "%s"\n' "$3" >"$tree/src/$2"
  local verdict=passes
  "$here/layering.sh" "$tree/src" >"$tree/out" || verdict=fails
  if [[ $verdict != "$1" ]]; then
    echo "\"$3\" in $2: expected that it $1, but it $verdict:"
    cat "$tree/out"
    exit 1
  fi
}

expect passes model/forward.cc ops/ops.h
expect passes model/forward.cc model/batch.h
expect passes engine/engine.cc tensor/view.h
expect passes cli/main.cc engine/engine.h
expect passes backend/backend.cc backend/cpu/cpu_ops.h
expect passes backend/compressor_test.cc backend/reference/reference_ops.h
expect passes backend/cpu/linear_test.cc backend/reference/reference_ops.h
expect fails backend/cpu/linear.cc backend/reference/reference_ops.h
expect fails backend/cpu/linear.cc backend/backend.h
expect fails model/forward.cc backend/backend.h
expect fails model/forward.cc backend/cpu/isa.h
expect fails base/check.h tensor/view.h
expect fails cache/page_pool.cc model/config.h
expect fails engine/engine.cc text/tokenizer.h
expect fails text/tokenizer.cc model/config.h
expect fails ops/ops.h cli/error.h
expect fails attic/old.cc base/check.h
expect fails model/forward.cc forward.h
rm -rf "$tree/src" && mkdir "$tree/src"
if "$here/layering.sh" "$tree/src" >/dev/null; then
  echo "an empty tree passes"
  exit 1
fi
echo "layering.sh tells right from wrong"
