// Hyper-connection kernels. A mix is a product with 24 rows of fn: tokens are taken in fours and columns in
// blocks, summed over lanes within a chunk and then over chunks in order, whatever the batch.
#include "backend/cpu/hyper_connection_kernels.h"

#include "backend/cpu/simd_attention.h"

namespace kvasir::cpu::KVASIR_ISA {
namespace {

#if defined(__AVX512F__)
constexpr int kTokens = 4, kColumns = 6;
#else
constexpr int kTokens = 2, kColumns = 4;
#endif

float sum_scalar_tail(const float* a, const float* b, int64_t from, int64_t n) {
  float s = 0.f;
  for (int64_t i = from; i < n; ++i) s += a[i] * b[i];
  return s;
}

// dots[i][j] = x[i] . w[j] over n values; sums over lanes, then the tail.
template <int kRows, int kCols>
void dots(const float* const* x, const float* const* w, int64_t n, float (&out)[kRows][kCols]) {
  F32 acc[kRows][kCols];
  for (auto& row : acc)
    for (F32& a : row) a = splat(0.f);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    F32 v[kRows];
    for (int r = 0; r < kRows; ++r) v[r] = load(x[r] + i);
    for (int c = 0; c < kCols; ++c) {
      F32 weight = load(w[c] + i);
      for (int r = 0; r < kRows; ++r) acc[r][c] = fma(v[r], weight, acc[r][c]);
    }
  }
  for (int r = 0; r < kRows; ++r)
    for (int c = 0; c < kCols; ++c) out[r][c] = sum(acc[r][c]) + sum_scalar_tail(x[r], w[c], i, n);
}

template <int kRows, int kCols>
void mix_block(const MixCall& call, int64_t t, int64_t column, int64_t begin, int64_t n, float* const* sums) {
  const float* x[kRows];
  const float* w[kCols];
  for (int r = 0; r < kRows; ++r) x[r] = call.streams[t + r] + begin;
  for (int c = 0; c < kCols; ++c) w[c] = call.fn + (column + c) * call.length + begin;
  float out[kRows][kCols];
  dots<kRows, kCols>(x, w, n, out);
  for (int r = 0; r < kRows; ++r)
    for (int c = 0; c < kCols; ++c) sums[t + r][column + c] = out[r][c];
}

template <int kRows>
void mix_rows(const MixCall& call, int64_t t, int64_t begin, int64_t n, float* const* sums) {
  int64_t column = 0;
  for (; column + kColumns <= call.columns; column += kColumns)
    mix_block<kRows, kColumns>(call, t, column, begin, n, sums);
  for (; column < call.columns; ++column) mix_block<kRows, 1>(call, t, column, begin, n, sums);
  for (int r = 0; r < kRows; ++r) {
    const float* x[1] = {call.streams[t + r] + begin};
    float squares[1][1];
    dots<1, 1>(x, x, n, squares);
    sums[t + r][call.columns] = squares[0][0];
  }
}

void mix_chunk(const MixCall& call, int64_t chunk, float* const* sums) {
  int64_t begin = chunk * kMixChunk, n = call.length - begin < kMixChunk ? call.length - begin : kMixChunk;
  int64_t t = 0;
  for (; t + kTokens <= call.tokens; t += kTokens) mix_rows<kTokens>(call, t, begin, n, sums);
  for (; t < call.tokens; ++t) mix_rows<1>(call, t, begin, n, sums);
}

F32 sigmoid(F32 x) { return splat(1.f) / (splat(1.f) + exp(-x)); }

// Spec 6.2 for kLanes tokens at once, one a lane.
void sinkhorn(F32 (&a)[kMaxStreams][kMaxStreams], int hc, int iters, float eps) {
  for (int j = 0; j < hc; ++j) {
    F32 top = a[j][0], total = splat(0.f);
    for (int k = 1; k < hc; ++k) top = max(top, a[j][k]);
    for (int k = 0; k < hc; ++k) total += a[j][k] = exp(a[j][k] - top);
    for (int k = 0; k < hc; ++k) a[j][k] = a[j][k] / total + splat(eps);
  }
  for (int i = 0; i < iters; ++i) {
    for (int j = 0; i > 0 && j < hc; ++j) {
      F32 total = splat(0.f);
      for (int k = 0; k < hc; ++k) total += a[j][k];
      F32 inverse = splat(1.f) / (total + splat(eps));
      for (int k = 0; k < hc; ++k) a[j][k] *= inverse;
    }
    for (int k = 0; k < hc; ++k) {
      F32 total = splat(0.f);
      for (int j = 0; j < hc; ++j) total += a[j][k];
      F32 inverse = splat(1.f) / (total + splat(eps));
      for (int j = 0; j < hc; ++j) a[j][k] *= inverse;
    }
  }
}

F32 gather_lanes(const float* const* rows, int64_t tokens, int64_t column) {
  float v[kLanes];
  for (int i = 0; i < kLanes; ++i) v[i] = i < tokens ? rows[i][column] : 0.f;
  return load(v);
}
void scatter_lanes(float* const* rows, int64_t tokens, int64_t column, F32 v) {
  float lanes[kLanes];
  store(lanes, v);
  for (int64_t i = 0; i < tokens; ++i) rows[i][column] = lanes[i];
}

// Up to kLanes tokens.
void some_coefficients(const CoefficientCall& c, const float* const* mixes, int64_t tokens, float* const* pre,
                       float* const* post, float* const* comb) {
  int hc = c.hc;
  int64_t columns = c.iters > 0 ? int64_t{2 + hc} * hc : hc;
  F32 mean = gather_lanes(mixes, tokens, columns) / splat(static_cast<float>(c.length));
  F32 root;
  for (int i = 0; i < kLanes; ++i) root[i] = 1.f / __builtin_sqrtf(mean[i] + c.norm_eps);
  auto affine = [&](int64_t column, int64_t scale) {
    return gather_lanes(mixes, tokens, column) * root * splat(c.scale[scale]) + splat(c.base[column]);
  };
  for (int i = 0; i < hc; ++i) scatter_lanes(pre, tokens, i, sigmoid(affine(i, 0)) + splat(c.eps));
  if (c.iters == 0) return;
  for (int i = 0; i < hc; ++i) scatter_lanes(post, tokens, i, splat(2.f) * sigmoid(affine(hc + i, 1)));
  F32 a[kMaxStreams][kMaxStreams];
  for (int j = 0; j < hc; ++j)
    for (int k = 0; k < hc; ++k) a[j][k] = affine(2 * hc + j * hc + k, 2);
  sinkhorn(a, hc, c.iters, c.eps);
  for (int j = 0; j < hc; ++j)
    for (int k = 0; k < hc; ++k) scatter_lanes(comb, tokens, j * hc + k, a[j][k]);
}

void coefficients(const CoefficientCall& c, const float* const* mixes, int64_t tokens, float* const* pre,
                  float* const* post, float* const* comb) {
  for (int64_t t = 0; t < tokens; t += kLanes) {
    int64_t n = tokens - t < kLanes ? tokens - t : kLanes;
    some_coefficients(c, mixes + t, n, pre + t, post == nullptr ? nullptr : post + t,
                      comb == nullptr ? nullptr : comb + t);
  }
}

void collapse(const float* streams, int64_t dim, const float* pre, int hc, int64_t n, bool round, float* x) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    F32 v = splat(pre[0]) * load(streams + i);
    for (int s = 1; s < hc; ++s) v = fma(splat(pre[s]), load(streams + s * dim + i), v);
    store(x + i, round ? round_bf16(v) : v);
  }
  for (; i < n; ++i) {
    F32 v = splat(pre[0]) * splat(streams[i]);
    for (int s = 1; s < hc; ++s) v = fma(splat(pre[s]), splat(streams[s * dim + i]), v);
    x[i] = (round ? round_bf16(v) : v)[0];
  }
}

