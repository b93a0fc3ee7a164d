// Product of dequantised operands, f32; see linear_generic.h.
//
// A block computes kTileRows weight rows for BM tokens. K goes by in blocks of 128 (the activation's
// quantisation block): the block's x is brought to shared memory (and through e4m3 when asked), then the
// weights in four parts of
// 32. Each output sums 128 products, then adds them to its total: 128 + K/128 roundings deep instead of K.
#include <cuda_bf16.h>
#include <cuda_fp8.h>

#include "backend/cuda/codec.cuh"
#include "backend/cuda/sm90/linear_generic.h"

namespace kvasir::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kTileRows = 64;
constexpr int kBlockK = 128;
constexpr int kPartK = 32;

// v through the e4m3 code of its block and back (spec A.2, ops: tensor/dtype.h e8m0_scale_for).
__device__ float through_e4m3(float v, float scale) {
  return e4m3_value(__nv_cvt_float_to_fp8(v / scale, __NV_SATFINITE, __NV_E4M3)) * scale;
}

__device__ float block_scale(float amax) {
  uint32_t u = __float_as_uint(fmaxf(amax, 1e-4f) * (1.0f / 448.f));
  return e8m0_value((u >> 23) + ((u & 0x7fffffu) != 0));
}

// BM tokens a block, TM x TN outputs a thread.
template <int BM, int TM, int TN>
__global__ void __launch_bounds__(kThreads) generic_kernel(GroupedProduct p) {
  static_assert(BM / TM * (kTileRows / TN) == kThreads);
  __shared__ float xs[kBlockK][BM + 1];
  __shared__ float ws[kPartK][kTileRows + 1];
  const int tid = threadIdx.x, lane = tid % 32, warp = tid / 32;
  const int64_t n0 = int64_t{blockIdx.x} * kTileRows, t0 = int64_t{blockIdx.y} * BM, group = blockIdx.z;
  const int token = tid % (BM / TM) * TM, row = tid / (BM / TM) * TN;
  float total[TM][TN] = {};
  for (int64_t k0 = 0; k0 < p.k; k0 += kBlockK) {
    __syncthreads();
    for (int i = warp; i < BM; i += kThreads / 32) {
      const int64_t t = t0 + i;
      const float* x = p.x + (t * p.groups + group) * p.k;
      float v[kBlockK / 32], amax = 0.f;
#pragma unroll
      for (int j = 0; j < kBlockK / 32; ++j) {
        int64_t k = k0 + j * 32 + lane;
        v[j] = t < p.tokens && k < p.k ? x[k] : 0.f;
        amax = fmaxf(amax, fabsf(v[j]));
      }
      if (p.quantise) {
        for (int d = 16; d > 0; d /= 2) amax = fmaxf(amax, __shfl_xor_sync(~0u, amax, d));
        const float scale = block_scale(amax);
#pragma unroll
        for (float& value : v) value = through_e4m3(value, scale);
      }
#pragma unroll
      for (int j = 0; j < kBlockK / 32; ++j) xs[j * 32 + lane][i] = v[j];
    }
    float sum[TM][TN] = {};
    for (int part = 0; part < kBlockK; part += kPartK) {
      __syncthreads();
      for (int i = tid; i < kTileRows * kPartK; i += kThreads) {
        const int64_t k = k0 + part + i % kPartK, n = n0 + i / kPartK;
        ws[i % kPartK][i / kPartK] = n < p.n && k < p.k ? weight_value(p.w, group * p.n + n, k) : 0.f;
      }
      __syncthreads();
#pragma unroll 4
      for (int k = 0; k < kPartK; ++k) {
        float a[TM], b[TN];
#pragma unroll
        for (int i = 0; i < TM; ++i) a[i] = xs[part + k][token + i];
#pragma unroll
        for (int j = 0; j < TN; ++j) b[j] = ws[k][row + j];
#pragma unroll
        for (int i = 0; i < TM; ++i)
#pragma unroll
          for (int j = 0; j < TN; ++j) sum[i][j] = fmaf(a[i], b[j], sum[i][j]);
      }
    }
#pragma unroll
    for (int i = 0; i < TM; ++i)
#pragma unroll
      for (int j = 0; j < TN; ++j) total[i][j] += sum[i][j];
  }
#pragma unroll
  for (int i = 0; i < TM; ++i) {
    const int64_t t = t0 + token + i;
    if (t >= p.tokens) continue;
#pragma unroll
    for (int j = 0; j < TN; ++j) {
      if (n0 + row + j >= p.n) continue;
      float y = total[i][j];
      p.out[(t * p.groups + group) * p.n + n0 + row + j] =
          p.round ? __bfloat162float(__float2bfloat16_rn(y)) : y;
    }
  }
}

}  // namespace

void product_generic(CudaContext& context, const GroupedProduct& p) {
  if (p.tokens == 0 || p.n == 0) return;
  auto grid = [&](int64_t bm) {
    return dim3(static_cast<unsigned>((p.n + kTileRows - 1) / kTileRows),
                static_cast<unsigned>((p.tokens + bm - 1) / bm), static_cast<unsigned>(p.groups));
  };
  if (p.tokens <= 8) {
    generic_kernel<8, 1, 4><<<grid(8), kThreads, 0, context.stream>>>(p);
  } else {
    generic_kernel<64, 4, 8><<<grid(64), kThreads, 0, context.stream>>>(p);
  }
}

}  // namespace kvasir::cuda
