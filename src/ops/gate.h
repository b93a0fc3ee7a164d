// Gate: which experts a token goes to, and how much of each. Source: spec 7.1, traps 25 and 26.
//
//   s = sqrt(softplus(logits));  experts: tid2eid[id] (hash layers) or the top k of s + bias, ties: lowest id
//   weight_i = s[expert_i] / sum_i s[expert_i] * scale       (unbiased s in both cases)
#pragma once

#include "tensor/view.h"

namespace kvasir {

// Ops::gate
struct GateArgs {
  View<const float, 2> logits;      // [T, E]
  View<const float, 1> bias;        // [E]; empty in hash layers
  View<const int32_t, 2> tid2eid;   // [vocab, k]; empty in score layers
  View<const int32_t, 1> ids;       // [T]
  float scale = 1.5f;               // routed_scaling_factor
  View<int32_t, 2> experts;         // [T, k] out, descending score (score layers) or table order
  View<float, 2> weights;           // [T, k] out
};

}  // namespace kvasir
