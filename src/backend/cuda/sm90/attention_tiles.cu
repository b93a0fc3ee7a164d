// Attention of one query row and 64 heads by a block, keys 64 at a time through the warpgroup matrix units; kFast.
//
// Two warpgroups divide the 512 dims: each keeps its half of the queries and of the sums in registers, and converts its
// half of every key to bf16 in shared memory, where it serves as key and as value. A score needs both halves, so the
// warpgroups exchange partial scores and both work the softmax out, to the same bits.
//
// While the matrix units add tile i to the sums, its threads convert tile i + 1, whose bytes were asked for a tile
// earlier; every thread reads back only bytes that it has copied itself, so no barrier stands between.
//
// A cluster of `ranks` blocks may share the keys of a query: each takes an equal stretch, and at the end each puts
// together the sums of its share of the heads out of the others' shared memory, in rank order.
#include <cooperative_groups.h>

#include <algorithm>
#include <bit>
#include <cmath>

#include "backend/cuda/attention_rows.cuh"
#include "backend/cuda/sm90/attention_convert.cuh"
#include "backend/cuda/sm90/attention_tiles.h"
#include "backend/cuda/sm90/attention_wgmma.cuh"
#include "base/check.h"

namespace kvasir::cuda::sm90 {
namespace {

constexpr int kDim = 512;
constexpr int kHeads = 64;
constexpr int kKeys = 64;  // of a tile
constexpr int kThreads = 256;
constexpr int kRowBytes = 576;
constexpr int kPlainBytes = 448;  // e4m3, before 64 bf16
constexpr int kMaskSlots = 4;     // a tile's mask is written two tiles ahead, by warps that may be one ahead of others

struct TileParams {
  KeyPlaces places;
  const float* q;
  const float* sink;
  float* out;
  const float* table;  // null: no norm and no rotations
  int64_t q_row, q_head, out_row, out_head, table_row;
  float eps;
  float score_scale;  // D^-0.5 * log2(e)
  int groups;         // of 64 heads
};

// Shared memory. `tile` and `raw` belong to a warpgroup each in halves, `scale` to a warp in eighths.
struct Space {
  std::byte tile[2][2][kKeys * kDim];             // [stage][warpgroup]: 4 blocks of 64 dims, 64 rows of 128 bytes
  float exchange[2][8][128][4];                   // [warpgroup] partial scores, by thread
  std::byte raw[18][128][16];                     // slots 0..7 of warpgroup 0, 8..17 of warpgroup 1, by thread
  std::byte scale[8][16][8];
  uint16_t mask[kMaskSlots][2][4];                // [warpgroup][warp]: which of its 16 keys count
  float squares[2][kHeads];
  float top[kHeads], total[kHeads];
  float weight[16][kHeads];                       // [rank][head of this block's share]
  alignas(8) std::byte keys[sizeof(RowKeys)];
};
static_assert(sizeof(Space) <= 227 * 1024);
static_assert(sizeof(Space::tile) == kHeads * kDim * sizeof(float));  // where a rank leaves its sums

__device__ __forceinline__ void sync_named(int id, int threads) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory"); }
__device__ __forceinline__ void arrive_named(int id, int threads) { asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory"); }
enum Barrier : int { kWarpgroup = 1, kFull = 3, kFree = 4 };  // kWarpgroup and kFree: one for each warpgroup

// A lane's key of a tile; lanes 16..31 have none.
struct LaneKey {
  const std::byte* data;
  const std::byte* scale;
  bool counts;
};

// What a thread knows of its place.
struct Place {
  int wg = threadIdx.x / 128;
  int thread = threadIdx.x % 128;
  int warp = threadIdx.x / 32 % 4;
  int lane = threadIdx.x % 32;
};

__device__ __forceinline__ LaneKey locate(const TileParams& a, Space& s, const Place& at, int first, int end) {
  const RowKeys& keys = *reinterpret_cast<const RowKeys*>(s.keys);
  LaneKey k{nullptr, nullptr, false};
  if (at.lane >= 16) return k;
  int j = first + 16 * at.warp + at.lane;
  KeyAddress address;
  k.counts = j < end && keys.address(a.places, j, address);
  // Something finite in the place of a key that is none: its weight is zero.
  if (!k.counts) address = {a.places.rows_data + keys.row * kRowBytes, a.places.rows_scale + keys.row * 8};
  k.data = address.data;
  k.scale = address.scale;
  return k;
}

__device__ __forceinline__ const std::byte* row_of(const LaneKey& k, int row) {
  return reinterpret_cast<const std::byte*>(__shfl_sync(~0u, reinterpret_cast<uint64_t>(k.data), row));
}

// Asks for this thread's bytes of a tile: 16 rows a warp, so that lanes side by side read bytes side by side.
__device__ __forceinline__ void request(Space& s, const Place& at, const LaneKey& k, int tile) {
  uint32_t slot = shared_address(s.raw[at.wg == 0 ? 0 : 8][at.thread]);
  constexpr uint32_t kSlot = sizeof(s.raw[0]);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const std::byte* row = row_of(k, 4 * i + at.lane / 8);
    int unit = at.lane % 8 * 16;
    if (at.wg == 0) {
      copy_16(slot + (2 * i) * kSlot, row + unit);
      copy_16(slot + (2 * i + 1) * kSlot, row + 128 + unit);
    } else {
      copy_16(slot + i * kSlot, row + 256 + unit);
      copy_16(slot + (6 + i) * kSlot, row + kPlainBytes + unit);
    }
  }
  if (at.wg == 1) {
#pragma unroll
    for (int i = 0; i < 2; ++i) copy_16(slot + (4 + i) * kSlot, row_of(k, 8 * i + at.lane / 4) + 384 + at.lane % 4 * 16);
  }
  if (at.lane < 16) copy_8(shared_address(s.scale[4 * at.wg + at.warp][at.lane]), k.scale);
  uint32_t counts = __ballot_sync(~0u, k.counts);
  if (at.lane == 0) s.mask[tile % kMaskSlots][at.wg][at.warp] = static_cast<uint16_t>(counts);
  commit_copies();
}

// 16 values of row `row` (of the warp's 16), from dim 64 * block + 16 * quarter of the warpgroup's half.
// `swap`: upper 8 first, where lanes of one store would meet in a bank.
__device__ __forceinline__ void convert_16(uint32_t stage, uint32_t slot, uint32_t scales, const Place& at, int row, int block, int scale_block,
                                           int quarter, bool swap) {
  uint32_t code;
  asm volatile("ld.shared.u8 %0, [%1];" : "=r"(code) : "r"(scales + row * 8 + scale_block));
  RowScale scale(code);
  uint32_t line = stage + block * (kKeys * 128) + (16 * at.warp + row) * 128;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    int half = i ^ static_cast<int>(swap);
    uint4 v = bf16_values(load_shared_8(slot + 8 * half), scale);
    store_shared_16(line + (((2 * quarter + half) ^ (row & 7)) << 4), v);
  }
}

// This thread's bytes of a tile, now here, to bf16 in its warpgroup's half of a stage.
__device__ __forceinline__ void convert(Space& s, const Place& at, int stage_number) {
  wait_copies();
  __syncwarp();  // the scales came by other lanes
  uint32_t stage = shared_address(s.tile[stage_number][at.wg]);
  uint32_t slot = shared_address(s.raw[at.wg == 0 ? 0 : 8][at.thread]);
  uint32_t scales = shared_address(s.scale[4 * at.wg + at.warp]);
  constexpr uint32_t kSlot = sizeof(s.raw[0]);
  int eighth = at.lane % 8, upper = eighth / 4;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    int row = 4 * i + at.lane / 8;
    if (at.wg == 0) {
      convert_16(stage, slot + (2 * i) * kSlot, scales, at, row, upper, upper, eighth % 4, upper);
      convert_16(stage, slot + (2 * i + 1) * kSlot, scales, at, row, 2 + upper, 2 + upper, eighth % 4, upper);
    } else {
      convert_16(stage, slot + i * kSlot, scales, at, row, upper, 4 + upper, eighth % 4, upper);
      uint4 v = load_shared_16(slot + (6 + i) * kSlot);
      store_shared_16(stage + 3 * (kKeys * 128) + (16 * at.warp + row) * 128 + ((eighth ^ (row & 7)) << 4), v);
    }
  }
  if (at.wg == 1) {
#pragma unroll
    for (int i = 0; i < 2; ++i) convert_16(stage, slot + (4 + i) * kSlot, scales, at, 8 * i + at.lane / 4, 2, 6, at.lane % 4, false);
  }
  fence_for_wgmma();
  __syncwarp();  // before other lanes' scales are asked for again
}

