// Routed and shared experts: which kernels serve a call, and the plain ones that serve any; contract in
// ops/experts.h.
//
// The plain kernels: one warp per (token, slot, unit) for gate and up, one warp per (token, output) for down,
// straight from the stored weights. They know every numerics, format and shape, and are what the tuned
// kernels are held against. kNative rounds activations to the e4m3 grid first (their scales are powers of
// two, so products of codes and scales are the same numbers as products of the rounded values).
#include "backend/cuda/experts.h"

#include <cuda_bf16.h>
#include <cuda_fp8.h>

#include <algorithm>

#include "backend/cuda/codec.cuh"
#include "backend/cuda/sm90/experts_decode.h"
#include "backend/cuda/sm90/experts_prefill.h"
#include "base/check.h"

namespace kvasir::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int64_t kDecodeTokens = 128;  // calls of more go to the grouped products
constexpr int64_t kTokensAtOnce = 512;  // bounds the scratch: 512 * 7 * 3072 floats are 44 MB

__device__ float round_bf16_device(float x) { return __bfloat162float(__float2bfloat16_rn(x)); }

template <WeightFormat kFormat>
__device__ float weight_at(const WeightMatrix& w, int64_t row, int64_t k) {
  if constexpr (kFormat == WeightFormat::kF32) return static_cast<const float*>(w.data)[row * w.cols + k];
  if constexpr (kFormat == WeightFormat::kBf16)
    return __bfloat162float(static_cast<const __nv_bfloat16*>(w.data)[row * w.cols + k]);
  const auto* bytes = static_cast<const uint8_t*>(w.data);
  if constexpr (kFormat == WeightFormat::kFp8Block128)
    return e4m3_value(bytes[row * w.cols + k]) *
           e8m0_value(w.scale[row / 128 * ((w.cols + 127) / 128) + k / 128]);
  const uint8_t pair = bytes[row * (w.cols / 2) + k / 2];
  return e2m1_value((k & 1) ? pair >> 4 : pair & 15) * e8m0_value(w.scale[row * (w.cols / 32) + k / 32]);
}

// The whole warp: row `row` of w times x. Every lane gets the sum.
template <WeightFormat kFormat>
__device__ float warp_dot(const WeightMatrix& w, int64_t row, const float* x) {
  float sum = 0.f;
  for (int64_t k = threadIdx.x % 32; k < w.cols; k += 32)
    sum = fmaf(x[k], weight_at<kFormat>(w, row, k), sum);
  for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(~0u, sum, offset);
  return sum;
}

__device__ float warp_dot_any(const WeightMatrix& w, int64_t row, const float* x) {
  switch (w.format) {
    case WeightFormat::kF32:
      return warp_dot<WeightFormat::kF32>(w, row, x);
    case WeightFormat::kBf16:
      return warp_dot<WeightFormat::kBf16>(w, row, x);
    case WeightFormat::kFp8Block128:
      return warp_dot<WeightFormat::kFp8Block128>(w, row, x);
    case WeightFormat::kFp4Group32:
      return warp_dot<WeightFormat::kFp4Group32>(w, row, x);
    case WeightFormat::kNone:
      break;
  }
  return 0.f;
}

// Rows rounded to e4m3 per 128 with a power-of-two scale (spec A.2). One warp per block of 128.
__global__ void round_e4m3_kernel(const float* in, int64_t in_stride, int64_t rows, int64_t cols,
                                  float* out) {
  const int64_t blocks = (cols + 127) / 128;
  const int64_t at = blockIdx.x * int64_t{kWarps} + threadIdx.x / 32;
  if (at >= rows * blocks) return;
  const int64_t row = at / blocks, begin = at % blocks * 128, end = min(cols, begin + 128);
  float amax = 1e-4f;
  for (int64_t k = begin + threadIdx.x % 32; k < end; k += 32)
    amax = fmaxf(amax, fabsf(in[row * in_stride + k]));
  for (int offset = 16; offset > 0; offset /= 2) amax = fmaxf(amax, __shfl_xor_sync(~0u, amax, offset));
  const uint32_t u = __float_as_uint(amax * (1.0f / 448.f));
  const auto byte = static_cast<uint8_t>((u >> 23) + ((u & 0x7fffffu) != 0));
  const float scale = e8m0_value(byte);
  for (int64_t k = begin + threadIdx.x % 32; k < end; k += 32) {
    const __nv_fp8_e4m3 code(in[row * in_stride + k] / scale);
    out[row * cols + k] = static_cast<float>(code) * scale;
  }
}

