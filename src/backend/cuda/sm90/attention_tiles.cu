// Attention of one query row and 64 heads by a block, keys 64 at a time through the warpgroup matrix units;
// kFast.
//
// Three warpgroups. The loader turns stored rows into bf16 in shared memory, where each serves as key and as
// value, two tiles of them. The first consumer scores a tile against the queries, weighs it, and adds its
// left 256 dims to its sums, which stay in registers; the second gets the weights through shared memory and
// adds the right 256 dims. The first asks for the scores of tile i + 1 before the sums of tile i, so that it
// weighs one while the other is added.
//
//   kLoaded[stage]    loader -> first        the tile's rows are there
//   kFree[stage]      both -> loader         its rows are no longer needed
//   kWeighed[stage]   first -> second        its weights and the factors for the sums so far are there
//   kWeightsFree[..]  second -> first        its weights are no longer needed
//
// A cluster of `ranks` blocks may share the keys of a query: each takes an equal stretch, and at the end each
// puts together the sums of its share of the heads out of the others' shared memory, in rank order.
#include <cooperative_groups.h>

#include <algorithm>
#include <cstddef>
#include <new>

#include "backend/cuda/sm90/attention_convert.cuh"
#include "backend/cuda/sm90/attention_params.cuh"
#include "backend/cuda/sm90/attention_tiles.h"
#include "backend/cuda/sm90/attention_wgmma.cuh"