// Both rows' queries of this thread as matrix fragments: rows lane/4 and lane/4 + 8 of the warp's 16 heads.
__device__ __forceinline__ void load_queries(const TileParams& a, Space& s, const Place& at, int64_t row, int group, uint32_t (&q)[64]) {
  int g = at.lane / 4, t = at.lane % 4;
  const float* first = a.q + row * a.q_row + (group * kHeads + 16 * at.warp + g) * a.q_head + at.wg * 256 + 2 * t;
  const float* second = first + 8 * a.q_head;
  float scale0 = 1, scale1 = 1;
  if (a.table == nullptr) {
#pragma unroll
    for (int k = 0; k < 16; ++k) {
      float2 v0 = __ldg(reinterpret_cast<const float2*>(first + 16 * k)), v1 = __ldg(reinterpret_cast<const float2*>(second + 16 * k));
      float2 v2 = __ldg(reinterpret_cast<const float2*>(first + 16 * k + 8)), v3 = __ldg(reinterpret_cast<const float2*>(second + 16 * k + 8));
      q[4 * k] = pack_bf16x2(v0.x, v0.y), q[4 * k + 1] = pack_bf16x2(v1.x, v1.y);
      q[4 * k + 2] = pack_bf16x2(v2.x, v2.y), q[4 * k + 3] = pack_bf16x2(v3.x, v3.y);
    }
    return;
  }
  float2 v[64];
  float sum0 = 0, sum1 = 0;
#pragma unroll
  for (int k = 0; k < 16; ++k) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float2 x = v[4 * k + 2 * half] = __ldg(reinterpret_cast<const float2*>(first + 16 * k + 8 * half));
      float2 y = v[4 * k + 2 * half + 1] = __ldg(reinterpret_cast<const float2*>(second + 16 * k + 8 * half));
      sum0 += x.x * x.x + x.y * x.y;
      sum1 += y.x * y.x + y.y * y.y;
    }
  }
