// ByteRange: a half-open range of bytes in a text. A rendered prompt names the ranges that a client wrote
// with it, and the tokenizer lets no added token match inside them (spec protocol.md, TOK-2).
#pragma once

#include <cstddef>

namespace kvasir {

struct ByteRange {
  size_t begin = 0;
  size_t end = 0;

  bool operator==(const ByteRange&) const = default;
};

}  // namespace kvasir
