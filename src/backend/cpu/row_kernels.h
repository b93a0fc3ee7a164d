// Kernels that work on one row at a time: norms, rotation, Hadamard, pooling and the encoding of cache rows.
// One copy per instruction set (row_kernels.cc); callers check shapes and split rows over threads.
#pragma once

#include "backend/cpu/per_isa.h"
#include "ops/kv_page.h"

namespace kvasir::cpu {

// A token's part in a pooled group, already moved to the channels it uses there.
struct PoolRow {
  const float* kv = nullptr;
  const float* score = nullptr;
  const float* ape = nullptr;  // null: `score` contains it
};

struct RowKernels {
  // out = weight * (x * rsqrt(mean(x^2) + eps)), rounded to bf16 if `round`. out may be x; weight null: all
  // ones.
  void (*rms_norm)(const float* x, const float* weight, float eps, int64_t n, bool round, float* out);
  // x *= rsqrt(mean(x^2) + eps) in bf16 arithmetic: every square, the mean, mean + eps, the rsqrt and every
  // product is rounded (the official q norm, ops/rope.h).
  void (*bf16_norm)(float* x, float eps, int64_t n);
  // Rotates n values (n / 2 pairs) by table [n/2][2]; sin_sign -1 is the inverse. Rounded to bf16 if `round`.
  void (*rope)(float* x, const float* table, int64_t n, float sin_sign, bool round);
  // Orthonormal Walsh-Hadamard transform of n values, n a power of two.
  void (*hadamard)(float* x, int64_t n, bool round);
  // out[e] = sum_i softmax_i(score_i[e] + ape_i[e]) * kv_i[e] over `count` rows.
  void (*pool)(const PoolRow* rows, int64_t count, int64_t dim, bool round, float* out);
  // As encode_row (ops/kv_page.h), the same bits.
  void (*encode)(const KvRowFormat& format, const float* values, std::byte* data, std::byte* scale);
  // x <- what FP4 per 32 values keeps of it.
  void (*round_trip_fp4)(float* x, int64_t n);
  // scores[e] = sqrt(softplus(logits[e])).
  void (*gate_scores)(const float* logits, int64_t n, float* scores);
  // out = a + b.
  void (*add)(const float* a, const float* b, int64_t n, bool round, float* out);
};

KVASIR_PER_ISA(RowKernels, row_kernels)

}  // namespace kvasir::cpu