#pragma unroll
  for (int distance = 1; distance < 4; distance *= 2) {
    sum0 += __shfl_xor_sync(~0u, sum0, distance);
    sum1 += __shfl_xor_sync(~0u, sum1, distance);
  }
  int head = 16 * at.warp + g;
  if (t == 0) s.squares[at.wg][head] = sum0, s.squares[at.wg][head + 8] = sum1;
  __syncthreads();
  scale0 = rsqrtf((s.squares[0][head] + s.squares[1][head]) / kDim + a.eps);
  scale1 = rsqrtf((s.squares[0][head + 8] + s.squares[1][head + 8]) / kDim + a.eps);
#pragma unroll
  for (int i = 0; i < 64; ++i) {
    float scale = i % 2 == 0 ? scale0 : scale1;
    v[i].x *= scale, v[i].y *= scale;
  }
  if (at.wg == 1) {
    const auto* turns = reinterpret_cast<const float2*>(a.table + row * a.table_row);
#pragma unroll
    for (int k = 12; k < 16; ++k) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float2 turn = __ldg(turns + 8 * (k - 12) + 4 * half + t);
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          float2& x = v[4 * k + 2 * half + r];
          x = {x.x * turn.x - x.y * turn.y, x.x * turn.y + x.y * turn.x};
        }
      }
    }
  }
