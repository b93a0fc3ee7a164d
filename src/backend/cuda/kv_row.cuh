// Encoding of cache rows on the device: the bytes of ops/kv_page.h's encode_row, from values in a warp's
// registers or in shared memory. Scales are powers of two, so that dividing by one is exact and the codes are
// the host's.
#pragma once

#include <cuda_fp8.h>

#include <cstddef>
#include <cstdint>

#include "ops/kv_page.h"

namespace kvasir::cuda {

// tensor/dtype.h's e8m0_scale_for.
__device__ inline uint32_t scale_code(float amax, float max_code) {
  uint32_t u = __float_as_uint(amax * (1.0f / max_code));
  return (u >> 23) + ((u & 0x7fffffu) != 0);
}

// 1 / 2^(code - 127), for codes below 254.
__device__ inline float scale_inverse(uint32_t code) { return __uint_as_float((254 - code) << 23); }

__device__ inline uint32_t e4m3_pair(float low, float high) {
  return __nv_cvt_float2_to_fp8x2({low, high}, __NV_SATFINITE, __NV_E4M3);
}

// tensor/dtype.h's to_bf16.
__device__ inline uint32_t bf16_bits(float x) {
  uint32_t u = __float_as_uint(x);
  if ((u & 0x7fffffffu) > 0x7f800000u) return (u >> 16) | 0x40;
  return (u + 0x7fffu + ((u >> 16) & 1)) >> 16;
}

// A quantised entry of 512 values, the last 64 rotated, by one warp: lane l holds values 4 (32 i + l) to + 3
// in v[i].
__device__ inline void encode_entry_512(const float4 (&v)[4], std::byte* data, std::byte* scale) {
  int lane = threadIdx.x % 32;
  uint32_t codes[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {  // 16 lanes hold a block of 64
    float amax =
        fmaxf(fmaxf(fmaxf(fabsf(v[i].x), fabsf(v[i].y)), fmaxf(fabsf(v[i].z), fabsf(v[i].w))), 1e-4f);
#pragma unroll
    for (int distance = 8; distance > 0; distance /= 2)
      amax = fmaxf(amax, __shfl_xor_sync(~0u, amax, distance));
    codes[i] = scale_code(amax, 448.f);
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (i == 3 && lane >= 16) {
      uint2 bits = {bf16_bits(v[i].x) | bf16_bits(v[i].y) << 16, bf16_bits(v[i].z) | bf16_bits(v[i].w) << 16};
      reinterpret_cast<uint2*>(data + 448)[lane - 16] = bits;
    } else {
      float f = scale_inverse(codes[i]);
      reinterpret_cast<uint32_t*>(data)[32 * i + lane] =
          e4m3_pair(v[i].x * f, v[i].y * f) | e4m3_pair(v[i].z * f, v[i].w * f) << 16;
    }
  }
  // Seven scales and a zero: even ones from lane 0, odd ones from lane 16.
  uint32_t mine = codes[0] | codes[1] << 16, rest = codes[2] | (lane < 16 ? codes[3] << 16 : 0);
  uint32_t other = __shfl_xor_sync(~0u, mine, 16), other_rest = __shfl_xor_sync(~0u, rest, 16);
  if (lane == 0) *reinterpret_cast<uint2*>(scale) = {mine | other << 8, rest | other_rest << 8};
}

// Any entry, by one block; `values` lies in shared memory and is complete.
__device__ inline void encode_entry_by_block(const KvRowFormat& f, const float* values, std::byte* data,
                                             std::byte* scale) {
  if (!f.quantised) {
    for (int i = threadIdx.x; i < f.dim; i += blockDim.x) reinterpret_cast<float*>(data)[i] = values[i];
    return;
  }
  int plain = f.dim - f.rope_dim, warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
  for (int b = warp; b < f.scale_bytes; b += warps) {
    uint32_t code = 0;
    if (b < plain / 64) {
      float low = values[64 * b + 2 * lane], high = values[64 * b + 2 * lane + 1];
      float amax = fmaxf(fmaxf(fabsf(low), fabsf(high)), 1e-4f);
#pragma unroll
      for (int distance = 16; distance > 0; distance /= 2)
        amax = fmaxf(amax, __shfl_xor_sync(~0u, amax, distance));
      code = scale_code(amax, 448.f);
      float inverse = scale_inverse(code);
      reinterpret_cast<uint16_t*>(data)[32 * b + lane] =
          static_cast<uint16_t>(e4m3_pair(low * inverse, high * inverse));
    }
    if (lane == 0) scale[b] = static_cast<std::byte>(code);
  }
  for (int i = threadIdx.x; i < f.rope_dim; i += blockDim.x)
    reinterpret_cast<uint16_t*>(data + plain)[i] = static_cast<uint16_t>(bf16_bits(values[plain + i]));
}

}  // namespace kvasir::cuda