struct PlainProblem {
  const ExpertWeights* routed;
  ExpertWeights shared;
  const int32_t* experts;  // [T, k]
  int64_t experts_stride;
  const float* weights;  // [T, k]
  int64_t weights_stride;
  const float* x;  // [T, dim]
  int64_t x_stride;
  float* hidden;          // [T, k + 1, inner]; slot k is the shared expert
  int64_t hidden_stride;  // of a slot: the wider of the routed and the shared inner size
  float* out;
  int64_t out_stride;
  int64_t tokens, dim, routed_inner, shared_inner;
  int k;
  float limit;
  bool native;
};

__global__ __launch_bounds__(kWarps * 32) void plain_gate_up_kernel(PlainProblem p) {
  const int64_t at = blockIdx.x * int64_t{kWarps} + threadIdx.x / 32;
  const int64_t i = at % p.hidden_stride, slot = at / p.hidden_stride % (p.k + 1),
                t = at / p.hidden_stride / (p.k + 1);
  if (t >= p.tokens) return;
  const bool shared = slot == p.k;
  const ExpertWeights& w = shared ? p.shared : p.routed[p.experts[t * p.experts_stride + slot]];
  float a = 0.f;  // past the end of the narrower kind: finite, never read
  if (i < (shared ? p.shared_inner : p.routed_inner)) {
    const float* x = p.x + t * p.x_stride;
    float g = warp_dot_any(w.w1, i, x), u = warp_dot_any(w.w3, i, x);
    if (p.native) g = round_bf16_device(g), u = round_bf16_device(u);
    g = fminf(g, p.limit);
    u = fminf(fmaxf(u, -p.limit), p.limit);
    a = (shared ? 1.f : p.weights[t * p.weights_stride + slot]) * (g / (1.f + expf(-g)) * u);
    if (p.native) a = round_bf16_device(a);
  }
  if (threadIdx.x % 32 == 0) p.hidden[(t * (p.k + 1) + slot) * p.hidden_stride + i] = a;
}

__global__ __launch_bounds__(kWarps * 32) void plain_down_kernel(PlainProblem p) {
  const int64_t at = blockIdx.x * int64_t{kWarps} + threadIdx.x / 32;
  const int64_t e = at % p.dim, t = at / p.dim;
  if (t >= p.tokens) return;
  const int32_t* chosen = p.experts + t * p.experts_stride;
  float sum = 0.f;
  int last_expert = -1, last_slot = -1;
  for (int n = 0; n <= p.k; ++n) {
    // The next slot in ascending (expert, slot) order; then the shared expert.
    int slot = p.k, expert = INT_MAX;
    for (int s = 0; s < p.k && n < p.k; ++s) {
      const int c = chosen[s];
      const bool after = c > last_expert || (c == last_expert && s > last_slot);
      if (after && c < expert) slot = s, expert = c;
    }
    last_expert = expert, last_slot = slot;
    const ExpertWeights& w = slot == p.k ? p.shared : p.routed[expert];
    const float y = warp_dot_any(w.w2, e, p.hidden + (t * (p.k + 1) + slot) * p.hidden_stride);
    sum += p.native ? round_bf16_device(y) : y;
  }
  if (threadIdx.x % 32 == 0) p.out[t * p.out_stride + e] = p.native ? round_bf16_device(sum) : sum;
}

unsigned blocks_for(int64_t warps) { return static_cast<unsigned>((warps + kWarps - 1) / kWarps); }

void round_e4m3(CudaContext& context, const float* in, int64_t in_stride, int64_t rows, int64_t cols,
                float* out) {
  round_e4m3_kernel<<<blocks_for(rows * ((cols + 127) / 128)), kWarps * 32, 0, context.stream>>>(
      in, in_stride, rows, cols, out);
}