#pragma unroll
  for (int i = 0; i < 64; ++i) q[i] = pack_bf16x2(v[i].x, v[i].y);
}

// Maximum and sum of the weights of a thread's two rows, in powers of two; `total` is the thread's part of the sum.
struct Softmax {
  float top0 = -INFINITY, top1 = -INFINITY, total0 = 0, total1 = 0;

  // Scores become weights, packed for the matrix units. False: the maxima stand, the sums need no scaling.
  __device__ __forceinline__ bool step(float (&s)[32], float scale, uint64_t mask, int t, uint32_t (&weights)[16], float& shrink0, float& shrink1) {
    if (mask != ~uint64_t{0}) {
#pragma unroll
      for (int i = 0; i < 32; ++i) {
        int key = 8 * (i / 4) + 2 * t + i % 2;
        if (!(mask >> key & 1)) s[i] = -INFINITY;
      }
    }
    float max0 = s[0], max1 = s[2];
#pragma unroll
    for (int i = 0; i < 32; i += 4) {
      max0 = fmaxf(max0, fmaxf(s[i], s[i + 1]));
      max1 = fmaxf(max1, fmaxf(s[i + 2], s[i + 3]));
    }
#pragma unroll
    for (int distance = 1; distance < 4; distance *= 2) {
      max0 = fmaxf(max0, __shfl_xor_sync(~0u, max0, distance));
      max1 = fmaxf(max1, __shfl_xor_sync(~0u, max1, distance));
    }
    max0 = fmaxf(top0, max0 * scale), max1 = fmaxf(top1, max1 * scale);
    bool moved = __any_sync(~0u, max0 != top0 || max1 != top1);
    float base0 = max0 == -INFINITY ? 0 : max0, base1 = max1 == -INFINITY ? 0 : max1;
    shrink0 = exp2_fast(top0 - base0), shrink1 = exp2_fast(top1 - base1);
    top0 = max0, top1 = max1;
    float sum0 = 0, sum1 = 0;
#pragma unroll
    for (int i = 0; i < 32; i += 4) {
      s[i] = exp2_fast(s[i] * scale - base0), s[i + 1] = exp2_fast(s[i + 1] * scale - base0);
      s[i + 2] = exp2_fast(s[i + 2] * scale - base1), s[i + 3] = exp2_fast(s[i + 3] * scale - base1);
      sum0 += s[i] + s[i + 1], sum1 += s[i + 2] + s[i + 3];
      weights[i / 2] = pack_bf16x2(s[i], s[i + 1]);
      weights[i / 2 + 1] = pack_bf16x2(s[i + 2], s[i + 3]);
    }
    total0 = total0 * shrink0 + sum0, total1 = total1 * shrink1 + sum1;
    return moved;
  }
};

// Adds the other warpgroup's part to each score.
__device__ __forceinline__ void exchange(Space& s, const Place& at, float (&scores)[32], bool first, bool last) {
  if (!first) sync_named(kFree + at.wg, 256);
#pragma unroll
  for (int i = 0; i < 8; ++i)
    *reinterpret_cast<float4*>(s.exchange[at.wg][i][at.thread]) = {scores[4 * i], scores[4 * i + 1], scores[4 * i + 2], scores[4 * i + 3]};
  sync_named(kFull, 256);
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    float4 v = *reinterpret_cast<const float4*>(s.exchange[1 - at.wg][i][at.thread]);
    scores[4 * i] += v.x, scores[4 * i + 1] += v.y, scores[4 * i + 2] += v.z, scores[4 * i + 3] += v.w;
  }
  if (!last) arrive_named(kFree + 1 - at.wg, 256);
}

__device__ __forceinline__ float2 turn_back(float2 x, float2 turn) { return {x.x * turn.x + x.y * turn.y, x.y * turn.x - x.x * turn.y}; }

