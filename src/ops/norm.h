// RMS norms. Source: spec 2.3 (end) and step 4.
//
//   out = round( weight * (x * rsqrt(mean(x^2) + eps)) )      one rounding, at the end (kNative)
#pragma once

#include "tensor/view.h"

namespace kvasir {

// Ops::rms_norm, row by row. `out` may be `x`.
struct RmsNormArgs {
  View<const float, 2> x;       // [rows, n]
  View<const float, 1> weight;  // [n]
  float eps = 1e-6f;
  View<float, 2> out;           // [rows, n]
};

}  // namespace kvasir