bool is_scaled(const WeightMatrix& w) {
  return w.format == WeightFormat::kFp8Block128 || w.format == WeightFormat::kFp4Group32;
}

// kNative rounds in front of FP8 and FP4 weights only. Routed and shared experts must agree on that, as all
// checkpoints' do: then one rounded copy of the activations serves both.
void plain_experts(CudaContext& context, const ExpertsArgs& a) {
  const int64_t dim = a.x.shape(1), k = a.experts.shape(1);
  const ExpertWeights& like = a.routed_like;
  const bool native = context.numerics == Numerics::kNative;
  const bool quantise = native && is_scaled(like.w1);
  KVASIR_CHECK(!native || (is_scaled(like.w1) == is_scaled(a.shared.w1) &&
                           is_scaled(like.w2) == is_scaled(a.shared.w2)),
               "routed experts of format {} beside a shared expert of format {}",
               static_cast<int>(like.w1.format), static_cast<int>(a.shared.w1.format));
  PlainProblem p{};
  p.routed = a.routed.data();
  p.shared = a.shared;
  p.experts_stride = a.experts.stride(0);
  p.weights_stride = a.weights.stride(0);
  p.x_stride = quantise ? dim : a.x.stride(0);
  p.out_stride = a.out.stride(0);
  p.dim = dim;
  p.k = static_cast<int>(k);
  p.routed_inner = like.w1.rows;
  p.shared_inner = a.shared.w1.rows;
  p.hidden_stride = std::max(p.routed_inner, p.shared_inner);
  p.limit = a.limit;
  p.native = native;
  KVASIR_CHECK(!native || p.hidden_stride % 128 == 0 || p.routed_inner == p.shared_inner,
               "inner sizes {} and {} share no blocks of 128", p.routed_inner, p.shared_inner);
  const int64_t most = std::min(a.x.shape(0), kTokensAtOnce);
  p.hidden = context.scratch.take<float>(most * (k + 1) * p.hidden_stride);
  float* rounded = quantise ? context.scratch.take<float>(most * dim) : nullptr;
  for (int64_t t = 0; t < a.x.shape(0); t += kTokensAtOnce) {
    p.tokens = std::min(kTokensAtOnce, a.x.shape(0) - t);
    p.experts = a.experts.row(t);
    p.weights = a.weights.row(t);
    p.x = a.x.row(t);
    p.out = a.out.row(t);
    if (quantise) {
      round_e4m3(context, p.x, a.x.stride(0), p.tokens, dim, rounded);
      p.x = rounded;
    }
    plain_gate_up_kernel<<<blocks_for(p.tokens * (k + 1) * p.hidden_stride), kWarps * 32, 0,
                           context.stream>>>(p);
    if (native && is_scaled(like.w2))
      round_e4m3(context, p.hidden, p.hidden_stride, p.tokens * (k + 1), p.hidden_stride, p.hidden);
    plain_down_kernel<<<blocks_for(p.tokens * dim), kWarps * 32, 0, context.stream>>>(p);
  }
}

}  // namespace

void experts(CudaContext& context, const ExpertsArgs& a) {
  const int64_t tokens = a.x.shape(0), dim = a.x.shape(1);
  KVASIR_CHECK(a.experts.shape(0) == tokens && a.weights.shape(0) == tokens && a.out.shape(0) == tokens &&
                   a.out.shape(1) == dim && a.experts.shape(1) == a.weights.shape(1),
               "x [{}, {}], experts [{}, {}], weights [{}, {}], out [{}, {}]", tokens, dim,
               a.experts.shape(0), a.experts.shape(1), a.weights.shape(0), a.weights.shape(1), a.out.shape(0),
               a.out.shape(1));
  if (tokens == 0) return;
  if (tokens > kDecodeTokens && experts_prefill_serves(context, a)) return experts_prefill(context, a);
  if (experts_decode_serves(context, a)) return experts_decode(context, a);
  plain_experts(context, a);
}

}  // namespace kvasir::cuda
