// Linear layers: y = x * W^T with the weight as the checkpoint stores it. Source: spec A.2, 2.4.
#pragma once

#include "tensor/quant.h"
#include "tensor/view.h"

namespace kvasir {

// What happens to the activations on the way in and to the result on the way out under kNative.
// kExact ignores it (f32 in, f32 out). kFast may round the input as it likes within the same intent:
// kQuantised inputs may become int8 or bf16; kBf16 and kFloat inputs at least bf16 wide.
enum class LinearKind : uint8_t {
  kQuantised,  // FP8 and FP4 weights: input to e4m3 per 128 with e8m0 scale, f32 accumulation per block;
               // bf16 and f32 weights: as kBf16. Output to bf16
  kBf16,       // input as it is (it already holds bf16 values); output to bf16   (wo_a, weights_proj)
  kFloat,      // input as it is; output stays f32             (compressor, gate logits, lm head)
};

// Ops::linear. Rows are independent: out[t] depends on x[t] alone, bit for bit in kExact and kNative
// whatever T is, and in kFast for every T in [1, 8].
struct LinearArgs {
  WeightMatrix w;          // [N, K]
  View<const float, 2> x;  // [T, K], rows dense
  View<float, 2> out;      // [T, N], rows dense; overlaps no input
  LinearKind kind = LinearKind::kQuantised;
};

// Ops::grouped_linear: out[t, g, :] = x[t, g, :] * W[g*N : (g+1)*N, :]^T, kind kBf16 (wo_a, spec 2.3 step 14).
struct GroupedLinearArgs {
  WeightMatrix w;          // [G*N, K]
  View<const float, 3> x;  // [T, G, K]
  View<float, 3> out;      // [T, G, N]
};

}  // namespace kvasir
