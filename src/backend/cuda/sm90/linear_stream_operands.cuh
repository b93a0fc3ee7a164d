// x as the second operand of the tensor cores' products, in registers for the whole kernel.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "backend/cuda/sm90/linear_stream_plan.cuh"

namespace kvasir::cuda::streamed {

__device__ __forceinline__ uint32_t pack_f16(float lo, float hi) {
  __half2 h = __floats2half2_rn(lo, hi);
  return *reinterpret_cast<uint32_t*>(&h);
}
__device__ __forceinline__ uint32_t pack_bf16(float lo, float hi) {
  __nv_bfloat162 h = __floats2bfloat162_rn(lo, hi);
  return *reinterpret_cast<uint32_t*>(&h);
}

// A warp's part of x as tensor core operands: for each KB of the slice its 128 bytes of a weight row, for
// each 8 tokens; and for FP8 the scales of the two tokens whose sums a lane holds.
template <int NT, int KC>
struct Operands {
  uint32_t b[KC][NT][16];
  float scale[KC][NT][2];
};

// 128 FP8 weights meet 128 values of x: lane (g, t) holds those at 16t..16t+15 of both halves of token g's.
// Read in whole sectors, four lanes side by side, and exchanged among the four as f16.
__device__ __forceinline__ void operand_f16(const float* x, bool valid, uint32_t (&b)[16],
                                            float (&scale)[2]) {
  const int t = threadIdx.x % 4;
  float4 q[8];
#pragma unroll
  for (int i = 0; i < 8; ++i)
    q[i] = valid ? __ldcg(reinterpret_cast<const float4*>(x) + i * 4 + t) : float4{};
  float amax = 0x1p-100f;
#pragma unroll
  for (float4& v : q) amax = fmaxf(fmaxf(fmaxf(amax, fabsf(v.x)), fmaxf(fabsf(v.y), fabsf(v.z))), fabsf(v.w));
  amax = fmaxf(amax, __shfl_xor_sync(~0u, amax, 1));
  amax = fmaxf(amax, __shfl_xor_sync(~0u, amax, 2));
  const uint32_t exponent = __float_as_uint(amax) >> 23;
  const float down =
      __uint_as_float((268 - exponent) << 23);  // the largest value comes to lie in [2^14, 2^15)
  const float up = __uint_as_float((exponent - 14) << 23);
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    b[2 * i] = pack_f16(q[i].x * down, q[i].y * down);
    b[2 * i + 1] = pack_f16(q[i].z * down, q[i].w * down);
  }
  // Transposes each half's 4 x 4 (lane, quad of values): swaps bit `s` of the lane with bit `s` of the index.
#pragma unroll
  for (int s = 1; s <= 2; s *= 2) {
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      if (i / 2 & s) continue;
      const int other = i + 2 * s;
      const uint32_t got = __shfl_xor_sync(~0u, t & s ? b[i] : b[other], s);
      if (t & s) {
        b[i] = got;
      } else {
        b[other] = got;
      }
    }
  }
  const int token = t * 2;  // of the two sums; token n's scale is in lanes 4n..4n+3
  scale[0] = __shfl_sync(~0u, up, token * 4);
  scale[1] = __shfl_sync(~0u, up, token * 4 + 4);
}

// 64 bf16 weights meet 64 values of x, each the sum of two bf16: lane (g, t) holds those at 8t..8t+7 of both
// halves. Read and exchanged likewise.
__device__ __forceinline__ void operand_bf16(const float* x, bool valid, uint32_t (&b)[16]) {
  const int lane = threadIdx.x % 32, t = lane % 4;
  auto low = [](float value) { return value - __bfloat162float(__float2bfloat16_rn(value)); };
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    uint32_t p[2][4];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float4 q = valid ? __ldcg(reinterpret_cast<const float4*>(x + half * 32) + i * 4 + t) : float4{};
      p[i][0] = pack_bf16(q.x, q.y);
      p[i][1] = pack_bf16(q.z, q.w);
      p[i][2] = pack_bf16(low(q.x), low(q.y));
      p[i][3] = pack_bf16(low(q.z), low(q.w));
    }
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const int from = (lane & ~3) | ((2 * t + j) & 3);  // who read values 8t+4j..8t+4j+3
#pragma unroll
      for (int w = 0; w < 4; ++w) {
        const uint32_t first = __shfl_sync(~0u, p[0][w], from), second = __shfl_sync(~0u, p[1][w], from);
        b[half * 8 + j * 4 + w] = t < 2 ? first : second;
      }
    }
  }
}

template <bool BF16, int NT, int KC>
__device__ __forceinline__ void load_operands(const Plan& plan, const Part& part, Operands<NT, KC>& op) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
  for (int chunk = 0; chunk < KC; ++chunk) {
    const uint32_t at = chunk * kChunk + warp * 128;
#pragma unroll
    for (int nt = 0; nt < NT; ++nt) {
      const int token = nt * 8 + lane / 4;
      const bool valid = token < plan.tokens && at < part.slice_bytes;
      const float* x = part.job.x + token * part.job.x_stride + (part.slice_begin + at) / (BF16 ? 2 : 1);
      if constexpr (BF16) {
        operand_bf16(x, valid, op.b[chunk][nt]);
      } else {
        operand_f16(x, valid, op.b[chunk][nt], op.scale[chunk][nt]);
      }
    }
  }
}

}  // namespace kvasir::cuda::streamed
