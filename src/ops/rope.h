// Rotary position embedding on the last R dims of a row, in pairs (2i, 2i+1).
//
//   forward: (a, b) -> (a cos - b sin, a sin + b cos);  inverse: sin -> -sin.
// Angle = float(position) * inv_freq[i], product in f32, then an exact cos and sin of that f32 value.
// YaRN, where a layer has it, is already inside inv_freq; nothing is multiplied by an mscale.
// Source: spec A.5, traps 1-6 and 30.
#pragma once

#include <cstdint>

#include "tensor/view.h"

namespace kvasir {

// cos/sin of one step's positions, filled once per step and rope kind by Ops::rope_table.
struct RopeTableArgs {
  View<const float, 1> inv_freq;     // [R/2]
  View<const int32_t, 1> positions;  // [T]
  View<float, 3> table;              // [T, R/2, 2]: cos, sin
};

// Ops::rope: rotates x[t, h, D-R:D] in place by table[t]. kNative rounds the rotated dims to bf16.
struct RopeArgs {
  View<float, 3> x;            // [T, H, D]
  View<const float, 3> table;  // [T, R/2, 2]
  bool inverse = false;
};

// Ops::head_norm_rope: per head, x *= rsqrt(mean(x^2) + eps) without weight, then rope, in place.
// kNative rounds to bf16 where the official code does: each square, the mean, mean + eps, the rsqrt, each
// product, and again after the rotation (spec 2.3 steps 4, 5). An f32 variance with one rounding differs
// from the recorded attention outputs by 1.5e-2 relative L2, this by 2.5e-3.
struct HeadNormRopeArgs {
  View<float, 3> x;            // [T, H, D]
  View<const float, 3> table;  // [T, R/2, 2]
  float eps = 1e-6f;
};

}  // namespace kvasir
