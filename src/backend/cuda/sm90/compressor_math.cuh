// Row arithmetic of kFast, four channels a lane: rotation, Hadamard transform, row formats.
#pragma once

#include <cstdint>

#include "backend/cuda/indexer_codec.cuh"
#include "backend/cuda/sm90/indexer_ptx.cuh"

namespace kvasir::cuda {

// cos and sin of the f32 angle: reduced in f64, then within 2^-21.
__device__ __forceinline__ void cos_sin(float angle, float& cosine, float& sine) {
  double turns = rint(angle * 0.15915494309189535);
  auto rest = static_cast<float>(fma(turns, -6.283185307179586, static_cast<double>(angle)));
  __sincosf(rest, &sine, &cosine);
}

// Orthonormal transform of 128 channels, channel 4 * lane + i in v[i].
__device__ __forceinline__ void hadamard_128(float (&v)[4], int lane) {
  float a = v[0] + v[1], b = v[0] - v[1], c = v[2] + v[3], d = v[2] - v[3];
  v[0] = a + c;
  v[1] = b + d;
  v[2] = a - c;
  v[3] = b - d;
#pragma unroll
  for (int bit = 1; bit < 32; bit *= 2) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float other = __shfl_xor_sync(0xffffffffu, v[i], bit);
      v[i] = lane & bit ? other - v[i] : v[i] + other;
    }
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) v[i] *= 0.08838834764831845f;
}

__device__ __forceinline__ float largest_of(const float (&v)[4]) {
  return fmaxf(fmaxf(fabsf(v[0]), fabsf(v[1])), fmaxf(fabsf(v[2]), fabsf(v[3])));
}

// Largest over the kLanes neighbours of this lane.
template <int kLanes>
__device__ __forceinline__ float max_of_lanes(float x) {
#pragma unroll
  for (int i = 1; i < kLanes; i *= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, i));
  return x;
}

// 1 / the value of a scale byte below 254.
__device__ __forceinline__ float inverse_scale(uint32_t byte) { return __uint_as_float((254 - byte) << 23); }

// Four values of a block of 64 whose 16 lanes all call this: codes, and the block's scale byte.
__device__ __forceinline__ uint32_t encode_e4m3_block(const float (&v)[4], uint32_t& scale) {
  scale = e8m0_scale_byte(fmaxf(max_of_lanes<16>(largest_of(v)), 1e-4f), 448.f);
  float down = inverse_scale(scale);
  return e4m3x4(v[0] * down, v[1] * down, v[2] * down, v[3] * down);
}

// Four values of a block of 32 whose 8 lanes all call this: nibbles, low first, and the block's scale byte.
__device__ __forceinline__ uint32_t encode_e2m1_block(const float (&v)[4], uint32_t& scale) {
  scale = e8m0_scale_byte(fmaxf(max_of_lanes<8>(largest_of(v)), 6 * 0x1p-126f), 6.f);
  float down = inverse_scale(scale);
  return e2m1_code(v[0] * down) | e2m1_code(v[1] * down) << 4 | e2m1_code(v[2] * down) << 8 |
         e2m1_code(v[3] * down) << 12;
}

__device__ __forceinline__ uint2 bf16x4(const float (&v)[4]) {
  __nv_bfloat162 lo = __floats2bfloat162_rn(v[0], v[1]), hi = __floats2bfloat162_rn(v[2], v[3]);
  return {*reinterpret_cast<uint32_t*>(&lo), *reinterpret_cast<uint32_t*>(&hi)};
}

}  // namespace kvasir::cuda