namespace kvasir::cuda::sm90 {
namespace {

constexpr int kHeads = 64;
constexpr int kKeys = 64;  // of a tile
constexpr int kThreads = 384;
constexpr int kWarpKeys = kKeys / 4;
constexpr int kLine = 128;                   // bytes of a row in a block of 64 dims
constexpr int kBlockBytes = 64 * kLine;      // 64 rows of 64 dims, swizzled in 8-row tiles
constexpr int kHalfBytes = 4 * kBlockBytes;  // of a tile's 512 dims
// Registers of a thread after the warpgroups have parted: together no more than three times the 168 before.
constexpr int kConsumerRegisters = 208, kLoaderRegisters = 88;
static_assert(2 * kConsumerRegisters + kLoaderRegisters <= 3 * 168);

struct Space {
  std::byte tile[2][8][kBlockBytes];  // keys, [stage][64 dims]
  std::byte query[8][kBlockBytes];
  std::byte weights[2][kBlockBytes];  // [stage] 64 heads of 64 keys
  float shrink[2][kHeads];
  uint16_t mask[2][4];  // [stage][loader warp]: which of its 16 keys count
  float top[kHeads], total[kHeads];
  float inverse[kHeads];
  float weight[16][kHeads];  // [rank][head of this block's share]
  alignas(8) std::byte keys[sizeof(RowKeys)];
};
static_assert(sizeof(Space) <= 227 * 1024);
static_assert(sizeof(Space::tile) == kHeads * kDim * sizeof(float));  // where a rank leaves its sums

enum Barrier : int { kLoaded = 1, kFree = 3, kWeighed = 5, kWeightsFree = 7, kConsumers = 9 };
__device__ __forceinline__ void sync_at(int barrier, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}
__device__ __forceinline__ void arrive_at(int barrier, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}

__device__ __forceinline__ const RowKeys& row_keys(const Space& s) {
  return *reinterpret_cast<const RowKeys*>(s.keys);
}

// The keys of the block's stretch.
struct Stretch {
  int begin, end, tiles;
};

// --- The loader: thread = 8 rows x 4 quarters of 64 bytes a warp, twice for 16 rows.

// Where one lane's row is, and its seven scales; lane l has row l % 16 of the warp.
struct LaneRow {
  const std::byte* data;
  uint2 scales;
};

// The key of this lane in a tile: an entry, or -2 - j for window key j, or -1 for none.
__device__ __forceinline__ int key_code(const AttentionParams& a, const Space& s, const Stretch& stretch,
                                        int tile) {
  int j = stretch.begin + tile * kKeys + threadIdx.x / 32 % 4 * kWarpKeys + threadIdx.x % kWarpKeys;
  if (j >= stretch.end) return -1;
  const RowKeys& keys = row_keys(s);
  if (j < keys.window_count) return -2 - j;
  j -= keys.window_count;
  return a.places.choice == EntryChoice::kSelected ? __ldg(keys.selected + j) : j;
}

__device__ __forceinline__ const std::byte* key_page(const AttentionParams& a, const Space& s, int code) {
  return code >= 0 ? row_keys(s).pages[code >> a.page_shift] : nullptr;
}

// A key that is none gets the query's own row: something finite, of weight zero.
__device__ __forceinline__ LaneRow key_row(const AttentionParams& a, const Space& s, int code,
                                           const std::byte* page) {
  const RowKeys& keys = row_keys(s);
  KeyAddress at;
  if (code >= 0) {
    int within = code & ((1 << a.page_shift) - 1);
    at = {page + a.places.entries_data + within * kRowBytes, page + a.places.entries_scale + within * 8};
  } else if (code == -1) {
    at = {a.places.rows_data + keys.row * kRowBytes, a.places.rows_scale + keys.row * 8};
  } else {
    at = keys.window_key(a.places, -2 - code);
  }
  return {at.data, __ldg(reinterpret_cast<const uint2*>(at.scale))};
}

// 16-byte piece `piece` of 9 of this thread's row: seven of e4m3, two of bf16.
__device__ __forceinline__ uint4 load_piece(const std::byte* row, int piece) {
  return __ldg(
      reinterpret_cast<const uint4*>(row + (piece < 7 ? 64 * piece : kPlainBytes + 64 * (piece - 7))));
}

__device__ __forceinline__ uint32_t piece_scale(int piece, uint2 scales) {
  return (piece < 4 ? scales.x >> (8 * piece) : scales.y >> (8 * (piece - 4))) & 0xff;
}

__device__ __forceinline__ void store_piece(std::byte* line, int row, int quarter, int piece, uint4 raw,
                                            uint2 scales) {
  if (piece < 7) {
    uint32_t factor = scale_factor(piece_scale(piece, scales));
    std::byte* to = line + piece * kBlockBytes;
    *reinterpret_cast<uint4*>(to + (((2 * quarter) ^ (row & 7)) << 4)) = bf16_values({raw.x, raw.y}, factor);
    *reinterpret_cast<uint4*>(to + (((2 * quarter + 1) ^ (row & 7)) << 4)) =
        bf16_values({raw.z, raw.w}, factor);
  } else {
    *reinterpret_cast<uint4*>(line + 7 * kBlockBytes + (((4 * (piece - 7) + quarter) ^ (row & 7)) << 4)) =
        raw;
  }
}

// The rest of the product where scales are above 2^7: on what this thread has stored.
__device__ __forceinline__ void mend_row(std::byte* line, int row, int quarter, uint2 scales) {
#pragma unroll 1
  for (int piece = 0; piece < 7; ++piece) {
#pragma unroll 1
    for (int half = 0; half < 2; ++half) {
      auto* v =
          reinterpret_cast<uint4*>(line + piece * kBlockBytes + (((2 * quarter + half) ^ (row & 7)) << 4));
      *v = multiply_values(*v, lacking(piece_scale(piece, scales)));
    }
  }
}

__device__ __forceinline__ const std::byte* lane_data(const LaneRow& r, int lane) {
  return reinterpret_cast<const std::byte*>(__shfl_sync(~0u, reinterpret_cast<uint64_t>(r.data), lane));
}
__device__ __forceinline__ uint2 lane_scales(const LaneRow& r, int lane) {
  return {__shfl_sync(~0u, r.scales.x, lane), __shfl_sync(~0u, r.scales.y, lane)};
}

// Converts tile after tile. Half a tile's bytes are always under way: as soon as a piece is converted, the
// same registers ask for the one that comes half a tile later. Entries are looked up two tiles ahead, pages
// one.
__device__ __forceinline__ void load_tiles(const AttentionParams& a, Space& s, const Stretch& stretch) {
  int warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32, quarter = lane % 4;
  int code = key_code(a, s, stretch, 0), code1 = key_code(a, s, stretch, 1),
      code2 = key_code(a, s, stretch, 2);
  const std::byte *page = key_page(a, s, code), *page1 = key_page(a, s, code1);
  LaneRow now = key_row(a, s, code, page);
  uint4 raw[9];
  {
    const std::byte* row = lane_data(now, lane / 4) + 16 * quarter;
#pragma unroll
    for (int p = 0; p < 9; ++p) raw[p] = load_piece(row, p);
  }
  for (int i = 0; i < stretch.tiles; ++i) {
    int stage = i & 1;
    LaneRow next = key_row(a, s, code1, page1);
    uint32_t counts = __ballot_sync(~0u, code != -1);
    code = code1, code1 = code2;
    page1 = key_page(a, s, code1);
    code2 = key_code(a, s, stretch, i + 3);
    if (i >= 2) sync_at(kFree + stage, 384);
    if (lane == 0) s.mask[stage][warp] = static_cast<uint16_t>(counts);
#pragma unroll 1
    for (int m = 0; m < 2; ++m) {
      int row = 8 * m + lane / 4;
      std::byte* line = s.tile[stage][0] + (warp * kWarpKeys + row) * kLine;
      uint2 scales = lane_scales(now, row);
      LaneRow from = m == 0 ? now : next;
      const std::byte* after = lane_data(from, 8 * (1 - m) + lane / 4) + 16 * quarter;
#pragma unroll
      for (int p = 0; p < 9; ++p) {
        store_piece(line, row, quarter, p, raw[p], scales);
        raw[p] = load_piece(after, p);
      }
      if (any_lacking(scales.x) || any_lacking(scales.y)) mend_row(line, row, quarter, scales);
    }
    fence_for_wgmma();
    arrive_at(kLoaded + stage, 256);
    now = next;
  }
}

// --- Queries, by all threads: a warp for a head, normed and rotated where asked, to bf16 as the matrix units
// want it.
__device__ __forceinline__ void load_queries(const AttentionParams& p, Space& s, int64_t row,
                                             int first_head) {
  int lane = threadIdx.x % 32;
  for (int h = threadIdx.x / 32; h < kHeads; h += kThreads / 32) {
    const auto* from = reinterpret_cast<const float4*>(p.q + row * p.q_row + (first_head + h) * p.q_head);
    float4 v[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) v[i] = __ldg(from + lane + 32 * i);
    if (p.table != nullptr) norm_and_turn(p, row, lane, v);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      int dim = 4 * (lane + 32 * i);
      std::byte* line = s.query[dim / 64] + h * kLine;
      *reinterpret_cast<uint2*>(line + ((dim % 64 / 8 ^ (h & 7)) << 4) + dim % 8 * 2) = {
          pack_bf16x2(v[i].x, v[i].y), pack_bf16x2(v[i].z, v[i].w)};
    }
  }
  fence_for_wgmma();
}

// --- The consumers. A thread has rows lane / 4 and lane / 4 + 8 of its warp's 16 heads.

// Maximum and sum of the weights of a thread's two heads, in powers of two; the totals are the thread's part.
struct Softmax {
  float top0 = -INFINITY, top1 = -INFINITY, total0 = 0, total1 = 0;

