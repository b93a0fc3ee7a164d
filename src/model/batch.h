// Batch: what one step computes. The engine fills it, on the host; Workspace::load takes it to the backend.
#pragma once

#include <span>

#include "ops/kv_page.h"

namespace kvasir {

struct Batch {
  std::span<const int32_t> ids;        // [T] token ids, each below vocab_size
  std::span<const int32_t> positions;  // [T] position of each row in its own sequence
  // Rows of one sequence are consecutive, in order. States and pages lie where the backend computes.
  std::span<const CacheSequence> sequences;
  std::span<const int32_t> logit_rows;  // [n] rows whose logits are wanted, ascending

  int64_t rows() const { return static_cast<int64_t>(ids.size()); }
};

}  // namespace kvasir