// The block had all keys: divides the sums and writes them.
__device__ __forceinline__ void write_alone(const TileParams& a, const Place& at, int64_t row, int group, const float (&o)[128], const Softmax& m) {
  int g = at.lane / 4, t = at.lane % 4, head = group * kHeads + 16 * at.warp + g;
  constexpr float kLog2e = 1.4426950408889634f;
  float inverse0 = 1 / (m.total0 + exp2_fast(a.sink[head] * kLog2e - m.top0));
  float inverse1 = 1 / (m.total1 + exp2_fast(a.sink[head + 8] * kLog2e - m.top1));
  float* first = a.out + row * a.out_row + head * a.out_head + at.wg * 256 + 2 * t;
  float* second = first + 8 * a.out_head;
  const auto* turns = reinterpret_cast<const float2*>(a.table + row * a.table_row);
#pragma unroll
  for (int j = 0; j < 32; ++j) {
    float2 x = {o[4 * j] * inverse0, o[4 * j + 1] * inverse0}, y = {o[4 * j + 2] * inverse1, o[4 * j + 3] * inverse1};
    if (j >= 24 && at.wg == 1 && a.table != nullptr) {
      float2 turn = __ldg(turns + 4 * (j - 24) + t);
      x = turn_back(x, turn), y = turn_back(y, turn);
    }
    *reinterpret_cast<float2*>(first + 8 * j) = x;
    *reinterpret_cast<float2*>(second + 8 * j) = y;
  }
}

// Leaves this rank's sums in its shared memory (groups of 8 dims at group ^ head % 8), then puts a share of the heads
// together. All threads of all ranks.
__device__ __forceinline__ void write_together(const TileParams& a, Space& s, const Place& at, int64_t row, int group, const float (&o)[128],
                                               const Softmax& m, int ranks) {
  namespace cg = cooperative_groups;
  cg::cluster_group cluster = cg::this_cluster();
  int g = at.lane / 4, t = at.lane % 4;
  auto* sums = reinterpret_cast<float*>(s.tile);
  __syncthreads();  // both warpgroups have read the last tile
  {
    int head = 16 * at.warp + g;
    float* line = sums + head * kDim + at.wg * 256 + 2 * t;
#pragma unroll
    for (int j = 0; j < 32; ++j) {
      *reinterpret_cast<float2*>(line + 8 * (j ^ g)) = {o[4 * j], o[4 * j + 1]};
      *reinterpret_cast<float2*>(line + 8 * kDim + 8 * (j ^ g)) = {o[4 * j + 2], o[4 * j + 3]};
    }
    if (at.wg == 0 && t == 0) {
      s.top[head] = m.top0, s.total[head] = m.total0;
      s.top[head + 8] = m.top1, s.total[head + 8] = m.total1;
    }
  }
  cluster.sync();
  int share = kHeads / ranks, first_head = static_cast<int>(cluster.block_rank()) * share;
  if (threadIdx.x < share) {
    int head = first_head + threadIdx.x;
    constexpr float kLog2e = 1.4426950408889634f;
    float top = -INFINITY;
    for (int r = 0; r < ranks; ++r) top = fmaxf(top, *cluster.map_shared_rank(&s.top[head], r));
    float total = exp2_fast(a.sink[group * kHeads + head] * kLog2e - top);
    for (int r = 0; r < ranks; ++r) {
      float part = exp2_fast(*cluster.map_shared_rank(&s.top[head], r) - top);
      s.weight[r][threadIdx.x] = part;
      total += part * *cluster.map_shared_rank(&s.total[head], r);
    }
    for (int r = 0; r < ranks; ++r) s.weight[r][threadIdx.x] /= total;
  }
  __syncthreads();
  const auto* turns = reinterpret_cast<const float2*>(a.table + row * a.table_row);
  for (int i = threadIdx.x; i < share * (kDim / 4); i += kThreads) {
    int local = i / (kDim / 4), column = i % (kDim / 4), head = first_head + local;
    const float* here = sums + head * kDim + 4 * (column ^ ((head & 7) << 1));
    float4 x = {0, 0, 0, 0};
#pragma unroll 4
    for (int r = 0; r < ranks; ++r) {
      float4 v = *reinterpret_cast<const float4*>(cluster.map_shared_rank(here, r));
      float w = s.weight[r][local];
      x.x += w * v.x, x.y += w * v.y, x.z += w * v.z, x.w += w * v.w;
    }
    if (a.table != nullptr && column >= kPlainBytes / 4) {
      float2 low = turn_back({x.x, x.y}, turns[2 * (column - kPlainBytes / 4)]);
      float2 high = turn_back({x.z, x.w}, turns[2 * (column - kPlainBytes / 4) + 1]);
      x = {low.x, low.y, high.x, high.y};
    }
    *reinterpret_cast<float4*>(a.out + row * a.out_row + (group * kHeads + head) * a.out_head + 4 * column) = x;
  }
  cluster.sync();  // nobody leaves while others read its memory
}