  // Scores become weights; the sums so far shrink by shrink0, shrink1. False: by nothing.
  __device__ __forceinline__ bool step(float (&s)[32], float scale, uint64_t mask, int t, float& shrink0,
                                       float& shrink1) {
    if (mask != ~uint64_t{0}) {
#pragma unroll
      for (int i = 0; i < 32; ++i) {
        int key = 8 * (i / 4) + 2 * t + i % 2;
        if (!(mask >> key & 1)) s[i] = -INFINITY;
      }
    }
    float max0 = fmaxf(s[0], s[1]), max1 = fmaxf(s[2], s[3]);
#pragma unroll
    for (int i = 4; i < 32; i += 4) {
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
      s[i] = exp2_fast(fmaf(s[i], scale, -base0)), s[i + 1] = exp2_fast(fmaf(s[i + 1], scale, -base0));
      s[i + 2] = exp2_fast(fmaf(s[i + 2], scale, -base1)),
            s[i + 3] = exp2_fast(fmaf(s[i + 3], scale, -base1));
      sum0 += s[i] + s[i + 1], sum1 += s[i + 2] + s[i + 3];
    }
    total0 = total0 * shrink0 + sum0, total1 = total1 * shrink1 + sum1;
    return moved;
  }
};

// Asks for the scores of a tile.
__device__ __forceinline__ void start_scores(uint32_t query, uint32_t tile, float (&scores)[32]) {
  uint32_t a = descriptor_low(query, 16), b = descriptor_low(tile, 16);
  asm volatile(
      ""
      : "+r"(a),
        "+r"(b));  // else all descriptors are made before the loop over tiles and kept, out of registers
#pragma unroll
  for (int k = 0; k < 32; ++k) {
    uint32_t at = (k / 4 * kBlockBytes + k % 4 * 32) >> 4;
    wgmma_64x64(scores, descriptor(a + at, 1024), descriptor(b + at, 1024), k > 0);
  }
  wgmma_commit();
}

__device__ __forceinline__ void shrink_sums(float (&o)[128], float shrink0, float shrink1) {
#pragma unroll
  for (int e = 0; e < 128; e += 4)
    o[e] *= shrink0, o[e + 1] *= shrink0, o[e + 2] *= shrink1, o[e + 3] *= shrink1;
}

// Scores, weights and the left sums.
__device__ __forceinline__ void consume_left(const AttentionParams& a, Space& s, const Stretch& stretch,
                                             float (&o)[128], Softmax& softmax) {
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, head = 16 * warp + g;
  uint32_t query = shared_address(s.query), tiles = shared_address(s.tile);
  float scores[32];
  uint32_t weights[16];
  // Weights of tile i, whose scores are there, for both consumers.
  auto weigh = [&](int i, float& shrink0, float& shrink1) {
    int stage = i & 1;
    uint64_t mask = *reinterpret_cast<const uint64_t*>(s.mask[stage]);
    bool moved = softmax.step(scores, a.score_scale, mask, t, shrink0, shrink1);
    return moved;
  };
  auto hand_over = [&](int i, float shrink0, float shrink1) {
    int stage = i & 1;
    if (i >= 2) sync_at(kWeightsFree + stage, 256);
    std::byte* line = s.weights[stage] + head * kLine + 4 * t;
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      weights[2 * j] = pack_bf16x2(scores[4 * j], scores[4 * j + 1]);
      weights[2 * j + 1] = pack_bf16x2(scores[4 * j + 2], scores[4 * j + 3]);
      *reinterpret_cast<uint32_t*>(line + ((j ^ g) << 4)) = weights[2 * j];
      *reinterpret_cast<uint32_t*>(line + 8 * kLine + ((j ^ g) << 4)) = weights[2 * j + 1];
    }
    if (t == 0) s.shrink[stage][head] = shrink0, s.shrink[stage][head + 8] = shrink1;
    fence_for_wgmma();
    arrive_at(kWeighed + stage, 256);
  };
  float shrink0, shrink1;
  sync_at(kLoaded, 256);
  wgmma_fence();
  start_scores(query, tiles, scores);
  wgmma_wait<0>();
  pin(scores);
  weigh(0, shrink0, shrink1);
  hand_over(0, shrink0, shrink1);
  for (int i = 0; i + 1 < stretch.tiles; ++i) {
    int stage = i & 1;
    uint32_t now = tiles + stage * 2 * kHalfBytes, next = tiles + (stage ^ 1) * 2 * kHalfBytes;
    sync_at(kLoaded + (stage ^ 1), 256);
    wgmma_fence();
    start_scores(query, next, scores);
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      wgmma_64x256_held(o, weights[4 * k], weights[4 * k + 1], weights[4 * k + 2], weights[4 * k + 3],
                        descriptor(descriptor_low(now, kBlockBytes) + k * 128, 1024), 1);
    }
    wgmma_commit();
    wgmma_wait<1>();
    pin(scores);
    bool moved = weigh(i + 1, shrink0, shrink1);
    wgmma_wait<0>();
    pin(o);
    if (i + 2 < stretch.tiles) arrive_at(kFree + stage, 384);
    hand_over(i + 1, shrink0, shrink1);
    if (moved) shrink_sums(o, shrink0, shrink1);
  }
  int stage = (stretch.tiles - 1) & 1;
  uint32_t now = tiles + stage * 2 * kHalfBytes;
  wgmma_fence();
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    wgmma_64x256_held(o, weights[4 * k], weights[4 * k + 1], weights[4 * k + 2], weights[4 * k + 3],
                      descriptor(descriptor_low(now, kBlockBytes) + k * 128, 1024), 1);
  }
  wgmma_commit();
  wgmma_wait<0>();
  pin(o);
}

