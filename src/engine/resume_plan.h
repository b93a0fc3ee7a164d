// ResumePlan: where a sequence of known tokens starts to compute, given what the cache has of it. Pure.
//
//   snapshot   at S, then forward; rows up to `stored` are in pages already and are not written again
//   replay     no useful snapshot: forward from 128 x layers tokens below the end of the stored pages, with
//   empty
//              windows. A layer's window chains to the one below it, so after 128 tokens per layer every
//              window (and every tail, at a multiple of 128) is what it would have been; attention meanwhile
//              reads stored rows
//   cold       from 0
// Source: DeepSeek-V4 report 3.5 ("zero SWA caching"); docs/engine.md has the argument for exactness.
#pragma once

#include <cstdint>

#include "cache/prefix_cache.h"

namespace kvasir {

struct ResumePlan {
  int64_t start = 0;     // first token to compute
  int64_t stored = 0;    // tokens whose pages are taken over; a multiple of 128
  int64_t snapshot = 0;  // its length, == start; 0: none
  int64_t hit = 0;       // tokens that are not computed again, but for windows
  int64_t replayed = 0;  // of those, computed again for windows

  int64_t computed(int64_t tokens) const { return tokens - start; }
};

// Fewest tokens to compute; between equals the snapshot. `layers` of the trunk.
ResumePlan plan_resume(const PrefixMatch& match, int layers);

}  // namespace kvasir
