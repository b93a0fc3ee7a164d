// What the kFast attention kernels are given, and how it is made from the arguments of the op.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>

#include "backend/cuda/attention.h"
#include "backend/cuda/attention_rows.cuh"
#include "base/check.h"

namespace kvasir::cuda::sm90 {

inline constexpr int kDim = 512;
inline constexpr int kRowBytes = 576;
inline constexpr int kPlainBytes = 448;  // e4m3, before 64 bf16
inline constexpr float kLog2e = 1.4426950408889634f;

struct AttentionParams {
  KeyPlaces places;
  const float* q;
  const float* sink;
  float* out;
  const float* table;  // null: no norm and no rotations
  int64_t q_row, q_head, out_row, out_head, table_row;
  float eps;
  float score_scale;  // D^-0.5 * log2(e)
  int groups;         // of a block's heads
  int page_shift;     // log2 of rows_per_page
};

inline AttentionParams attention_params(const AttendArgs& a, const AttendHeadsArgs* heads,
                                        int heads_per_block) {
  AttentionParams p{};
  p.places = key_places(a);
  p.q = a.q.data(), p.q_row = a.q.stride(0), p.q_head = a.q.stride(1);
  p.out = a.out.data(), p.out_row = a.out.stride(0), p.out_head = a.out.stride(1);
  p.sink = a.sink.data();
  if (heads) {
    KVASIR_CHECK(heads->table.shape(0) == a.q.shape(0) && heads->table.shape(1) == 32 && heads->table.dense(),
                 "a table of [{}, {}] for {} rows", heads->table.shape(0), heads->table.shape(1),
                 a.q.shape(0));
    p.table = heads->table.data(), p.table_row = heads->table.stride(0), p.eps = heads->eps;
  }
  p.score_scale = static_cast<float>(double{kLog2e} / std::sqrt(double{kDim}));
  p.groups = static_cast<int>(a.q.shape(1) / heads_per_block);
  p.page_shift = std::countr_zero(static_cast<uint32_t>(std::max(a.place.entries.rows_per_page, 1)));
  return p;
}

__device__ __forceinline__ float2 turned(float2 x, float2 turn) {
  return {x.x * turn.x - x.y * turn.y, x.x * turn.y + x.y * turn.x};
}
__device__ __forceinline__ float2 turned_back(float2 x, float2 turn) {
  return {x.x * turn.x + x.y * turn.y, x.y * turn.x - x.x * turn.y};
}

// Norm and rotation of a head that a warp has in registers: v[i] are values 4 * (lane + 32 * i) and the three
// after it.
__device__ __forceinline__ void norm_and_turn(const AttentionParams& p, int64_t row, int lane,
                                              float4 (&v)[4]) {
  float sum = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) sum += v[i].x * v[i].x + v[i].y * v[i].y + (v[i].z * v[i].z + v[i].w * v[i].w);
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) sum += __shfl_xor_sync(~0u, sum, distance);
  float scale = rsqrtf(sum / kDim + p.eps);
#pragma unroll
  for (int i = 0; i < 4; ++i) v[i] = {v[i].x * scale, v[i].y * scale, v[i].z * scale, v[i].w * scale};
  if (lane >= 16) {  // of the last 128 values the upper 64
    float4 turn = __ldg(reinterpret_cast<const float4*>(p.table + row * p.table_row) + lane - 16);
    float2 low = turned({v[3].x, v[3].y}, {turn.x, turn.y}),
           high = turned({v[3].z, v[3].w}, {turn.z, turn.w});
    v[3] = {low.x, low.y, high.x, high.y};
  }
}

}  // namespace kvasir::cuda::sm90