// The right sums.
__device__ __forceinline__ void consume_right(Space& s, const Stretch& stretch, float (&o)[128]) {
  int head = threadIdx.x / 32 % 4 * 16 + threadIdx.x % 32 / 4;
  uint32_t tiles = shared_address(s.tile) + kHalfBytes, weights = shared_address(s.weights);
  for (int i = 0; i < stretch.tiles; ++i) {
    int stage = i & 1;
    sync_at(kWeighed + stage, 256);
    float shrink0 = s.shrink[stage][head], shrink1 = s.shrink[stage][head + 8];
    if (__any_sync(~0u, shrink0 != 1 || shrink1 != 1)) shrink_sums(o, shrink0, shrink1);
    pin(o);
    wgmma_fence();
    uint32_t tile = tiles + stage * 2 * kHalfBytes;
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      wgmma_64x256(o, descriptor(descriptor_low(weights + stage * kBlockBytes, 16) + 2 * k, 1024),
                   descriptor(descriptor_low(tile, kBlockBytes) + k * 128, 1024), 1);
    }
    wgmma_commit();
    wgmma_wait<0>();
    pin(o);
    if (i + 2 < stretch.tiles) {
      arrive_at(kWeightsFree + stage, 256);
      arrive_at(kFree + stage, 384);
    }
  }
}

