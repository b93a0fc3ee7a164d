// SpanHash: names a prefix by its namespace and every token up to the end of one span (a page's worth of
// tokens).
//
// A chain: the hash of a span covers the hash before it and the span's own tokens, so equal hashes mean equal
// prefixes but for a collision, which is why whoever looks up by hash compares the tokens too. xxh3-128:
// fast, not cryptographic. The values are on disk: changing them changes kDiskFormatVersion.
#pragma once

#include <compare>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"

namespace kvasir {

struct SpanHash {
  uint64_t high = 0;
  uint64_t low = 0;
  auto operator<=>(const SpanHash&) const = default;

  // 32 hex digits, for people.
  std::string text() const;
  // Back from text(). kInvalid: anything else.
  static Result<SpanHash> parse(std::string_view text);
};

// The prefix of no tokens.
SpanHash root_hash(uint64_t cache_namespace);
// `before` and then `tokens`.
SpanHash next_hash(SpanHash before, std::span<const int32_t> tokens);

}  // namespace kvasir

template <>
struct std::hash<kvasir::SpanHash> {
  size_t operator()(const kvasir::SpanHash& h) const noexcept { return h.low; }
};
