// Sampling on the device: logits of n rows to n tokens and a stop flag each, in one launch, so that a step
// and its successor fit in one graph. What is drawn is what engine/sampler.h draws.
//
// Covered: greedy (lowest id on ties), temperature, top_k, top_p, min_p in every combination, logit bias, a
// token mask, the random number of (seed, position). Not covered: log probabilities. Same token as the host:
// weights are the host's bit for bit; their sums are f64 on both sides, added in another order. A draw can
// differ only if its point lies within that rounding, some 1e-13 of the sum, of a token's edge; likewise the
// last token that top_p keeps.
#pragma once

#include "backend/cuda/context.h"
#include "tensor/view.h"

namespace kvasir::cuda {

// What one row asks for. Lies in device memory, as do the arrays it points to.
struct SampleRequest {
  float temperature = 1.0f;  // 0: greedy
  float top_p = 1.0f;
  float min_p = 0.0f;
  int32_t top_k = 0;
  uint64_t seed = 0;
  int64_t position = 0;            // where the new token will stand
  const uint32_t* mask = nullptr;  // a bit per token that may come (base/token_constraint.h); null: all may
  const int32_t* bias_ids = nullptr;
  const float* bias = nullptr;     // added to the logits of bias_ids, in this order
  const int32_t* stops = nullptr;  // tokens that end the text
  int32_t bias_count = 0;
  int32_t stop_count = 0;
};

struct SampleArgs {
  View<const float, 2> logits;            // [n, vocab]; rows may be further apart
  View<const SampleRequest, 1> requests;  // [n]
  View<int32_t, 1> ids;                   // [n]
  View<int32_t, 1> stopped;               // [n]: 1 if the id is one of the stops
};
void sample(CudaContext& context, const SampleArgs& args);

}  // namespace kvasir::cuda