// The block had all keys: divides the sums and writes them. `half`: which 256 dims.
__device__ __forceinline__ void write_alone(const AttentionParams& a, Space& s, int64_t row, int group,
                                            int half, const float (&o)[128]) {
  int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, local = threadIdx.x / 32 % 4 * 16 + g,
      head = group * kHeads + local;
  float inverse0 = s.inverse[local], inverse1 = s.inverse[local + 8];
  float* first = a.out + row * a.out_row + head * a.out_head + half * 256 + 2 * t;
  float* second = first + 8 * a.out_head;
  const auto* turns = reinterpret_cast<const float2*>(a.table + row * a.table_row);
#pragma unroll
  for (int j = 0; j < 32; ++j) {
    float2 x = {o[4 * j] * inverse0, o[4 * j + 1] * inverse0},
           y = {o[4 * j + 2] * inverse1, o[4 * j + 3] * inverse1};
    if (j >= 24 && half == 1 && a.table != nullptr) {
      float2 turn = __ldg(turns + 4 * (j - 24) + t);
      x = turned_back(x, turn), y = turned_back(y, turn);
    }
    *reinterpret_cast<float2*>(first + 8 * j) = x;
    *reinterpret_cast<float2*>(second + 8 * j) = y;
  }
}

// Leaves a rank's sums in its shared memory, groups of 8 dims at group ^ head % 8.
__device__ __forceinline__ void leave_sums(Space& s, int half, const float (&o)[128]) {
  int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, head = threadIdx.x / 32 % 4 * 16 + g;
  float* line = reinterpret_cast<float*>(s.tile) + head * kDim + half * 256 + 2 * t;
#pragma unroll
  for (int j = 0; j < 32; ++j) {
    *reinterpret_cast<float2*>(line + 8 * (j ^ g)) = {o[4 * j], o[4 * j + 1]};
    *reinterpret_cast<float2*>(line + 8 * kDim + 8 * (j ^ g)) = {o[4 * j + 2], o[4 * j + 3]};
  }
}