__global__ void __launch_bounds__(kThreads, 1) attend_tiles_kernel(const __grid_constant__ TileParams a, int ranks) {
  extern __shared__ __align__(1024) std::byte memory[];
  Space& s = *reinterpret_cast<Space*>(memory);
  Place at;
  int rank = static_cast<int>(blockIdx.x) & (ranks - 1), item = static_cast<int>(blockIdx.x) / ranks;
  int group = item % a.groups;
  int64_t row = item / a.groups;
  if (threadIdx.x == 0) new (s.keys) RowKeys(a.places, row);
  __syncthreads();
  int count = reinterpret_cast<const RowKeys*>(s.keys)->count;
  int stretch = ((count + ranks - 1) / ranks + 15) / 16 * 16;
  int begin = min(rank * stretch, count), end = min(begin + stretch, count), tiles = (end - begin + kKeys - 1) / kKeys;

  uint32_t q[64];
  if (tiles > 0) request(s, at, locate(a, s, at, begin, end), 0);
  load_queries(a, s, at, row, group, q);
  if (tiles > 0) convert(s, at, 0);
  if (tiles > 1) request(s, at, locate(a, s, at, begin + kKeys, end), 1);
  sync_named(kWarpgroup + at.wg, 128);

  float o[128];
  Softmax softmax;
  if (tiles == 0) {
#pragma unroll
    for (int i = 0; i < 128; ++i) o[i] = 0;
  }
  for (int i = 0; i < tiles; ++i) {
    uint32_t stage = shared_address(s.tile[i & 1][at.wg]);
    LaneKey ahead = locate(a, s, at, begin + (i + 2) * kKeys, end);
    float scores[32];
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < 16; ++k) {
      uint64_t keys = tile_descriptor(stage + (k / 4) * (kKeys * 128) + (k % 4) * 32, 16, 1024);
      wgmma_64x64<0>(scores, q[4 * k], q[4 * k + 1], q[4 * k + 2], q[4 * k + 3], keys, k > 0);
    }
    wgmma_commit();
    wgmma_wait();
    pin(scores);
    exchange(s, at, scores, i == 0, i == tiles - 1);

    uint32_t weights[16];
    float shrink0, shrink1;
    uint64_t mask = *reinterpret_cast<const uint64_t*>(s.mask[i % kMaskSlots][at.wg]);
    if (softmax.step(scores, a.score_scale, mask, at.lane % 4, weights, shrink0, shrink1) && i > 0) {
#pragma unroll
      for (int e = 0; e < 128; e += 4) o[e] *= shrink0, o[e + 1] *= shrink0, o[e + 2] *= shrink1, o[e + 3] *= shrink1;
    }
    pin(o);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      uint64_t values = tile_descriptor(stage + k * 2048, kKeys * 128, 1024);
      wgmma_64x256<1>(o, weights[4 * k], weights[4 * k + 1], weights[4 * k + 2], weights[4 * k + 3], values, i > 0 || k > 0);
    }
    wgmma_commit();
    if (i + 1 < tiles) convert(s, at, (i + 1) & 1);
    if (i + 2 < tiles) request(s, at, ahead, i + 2);
    wgmma_wait();
    pin(o);
    sync_named(kWarpgroup + at.wg, 128);
  }
