// What comes before and after the products of experts_prefill.cu: pairs sorted by expert, rows rounded to
// e4m3, the largest scales of rows of weights, the weighted sum of a token's outputs. For that one file.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp8.h>

#include "backend/cuda/sm90/moe_ptx.cuh"
#include "ops/experts.h"

namespace kvasir::cuda {
namespace {

using namespace ptx;

constexpr int kTileTokens = 128;

// Tokens [begin, begin + count) of the sorted pairs, all of one expert.
struct Tile {
  int expert, begin, count;
};

// ---- sorting ----

struct Sorting {
  const int32_t* experts;  // [T, k]
  int64_t experts_stride;
  int tokens, k, num_experts;
  int32_t* counts;    // [E]
  int32_t* token_of;  // [T * k] sorted place -> token
  int32_t* place_of;  // [T, k] slot -> sorted place
  Tile* tiles;
  int32_t* tile_count;
};

__device__ bool chosen(const Sorting& s, int pair, int expert) {
  return pair < s.tokens * s.k && s.experts[pair / s.k * s.experts_stride + pair % s.k] == expert;
}

// One block of 256 per expert.
__global__ void count_kernel(Sorting s) {
  let_next_kernel_start();
  wait_for_last_kernel();
  int mine = 0;
  for (int pair = static_cast<int>(threadIdx.x); pair < s.tokens * s.k; pair += 256)
    mine += chosen(s, pair, static_cast<int>(blockIdx.x));
  const int warp_sum = __reduce_add_sync(~0u, mine);
  __shared__ int sums[8];
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = warp_sum;
  __syncthreads();
  if (threadIdx.x == 0) {
    int sum = 0;
    for (int v : sums) sum += v;
    s.counts[blockIdx.x] = sum;
  }
}

// One block of 256 per expert: its pairs in order, and its tiles.
__global__ void place_kernel(Sorting s) {
  let_next_kernel_start();
  wait_for_last_kernel();
  const int expert = static_cast<int>(blockIdx.x), warp = static_cast<int>(threadIdx.x) / 32;
  __shared__ int sums[8], tile_sums[8];
  int before = 0, tiles_before = 0;
  for (int e = static_cast<int>(threadIdx.x); e < expert; e += 256) {
    before += s.counts[e];
    tiles_before += (s.counts[e] + kTileTokens - 1) / kTileTokens;
  }
  before = __reduce_add_sync(~0u, before);
  tiles_before = __reduce_add_sync(~0u, tiles_before);
  if (threadIdx.x % 32 == 0) sums[warp] = before, tile_sums[warp] = tiles_before;
  __syncthreads();
  int place = 0, tile = 0;
  for (int w = 0; w < 8; ++w) place += sums[w], tile += tile_sums[w];
  const int count = s.counts[expert], tiles = (count + kTileTokens - 1) / kTileTokens;
  // Tiles of equal size, a multiple of 16 but for the last: the products come in steps of that.
  const int size = tiles == 0 ? 0 : ((count + tiles - 1) / tiles + 15) / 16 * 16;
  for (int i = static_cast<int>(threadIdx.x); i < tiles; i += 256)
    s.tiles[tile + i] = {expert, place + i * size, min(size, count - i * size)};
  if (expert == s.num_experts - 1 && threadIdx.x == 0) *s.tile_count = tile + tiles;

  for (int first = 0; first < s.tokens * s.k; first += 256) {
    const int pair = first + static_cast<int>(threadIdx.x);
    const bool mine = chosen(s, pair, expert);
    const uint32_t votes = __ballot_sync(~0u, mine);
    __syncthreads();
    if (threadIdx.x % 32 == 0) sums[warp] = __popc(votes);
    __syncthreads();
    int at = place + __popc(votes & ((1u << threadIdx.x % 32) - 1));
    for (int w = 0; w < 8; ++w) {
      if (w < warp) at += sums[w];
      place += sums[w];
    }
    if (mine) {
      s.token_of[at] = pair / s.k;
      s.place_of[pair] = at;
    }
  }
}

// ---- activations ----

__device__ float4 load4(const float* p) { return *reinterpret_cast<const float4*>(p); }
__device__ float4 load4(const __nv_bfloat16* p) {
  const uint2 v = *reinterpret_cast<const uint2*>(p);
  return {__uint_as_float(v.x << 16), __uint_as_float(v.x & 0xffff0000u), __uint_as_float(v.y << 16),
          __uint_as_float(v.y & 0xffff0000u)};
}

// Rows to e4m3, one scale a row. Word w of each 128 columns, which is 4 columns of part w / 8 (a thread's),
// goes to the place where product w / 2 % 4 of the four that 128 columns take reads it.
template <class T>
__global__ __launch_bounds__(128) void round_rows_kernel(const T* in, int64_t in_stride, int cols,
                                                         uint32_t* out, float* scale) {
  let_next_kernel_start();
  wait_for_last_kernel();
  const T* row = in + blockIdx.x * in_stride;
  float amax = 0.f;
  for (int w = static_cast<int>(threadIdx.x); w < cols / 4; w += 128) {
    const float4 v = load4(row + 4 * w);
    amax = fmaxf(amax, fmaxf(fmaxf(fabsf(v.x), fabsf(v.y)), fmaxf(fabsf(v.z), fabsf(v.w))));
  }
  __shared__ float most[4];
  for (int offset = 16; offset > 0; offset /= 2) amax = fmaxf(amax, __shfl_xor_sync(~0u, amax, offset));
  if (threadIdx.x % 32 == 0) most[threadIdx.x / 32] = amax;
  __syncthreads();
  amax = fmaxf(fmaxf(fmaxf(most[0], most[1]), fmaxf(most[2], most[3])), 1e-30f);
  const float up = 448.f / amax;
  for (int w = static_cast<int>(threadIdx.x); w < cols / 4; w += 128) {
    const float4 v = load4(row + 4 * w);
    const uint32_t low = __nv_cvt_float2_to_fp8x2(make_float2(v.x * up, v.y * up), __NV_SATFINITE, __NV_E4M3);
    const uint32_t high =
        __nv_cvt_float2_to_fp8x2(make_float2(v.z * up, v.w * up), __NV_SATFINITE, __NV_E4M3);
    const int in_block = w % 32, part = in_block / 8, product = in_block / 2 % 4, half = in_block % 2;
    out[blockIdx.x * int64_t{cols / 4} + w / 32 * 32 + product * 8 + half * 4 + part] = low | high << 16;
  }
  if (threadIdx.x == 0) scale[blockIdx.x] = amax / 448.f;
}

// The largest scale byte of each row of the experts that anybody chose: of w1's rows, then w3's, then w2's.
struct RowScales {
  const ExpertWeights* routed;
  const int32_t* counts;
  int inner, dim;
  uint8_t* most;  // [E, 2 * inner + dim]
};

__global__ __launch_bounds__(256) void row_scales_kernel(RowScales r) {
  let_next_kernel_start();
  wait_for_last_kernel();
  const int expert = static_cast<int>(blockIdx.y), lane = static_cast<int>(threadIdx.x) % 32;
  if (r.counts[expert] == 0) return;
  const ExpertWeights& e = r.routed[expert];
  const int rows = 2 * r.inner + r.dim;
  for (int at = static_cast<int>(blockIdx.x * 8 + threadIdx.x / 32); at < rows;
       at += static_cast<int>(gridDim.x) * 8) {
    const WeightMatrix& m = at < r.inner ? e.w1 : at < 2 * r.inner ? e.w3 : e.w2;
    const int row = at < r.inner ? at : at < 2 * r.inner ? at - r.inner : at - 2 * r.inner;
    const int words = static_cast<int>(m.cols / 128);
    const auto* scale = reinterpret_cast<const uint32_t*>(m.scale + int64_t{row} * words * 4);
    uint32_t most = 0;
    for (int w = lane; w < words; w += 32) most = __vmaxu4(most, scale[w]);
    most = max(max(most & 255, most >> 8 & 255), max(most >> 16 & 255, most >> 24));
    most = __reduce_max_sync(~0u, most);
    if (lane == 0) r.most[int64_t{expert} * rows + at] = static_cast<uint8_t>(most);
  }
}

// ---- the sum ----

struct Combination {
  const int32_t* experts;
  const float* weights;
  int64_t experts_stride, weights_stride;
  const int32_t* place_of;
  const __nv_bfloat16* y;  // [T * k + T, dim]
  float* out;
  int64_t out_stride;
  int tokens, k, dim;
};

__global__ __launch_bounds__(256) void combine_kernel(Combination c) {
  __shared__ float weight[32];
  __shared__ int64_t row[32];
  let_next_kernel_start();
  wait_for_last_kernel();
  const int t = static_cast<int>(blockIdx.x), slot = static_cast<int>(threadIdx.x);
  const int32_t* experts = c.experts + t * c.experts_stride;
  if (slot < c.k) {
    int rank = 0;  // ascending (expert, slot)
    for (int s = 0; s < c.k; ++s)
      rank += experts[s] < experts[slot] || (experts[s] == experts[slot] && s < slot);
    weight[rank] = c.weights[t * c.weights_stride + slot];
    row[rank] = c.place_of[t * c.k + slot];
  } else if (slot == c.k) {
    weight[slot] = 1.f;
    row[slot] = int64_t{c.tokens} * c.k + t;
  }
  __syncthreads();
  for (int i = 4 * static_cast<int>(threadIdx.x); i < c.dim; i += 1024) {
    float4 sum = {};
    for (int s = 0; s <= c.k; ++s) {
      const float4 y = load4(c.y + row[s] * c.dim + i);
      const float w = weight[s];
      sum = {fmaf(w, y.x, sum.x), fmaf(w, y.y, sum.y), fmaf(w, y.z, sum.z), fmaf(w, y.w, sum.w)};
    }
    *reinterpret_cast<float4*>(c.out + t * c.out_stride + i) = sum;
  }
}

}  // namespace
}  // namespace kvasir::cuda