// Puts this rank's share of the heads together. The consumers, after all ranks have left their sums.
__device__ __forceinline__ void write_together(const AttentionParams& a, Space& s, int64_t row, int group,
                                               int ranks) {
  namespace cg = cooperative_groups;
  cg::cluster_group cluster = cg::this_cluster();
  int share = kHeads / ranks, first_head = static_cast<int>(cluster.block_rank()) * share;
  if (threadIdx.x < share) {
    int head = first_head + threadIdx.x;
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
  sync_at(kConsumers, 256);
  const auto* turns = reinterpret_cast<const float2*>(a.table + row * a.table_row);
  for (int i = threadIdx.x; i < share * (kDim / 4); i += 256) {
    int local = i / (kDim / 4), column = i % (kDim / 4), head = first_head + local;
    const float* here =
        reinterpret_cast<const float*>(s.tile) + head * kDim + 4 * (column ^ ((head & 7) << 1));
    float4 x = {0, 0, 0, 0};
#pragma unroll 4
    for (int r = 0; r < ranks; ++r) {
      float4 v = *reinterpret_cast<const float4*>(cluster.map_shared_rank(here, r));
      float w = s.weight[r][local];
      x.x += w * v.x, x.y += w * v.y, x.z += w * v.z, x.w += w * v.w;
    }
    if (a.table != nullptr && column >= kPlainBytes / 4) {
      float2 low = turned_back({x.x, x.y}, turns[2 * (column - kPlainBytes / 4)]);
      float2 high = turned_back({x.z, x.w}, turns[2 * (column - kPlainBytes / 4) + 1]);
      x = {low.x, low.y, high.x, high.y};
    }
    *reinterpret_cast<float4*>(a.out + row * a.out_row + (group * kHeads + head) * a.out_head + 4 * column) =
        x;
  }
}

__global__ void __launch_bounds__(kThreads, 1)
    attend_tiles_kernel(const __grid_constant__ AttentionParams a, int ranks) {
  namespace cg = cooperative_groups;
  extern __shared__ __align__(1024) std::byte memory[];
  Space& s = *reinterpret_cast<Space*>(memory);
  int rank = static_cast<int>(blockIdx.x) & (ranks - 1), item = static_cast<int>(blockIdx.x) / ranks;
  int group = item % a.groups;
  int64_t row = item / a.groups;
  if (threadIdx.x == kThreads - 1) new (s.keys) RowKeys(a.places, row);
  load_queries(a, s, row, group * kHeads);
  __syncthreads();
  Stretch stretch;
  {
    int count = row_keys(s).count, length = ((count + ranks - 1) / ranks + 15) / 16 * 16;
    stretch.begin = min(rank * length, count);
    stretch.end = min(stretch.begin + length, count);
    stretch.tiles = (stretch.end - stretch.begin + kKeys - 1) / kKeys;
  }
  if (threadIdx.x >= 256) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kLoaderRegisters));
    if (stretch.tiles > 0) load_tiles(a, s, stretch);
    if (ranks == 1) return;
    cg::this_cluster().sync();
    cg::this_cluster().sync();
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kConsumerRegisters));
    float o[128];
