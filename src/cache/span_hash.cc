// xxh3-128 over the hash before and the tokens; see span_hash.h.
#include "cache/span_hash.h"

#include <fmt/core.h>
#include <xxhash.h>

#include <charconv>
#include <cstring>
#include <memory>

#include "base/check.h"

namespace kvasir {
namespace {

struct StateDeleter {
  void operator()(XXH3_state_t* state) const { XXH3_freeState(state); }
};

}  // namespace

std::string SpanHash::text() const { return fmt::format("{:016x}{:016x}", high, low); }

Result<SpanHash> SpanHash::parse(std::string_view text) {
  SpanHash h;
  auto word = [](std::string_view digits, uint64_t& out) {
    auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), out, 16);
    return error == std::errc() && end == digits.data() + digits.size();
  };
  if (text.size() != 32 || !word(text.substr(0, 16), h.high) || !word(text.substr(16), h.low)) {
    return Error{ErrorCode::kInvalid,
                 fmt::format("'{}' names no prefix, expected 32 hex digits", text.substr(0, 64))};
  }
  return h;
}

SpanHash root_hash(uint64_t cache_namespace) {
  XXH128_hash_t h = XXH3_128bits_withSeed("kvasir prefix", 13, cache_namespace);
  return {h.high64, h.low64};
}

SpanHash next_hash(SpanHash before, std::span<const int32_t> tokens) {
  static thread_local std::unique_ptr<XXH3_state_t, StateDeleter> state(XXH3_createState());
  KVASIR_CHECK(state != nullptr, "no memory for a hash state");
  uint64_t head[2] = {before.high, before.low};
  XXH3_128bits_reset(state.get());
  XXH3_128bits_update(state.get(), head, sizeof head);
  XXH3_128bits_update(state.get(), tokens.data(), tokens.size_bytes());
  XXH128_hash_t h = XXH3_128bits_digest(state.get());
  return {h.high64, h.low64};
}

}  // namespace kvasir
