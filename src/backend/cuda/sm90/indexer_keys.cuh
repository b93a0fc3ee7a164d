// FP4 index keys as e4m3 operands of wgmma, and queries to match.
//
// A key row is four blocks of 32 e2m1 values with a power of two each. Relative to the row's largest scale
// every value is a multiple of 2^-9 not above 6 as long as the scales of the row span at most 8 binades, so
// its e4m3 code is exact; what lies deeper is rounded there, at most 2^-10 beside values of 6. The row's
// largest scale multiplies the score, since relu(c x) = c relu(x).
//
// A thread holds one block of a row (16 bytes): lane % 4 chooses the block, lane / 4 the row of an A
// fragment, and word s of the block is its part of k step s. So channel 32 l + 8 s + 4 half + byte meets
// column 32 s + 16 half + 4 l + byte of the queries, which are laid out that way.
#pragma once

#include <cuda_fp16.h>

#include <cstdint>

#include "backend/cuda/indexer_codec.cuh"
#include "backend/cuda/sm90/compressor_math.cuh"
#include "backend/cuda/sm90/indexer_ptx.cuh"

namespace kvasir::cuda {

inline constexpr int kIndexHeads = 64;
inline constexpr int kIndexDim = 128;
inline constexpr int kKeyBytes = 64;          // data of a row; the scales are 4 bytes
inline constexpr int kScaleTables = 16;       // binades below the row's largest scale
inline constexpr float kQueryLargest = 64.f;  // dots stay below 128 * 6 * 64, inside f16

// Table `down`: the e4m3 codes of {0, .5, 1, 1.5, 2, 3, 4, 6} * 2^-down.
__device__ __forceinline__ uint2 scale_table(int down) {
  float s = __uint_as_float(static_cast<uint32_t>(127 - down) << 23);
  return {e4m3x4(0.f, .5f * s, s, 1.5f * s), e4m3x4(2.f * s, 3.f * s, 4.f * s, 6.f * s)};
}

// prmt without the mask that __byte_perm puts on its selector.
__device__ __forceinline__ uint32_t permute_bytes(uint32_t low, uint32_t high, uint32_t selector) {
  uint32_t r;
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(r) : "r"(low), "r"(high), "r"(selector));
  return r;
}

// Eight e2m1 nibbles to e4m3: nibbles 0..3 to `low`, 4..7 to `high`. The shifts are multiplications, for
// which a pipe is idle; prmt looks at the low 16 bits of its selector only.
__device__ __forceinline__ void expand_nibbles(uint32_t x, uint2 table, uint32_t& low, uint32_t& high) {
  uint32_t magnitude = x & 0x77777777u, up = x * 16;
  low = permute_bytes(table.x, table.y, magnitude) | (permute_bytes(up, x, 0x5140) & 0x80808080u);
  high = permute_bytes(table.x, table.y, __umulhi(magnitude, 1u << 16)) |
         (permute_bytes(up, x, 0x7362) & 0x80808080u);
}

// The value of a scale byte; 2^-127 counts as nothing.
__device__ __forceinline__ float row_factor(int byte) {
  return __uint_as_float(static_cast<uint32_t>(byte) << 23);
}

// Largest scale byte of a row from the four lanes that hold its blocks.
__device__ __forceinline__ int row_scale(int byte) {
  byte = max(byte, __shfl_xor_sync(0xffffffffu, byte, 1));
  return max(byte, __shfl_xor_sync(0xffffffffu, byte, 2));
}

// Rotation by 32 pairs of cos and sin and the Hadamard transform of one head, four channels a lane
// (index_query).
__device__ __forceinline__ float4 transform_query(float4 x, const float* table, int lane) {
  if (lane >= 16) {
    float4 t = reinterpret_cast<const float4*>(table)[lane - 16];
    x = {x.x * t.x - x.y * t.y, x.x * t.y + x.y * t.x, x.z * t.z - x.w * t.w, x.z * t.w + x.w * t.z};
  }
  float v[4] = {x.x, x.y, x.z, x.w};
  hadamard_128(v, lane);
  return {v[0], v[1], v[2], v[3]};
}

// One head of a query, four channels a lane, to row `head` of the operand at `matrix`; returns the head's
// factor.
__device__ __forceinline__ float store_query_head(uint8_t* matrix, int head, float4 x, int lane) {
  float amax = warp_max(fmaxf(fmaxf(fabsf(x.x), fabsf(x.y)), fmaxf(fabsf(x.z), fabsf(x.w))));
  amax = fmaxf(amax, 0x1p-100f);
  float up = kQueryLargest / amax;
  int column = lane % 8 / 2 * 32 + lane % 2 * 16 + lane / 8 * 4;
  *reinterpret_cast<uint32_t*>(matrix + head * kIndexDim + (column ^ head % 8 * 16)) =
      e4m3x4(x.x * up, x.y * up, x.z * up, x.w * up);
  return amax / kQueryLargest;
}

// The weights of a query's heads as fragments of the second product: column 0 the high parts, column 1 the
// low ones. They are brought below 1 by a power of two, whose inverse is returned.
__device__ __forceinline__ float weight_fragments(const float* w, uint4 (&fragments)[2], int lane) {
  float largest = fmaxf(warp_max(fmaxf(fabsf(w[lane]), fabsf(w[lane + 32]))), 0x1p-100f);
  uint32_t exponent = (__float_as_uint(largest) >> 23) + 1, words[8];
  float down = __uint_as_float((254 - exponent) << 23);
  for (int i = 0; i < 8; ++i) {
    int head = i / 2 * 16 + i % 2 * 8 + lane % 4 * 2;
    float x = w[head] * down, y = w[head + 1] * down;
    __half2 part = __floats2half2_rn(x, y);
    if (lane / 4 == 1) part = __floats2half2_rn(x - __low2float(part), y - __high2float(part));
    words[i] = lane / 4 < 2 ? *reinterpret_cast<uint32_t*>(&part) : 0;
  }
  fragments[0] = {words[0], words[1], words[2], words[3]};
  fragments[1] = {words[4], words[5], words[6], words[7]};
  return __uint_as_float(exponent << 23);
}

// Weighted sum over heads of relu(d): column 0 and 1 of `sum` hold the two parts for rows lane / 4 and lane /
// 4 + 8.
__device__ __forceinline__ void sum_heads(const float (&d)[32], const uint4 (&weights)[2], float (&sum)[4]) {
  const uint32_t w[8] = {weights[0].x, weights[0].y, weights[0].z, weights[0].w,
                         weights[1].x, weights[1].y, weights[1].z, weights[1].w};
#pragma unroll
  for (int i = 0; i < 4; ++i) sum[i] = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    mma_16x8x16(sum, relu_f16x2(d[8 * i], d[8 * i + 1]), relu_f16x2(d[8 * i + 2], d[8 * i + 3]),
                relu_f16x2(d[8 * i + 4], d[8 * i + 5]), relu_f16x2(d[8 * i + 6], d[8 * i + 7]), w[2 * i],
                w[2 * i + 1]);
  }
}

// The first product: dots of 64 keys with a query's heads, under way until wgmma_wait.
__device__ __forceinline__ void multiply(float (&d)[32], const uint32_t (&a)[4][4], uint64_t b) {
  wgmma_fence();
#pragma unroll
  for (int k = 0; k < 4; ++k) wgmma_64x64x32(d, a[k], b + 2 * k, k > 0);
  wgmma_commit();
}

}  // namespace kvasir::cuda
