// Batch: what one step computes. The engine fills it; forward() reads it.
#pragma once

#include <span>

#include "ops/kv_page.h"
#include "tensor/view.h"

namespace kvasir {

// One sequence's tokens in this step and the memory of its cache. Pages cover every position up to
// start + tokens - 1.
struct BatchSequence {
  SequenceSpan span;
  std::byte* state = nullptr;         // KvLayout::state_bytes
  std::byte* const* pages = nullptr;  // oldest first, KvLayout::page_bytes each
  // Where rows of closed groups go. Other than `pages` only when those hold all rows of these tokens already and the
  // step is for the windows and tails alone (docs/engine.md, replay): then attention reads the stored rows.
  std::byte* const* written_pages = nullptr;
};

struct Batch {
  View<const int32_t, 1> ids;         // [T] token ids, each below vocab_size
  View<const int32_t, 1> positions;   // [T] position of each row in its own sequence
  std::span<const BatchSequence> sequences;  // rows of one sequence are consecutive, in order
  View<const int32_t, 1> logit_rows;  // [n] rows whose logits are wanted, ascending
};

}  // namespace kvasir
