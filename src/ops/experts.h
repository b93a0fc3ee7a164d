// Experts: the routed and the shared clamped SwiGLU, summed. Source: spec 7.2, traps 16 and 17.
//
//   g = min(x w1^T, limit);  u = clamp(x w3^T, -limit, limit);  a = silu(g) * u * route_weight
//   out = sum over the token's experts, ascending expert id, of a w2^T  +  the same of the shared expert (weight 1)
// kNative: activations in front of w1/w3/w2 are e4m3 per 128; g and u are bf16 before the clamp; a is
// rounded to bf16; each expert's output is bf16, the sum is f32 and rounded once at the end.
#pragma once

#include "tensor/quant.h"
#include "tensor/view.h"

namespace kvasir {

struct ExpertWeights {
  WeightMatrix w1;  // gate [I, dim]
  WeightMatrix w3;  // up   [I, dim]
  WeightMatrix w2;  // down [dim, I]
};

// Ops::experts
struct ExpertsArgs {
  View<const float, 2> x;            // [T, dim]
  View<const ExpertWeights, 1> routed;  // [E], where the backend computes
  ExpertWeights routed_like;         // formats and shapes that all of `routed` share; its pointers are not read
  ExpertWeights shared;
  View<const int32_t, 2> experts;    // [T, k] from the gate; a repeated id counts once per slot
  View<const float, 2> weights;      // [T, k]
  float limit = 10.f;                // swiglu_limit
  View<float, 2> out;                // [T, dim]; overlaps no input
};

}  // namespace kvasir