template <int kStreams>
void expand_streams(float* streams, int64_t dim, const float* y, const float* post, const float* comb, int hc,
                    int64_t n, bool round) {
  const int count = kStreams > 0 ? kStreams : hc;
  auto one = [&](const F32* in, F32 value, int k) {
    F32 v = splat(post[k]) * value;
    for (int j = 0; j < count; ++j) v = fma(splat(comb[j * count + k]), in[j], v);
    return round ? round_bf16(v) : v;
  };
  F32 in[kMaxStreams];
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int j = 0; j < count; ++j) in[j] = load(streams + j * dim + i);
    for (int k = 0; k < count; ++k) store(streams + k * dim + i, one(in, load(y + i), k));
  }
  for (; i < n; ++i) {
    for (int j = 0; j < count; ++j) in[j] = splat(streams[j * dim + i]);
    for (int k = 0; k < count; ++k) streams[k * dim + i] = one(in, splat(y[i]), k)[0];
  }
}

void expand(float* streams, int64_t dim, const float* y, const float* post, const float* comb, int hc,
            int64_t n, bool round) {
  if (hc == 4) {
    expand_streams<4>(streams, dim, y, post, comb, hc, n, round);
  } else {
    expand_streams<0>(streams, dim, y, post, comb, hc, n, round);
  }
}

}  // namespace

extern const HyperConnectionKernels hyper_connection_kernels;
const HyperConnectionKernels hyper_connection_kernels = {mix_chunk, coefficients, collapse, expand};

}  // namespace kvasir::cpu::KVASIR_ISA