#pragma unroll
  for (int distance = 1; distance < 4; distance *= 2) {
    softmax.total0 += __shfl_xor_sync(~0u, softmax.total0, distance);
    softmax.total1 += __shfl_xor_sync(~0u, softmax.total1, distance);
  }
  if (ranks == 1) {
    write_alone(a, at, row, group, o, softmax);
  } else {
    write_together(a, s, at, row, group, o, softmax, ranks);
  }
}

// Blocks that share a query: as many as the chip has room for. Within a range the same, so that a row's bits do not
// depend on how many others there are.
int ranks_for(const CudaContext& context, int64_t items) {
  if (context.deterministic) return 8;
  int ranks = 8;
  while (ranks > 1 && items * ranks > context.sm_count) ranks /= 2;
  return items <= 16 ? 8 : ranks;
}

}  // namespace

bool can_attend_tiles(const AttendArgs& a) {
  auto aligned = [](const void* p, uintptr_t bytes) { return reinterpret_cast<uintptr_t>(p) % bytes == 0; };
  bool rows = a.format.quantised && a.format.dim == kDim && a.format.rope_dim == 64 && a.format.data_bytes == kRowBytes && a.format.scale_bytes == 8;
  bool places = a.place.window_data % 16 == 0 && a.place.window_scale % 8 == 0 && a.place.entries.data_offset % 16 == 0 &&
                a.place.entries.scale_offset % 8 == 0 && aligned(a.rows.data, 16) && aligned(a.rows.scale, 8);
  auto vectors = [&](auto v) { return aligned(v.data(), 16) && v.stride(0) % 4 == 0 && v.stride(1) % 4 == 0 && v.stride(2) == 1; };
  return rows && places && vectors(a.q) && vectors(a.out) && a.q.shape(1) % kHeads == 0;
}

void attend_tiles(CudaContext& context, const AttendArgs& a, const AttendHeadsArgs* heads, int ranks) {
  TileParams p{};
  p.places = key_places(a);
  p.q = a.q.data(), p.q_row = a.q.stride(0), p.q_head = a.q.stride(1);
  p.out = a.out.data(), p.out_row = a.out.stride(0), p.out_head = a.out.stride(1);
  p.sink = a.sink.data();
  if (heads) {
    KVASIR_CHECK(heads->table.shape(0) == a.q.shape(0) && heads->table.shape(1) == 32 && heads->table.dense(), "a table of [{}, {}] for {} rows",
                 heads->table.shape(0), heads->table.shape(1), a.q.shape(0));
    p.table = heads->table.data(), p.table_row = heads->table.stride(0), p.eps = heads->eps;
  }
  p.score_scale = static_cast<float>(std::log2(std::exp(1.0)) / std::sqrt(double{kDim}));
  p.groups = static_cast<int>(a.q.shape(1) / kHeads);
  int64_t items = a.q.shape(0) * p.groups;
  if (ranks == 0) ranks = ranks_for(context, items);

  KVASIR_CHECK(cudaFuncSetAttribute(attend_tiles_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, sizeof(Space)) == cudaSuccess &&
                   cudaFuncSetAttribute(attend_tiles_kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1) == cudaSuccess,
               "{} bytes of shared memory were refused", sizeof(Space));
  cudaLaunchAttribute cluster{};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {static_cast<unsigned>(ranks), 1, 1};
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(items * ranks));
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = sizeof(Space);
  config.stream = context.stream;
  config.attrs = &cluster;
  config.numAttrs = 1;
  cudaLaunchKernelEx(&config, attend_tiles_kernel, p, ranks);
}

}  // namespace kvasir::cuda::sm90
