// Device forms of the row formats of ops/kv_page.h and of the roundings of tensor/dtype.h, for the compressor
// and the indexer. Divisions by a scale are exact (powers of two), so every code equals the host's bit for
// bit.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "backend/cuda/codec.cuh"
#include "ops/kv_page.h"

namespace kvasir::cuda {

__device__ __forceinline__ float round_to_bf16(float x) { return __bfloat162float(__float2bfloat16_rn(x)); }

// The scale byte of dtype.h's e8m0_scale_for.
__device__ __forceinline__ uint32_t e8m0_scale_byte(float amax, float max_code) {
  uint32_t u = __float_as_uint(amax * (1.0f / max_code));
  return (u >> 23) + ((u & 0x7fffffu) != 0);
}

// Nearest nibble, ties to the even code.
__device__ __forceinline__ uint32_t e2m1_code(float x) {
  float a = fabsf(x);
  uint32_t c = (a > 0.25f) + (a >= 0.75f) + (a > 1.25f) + (a >= 1.75f) + (a > 2.5f) + (a >= 3.5f) + (a > 5.f);
  return c | (__float_as_uint(x) >> 28 & 8);
}

// Nearest e4m3 code, ties to even, saturating at 448.
__device__ __forceinline__ uint32_t e4m3_code(float x) {
  uint32_t sign = __float_as_uint(x) >> 24 & 0x80;
  float a = fabsf(x);
  if (a >= 448.f) return sign | 0x7e;
  if (a < 0x1p-6f) return sign | static_cast<uint32_t>(rintf(a * 0x1p9f));
  uint32_t b = __float_as_uint(a);
  b += 0x7ffffu + (b >> 20 & 1);
  uint32_t code = (b >> 20) - ((127 - 7) << 3);
  return sign | (code > 0x7e ? 0x7e : code);
}

__device__ __forceinline__ float warp_max(float x) {
  for (int i = 16; i > 0; i /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, i));
  return x;
}

// encode_row of kv_page.h by one block; `values` lies in shared memory and is complete.
__device__ inline void encode_row_by_block(const KvRowFormat& f, const float* values, std::byte* data,
                                           std::byte* scale) {
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
  auto* bytes = reinterpret_cast<uint8_t*>(data);
  auto* scales = reinterpret_cast<uint8_t*>(scale);
  if (!f.quantised) {
    for (int i = threadIdx.x; i < f.dim; i += blockDim.x) reinterpret_cast<float*>(data)[i] = values[i];
    return;
  }
  if (f.rope_dim == 0) {
    for (int b = warp; b < f.dim / 32; b += warps) {
      float v = values[32 * b + lane];
      uint32_t code = e8m0_scale_byte(warp_max(fmaxf(fabsf(v), 6 * 0x1p-126f)), 6.f);
      uint32_t nibble = e2m1_code(v / e8m0_value(code));
      uint32_t high = __shfl_down_sync(0xffffffffu, nibble, 1);
      if (lane % 2 == 0) bytes[16 * b + lane / 2] = static_cast<uint8_t>(nibble | high << 4);
      if (lane == 0) scales[b] = static_cast<uint8_t>(code);
    }
    return;
  }
  int nope = f.dim - f.rope_dim;
  for (int b = warp; b < f.scale_bytes; b += warps) {
    if (b >= nope / 64) {
      if (lane == 0) scales[b] = 0;
      continue;
    }
    float lo = values[64 * b + 2 * lane], hi = values[64 * b + 2 * lane + 1];
    uint32_t code = e8m0_scale_byte(warp_max(fmaxf(fmaxf(fabsf(lo), fabsf(hi)), 1e-4f)), 448.f);
    float s = e8m0_value(code);
    reinterpret_cast<uint16_t*>(bytes)[32 * b + lane] =
        static_cast<uint16_t>(e4m3_code(lo / s) | e4m3_code(hi / s) << 8);
    if (lane == 0) scales[b] = static_cast<uint8_t>(code);
  }
  for (int i = threadIdx.x; i < f.rope_dim; i += blockDim.x)
    reinterpret_cast<__nv_bfloat16*>(bytes + nope)[i] = __float2bfloat16_rn(values[nope + i]);
}

// Element i of a stored index key.
__device__ __forceinline__ float key_element(const KvRowFormat& f, const std::byte* data,
                                             const std::byte* scale, int i) {
  if (!f.quantised) return reinterpret_cast<const float*>(data)[i];
  uint32_t byte = reinterpret_cast<const uint8_t*>(data)[i / 2];
  return e2m1_value(i & 1 ? byte >> 4 : byte & 15) *
         e8m0_value(reinterpret_cast<const uint8_t*>(scale)[i / 32]);
}

}  // namespace kvasir::cuda
