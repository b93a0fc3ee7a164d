// Kernels of the hyper-connections, one copy per instruction set (hyper_connection_kernels.cc).
#pragma once

#include "backend/cpu/per_isa.h"

namespace kvasir::cpu {

inline constexpr int kMaxStreams = 8;       // hc; V4 has 4
inline constexpr int64_t kMixChunk = 2048;  // of hc*dim: the unit in which mix sums are made and added

// The mix of tokens [0, tokens), one row of `stride` floats per token: columns of fn, then the sum of
// squares.
struct MixCall {
  const float* fn = nullptr;  // [columns, length]
  int64_t columns = 0, length = 0;
  const float* const* streams = nullptr;  // [tokens] rows of `length` floats
  int64_t tokens = 0;
};

struct CoefficientCall {
  const float* base = nullptr;
  const float* scale = nullptr;
  int hc = 0;
  int64_t length = 0;  // hc * dim
  float norm_eps = 0.f, eps = 0.f;
  int iters = 0;  // 0: pre only (the head)
};

struct HyperConnectionKernels {
  // sums[t][0..columns] = chunk `c` of streams[t] . fn[column], and of the squares in column `columns`.
  void (*mix_chunk)(const MixCall& call, int64_t chunk, float* const* sums);
  // Coefficients of `tokens` tokens from their complete mixes: pre [hc]; post [hc] and comb [hc][hc] when
  // iters > 0.
  void (*coefficients)(const CoefficientCall& call, const float* const* mixes, int64_t tokens,
                       float* const* pre, float* const* post, float* const* comb);
  // x = sum_s pre[s] * streams[s * dim ...] over n values from each stream.
  void (*collapse)(const float* streams, int64_t dim, const float* pre, int hc, int64_t n, bool round,
                   float* x);
  // streams[k] <- post[k] * y + sum_j comb[j][k] * streams[j] over n values of each stream.
  void (*expand)(float* streams, int64_t dim, const float* y, const float* post, const float* comb, int hc,
                 int64_t n, bool round);
};

KVASIR_PER_ISA(HyperConnectionKernels, hyper_connection_kernels)

}  // namespace kvasir::cpu