#pragma unroll
    for (int i = 0; i < 128; ++i) o[i] = 0;
    int half = static_cast<int>(threadIdx.x) / 128;
    if (half == 0) {
      Softmax m;
      if (stretch.tiles > 0) consume_left(a, s, stretch, o, m);
#pragma unroll
      for (int distance = 1; distance < 4; distance *= 2) {
        m.total0 += __shfl_xor_sync(~0u, m.total0, distance);
        m.total1 += __shfl_xor_sync(~0u, m.total1, distance);
      }
      int lane = threadIdx.x % 32, head = threadIdx.x / 32 * 16 + lane / 4;
      if (lane % 4 == 0) {
        s.top[head] = m.top0, s.total[head] = m.total0;
        s.top[head + 8] = m.top1, s.total[head + 8] = m.total1;
        const float* sink = a.sink + group * kHeads + head;
        s.inverse[head] = 1 / (m.total0 + exp2_fast(sink[0] * kLog2e - m.top0));
        s.inverse[head + 8] = 1 / (m.total1 + exp2_fast(sink[8] * kLog2e - m.top1));
      }
    } else if (stretch.tiles > 0) {
      consume_right(s, stretch, o);
    }
    sync_at(kConsumers, 256);  // the totals are there, and nobody needs the tiles
    if (ranks == 1) {
      write_alone(a, s, row, group, half, o);
      return;
    }
    leave_sums(s, half, o);
    cg::this_cluster().sync();
    write_together(a, s, row, group, ranks);
    cg::this_cluster().sync();  // nobody leaves while others read its memory
  }
}

// Blocks that share a query: as many as the chip has room for. Within a range the same, so that a row's bits
// do not depend on how many others there are. Clusters lie within a GPC, of which some have fewer than 16
// multiprocessors.
int ranks_for(const CudaContext& context, int64_t items) {
  if (context.deterministic || items <= 12) return 8;
  return items <= 28 ? 4 : items <= 64 ? 2 : 1;
}

}  // namespace

bool can_attend_tiles(const AttendArgs& a) {
  auto aligned = [](const void* p, uintptr_t bytes) { return reinterpret_cast<uintptr_t>(p) % bytes == 0; };
  bool rows = a.format.quantised && a.format.dim == kDim && a.format.rope_dim == 64 &&
              a.format.data_bytes == kRowBytes && a.format.scale_bytes == 8;
  bool places = a.place.window_data % 16 == 0 && a.place.window_scale % 8 == 0 &&
                a.place.entries.data_offset % 16 == 0 && a.place.entries.scale_offset % 8 == 0 &&
                aligned(a.rows.data, 16) && aligned(a.rows.scale, 8);
  bool pages = a.choice == EntryChoice::kNone ||
               (a.place.entries.rows_per_page & (a.place.entries.rows_per_page - 1)) == 0;
  auto vectors = [&](auto v) {
    return aligned(v.data(), 16) && v.stride(0) % 4 == 0 && v.stride(1) % 4 == 0 && v.stride(2) == 1;
  };
  return rows && places && pages && vectors(a.q) && vectors(a.out) && a.q.shape(1) % kHeads == 0;
}

void attend_tiles(CudaContext& context, const AttendArgs& a, const AttendHeadsArgs* heads, int ranks) {
  AttentionParams p = attention_params(a, heads, kHeads);
  int64_t items = a.q.shape(0) * p.groups;
  if (ranks == 0) ranks = ranks_for(context, items);
  KVASIR_CHECK(cudaFuncSetAttribute(attend_tiles_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    sizeof(Space)) == cudaSuccess &&
                   cudaFuncSetAttribute(attend_tiles_kernel, cudaFuncAttributeNonPortableClusterSizeAllowed,
                                        1) == cudaSuccess,
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
