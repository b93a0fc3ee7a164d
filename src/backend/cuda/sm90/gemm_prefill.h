// Products with many rows, on the tensor cores: FP8 weights times x in e4m3, bf16 weights times x in bf16.
//
// FP8: x is quantised as the official code does (e4m3 per 128 values, power-of-two scales), so a result lies as far from
// exact as native's. Where native leaves x in bf16 (`wide`), x is the sum of two such e4m3 values, about 8 bits. Sums are
// added in f32 after every 128 products. Takes K in multiples of 256 (bf16: 64) and, for more than one group, n of 128.
#pragma once

#include "backend/cuda/context.h"
#include "backend/cuda/sm90/linear_generic.h"

namespace kvasir::cuda {

// x as the products want it, made once for all weights that meet it. Lives in scratch.
struct PreparedRows {
  void* values = nullptr;   // e4m3 [tokens, parts, groups*k], or bf16 [tokens, groups*k]
  float* scales = nullptr;  // e4m3: [parts, groups*k/128, padded tokens]
  bool bf16 = false;
  int parts = 1;
  int64_t padded_tokens = 0;
};

bool prefill_takes(const GroupedProduct& p);
PreparedRows prepare_rows(CudaContext& context, const GroupedProduct& p);
// Whether what was prepared for `a` serves `b`, given that both have the same x.
inline bool same_preparation(const GroupedProduct& a, const GroupedProduct& b) {
  return a.w.format == b.w.format && (a.wide == b.wide || a.w.format == WeightFormat::kBf16);
}
void product_prefill(CudaContext& context, const GroupedProduct& p, const PreparedRows& x);

}  // namespace kvasir::cuda
