// Attention of few query rows, where time is latency: a block has 8 (or 16) heads and a stretch of the keys,
// a cluster of blocks all keys of a query; kFast.
//
// Keys are rows of the matrix product and heads its columns (mma.sync m16n8k16), so that 8 heads fill it, and
// every stored byte becomes bf16 in registers, once for the scores and once for the sums; shared memory holds
// the rows as stored. A chunk is 64 keys. Scores: warp w has 16 keys and a half of the dims. Weights: warp w
// has head w. Sums: warp w has 64 dims. The order of dims inside a product is free, so a thread takes 16
// bytes side by side for four steps of it; so is the order of keys, and a thread takes four of them apart.
#include <cooperative_groups.h>

#include <algorithm>

#include "backend/cuda/sm90/attention_convert.cuh"
#include "backend/cuda/sm90/attention_params.cuh"
#include "backend/cuda/sm90/attention_split.h"

namespace kvasir::cuda::sm90 {
namespace {

constexpr int kKeys = 64;  // of a chunk
constexpr int kThreads = 256;
constexpr int kStride =
    608;  // bytes from row to row: keys 0..3 then start in four different quarters of the banks
constexpr int kScaleAt = kRowBytes;       // in a row: 8 scale bytes,
constexpr int kCountsAt = kRowBytes + 8;  // and whether the key counts
constexpr int kMaxRanks = 16;

template <int kTiles>  // of 8 heads
struct Space {
  static constexpr int kHeads = 8 * kTiles;
  std::byte rows[2][kKeys * kStride];
  uint16_t query[kHeads][kDim + 8];      // bf16
  float scores[2][kKeys][kHeads + 1];    // a half of the dims each
  uint16_t weights[kHeads][kKeys + 16];  // bf16, keys of 16 in the order that a thread takes them
  float shrink[kHeads];
  float top[kHeads], total[kHeads];
  float all_tops[kMaxRanks][kHeads], all_totals[kMaxRanks][kHeads];
  alignas(16) float sums[kHeads][kDim];
};
static_assert(sizeof(Space<2>) <= 227 * 1024);

__device__ __forceinline__ void multiply_add(float (&d)[4], const uint32_t (&a)[4], uint2 b) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b.x), "r"(b.y));
}

// Asks for the rows of a chunk: four threads a key.
template <int kTiles>
__device__ __forceinline__ void request(const AttentionParams& p, Space<kTiles>& s, const RowKeys& keys,
                                        int stage, int first, int end) {
  int key = threadIdx.x / 4, quarter = threadIdx.x % 4, j = first + key;
  if (16 * (key / 16) < end - first) {
    KeyAddress from;
    bool counts = j < end && keys.address(p.places, j, from);
    // Something finite in the place of a key that is none: its weight is zero.
    if (!counts) from = {p.places.rows_data + keys.row * kRowBytes, p.places.rows_scale + keys.row * 8};
    std::byte* to = s.rows[stage] + key * kStride;
    uint32_t at = shared_address(to);
#pragma unroll
    for (int i = 0; i < 9; ++i) copy_16(at + 64 * i + 16 * quarter, from.data + 64 * i + 16 * quarter);
    if (quarter == 0) {
      copy_8(at + kScaleAt, from.scale);
      *reinterpret_cast<uint32_t*>(to + kCountsAt) = counts;
    }
  }
}

// Queries to bf16 in shared memory, normed and rotated where asked. A warp for a head.
template <int kTiles>
__device__ __forceinline__ void load_queries(const AttentionParams& p, Space<kTiles>& s, int64_t row,
                                             int first_head) {
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
  for (int h = warp; h < Space<kTiles>::kHeads; h += 8) {
    const auto* from = reinterpret_cast<const float4*>(p.q + row * p.q_row + (first_head + h) * p.q_head);
    float4 v[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) v[i] = __ldg(from + lane + 32 * i);
    if (p.table != nullptr) norm_and_turn(p, row, lane, v);
#pragma unroll
    for (int i = 0; i < 4; ++i)
      *reinterpret_cast<uint2*>(&s.query[h][4 * (lane + 32 * i)]) = {pack_bf16x2(v[i].x, v[i].y),
                                                                     pack_bf16x2(v[i].z, v[i].w)};
  }
}

// Which of 8 keys lane group g takes for the scores: pairs that share a load fall into different halves of
// the banks.
__device__ __forceinline__ int score_row(int g) { return (g & 4) | (g & 1) << 1 | (g >> 1 & 1); }

// Scores of 16 keys over half the dims. Loops stay loops: code that does not fit the instruction caches costs
// more.
template <int kTiles>
__device__ __forceinline__ void score(Space<kTiles>& s, int stage, int tile, int half) {
  int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, key = 16 * tile + score_row(g);
  const std::byte *row0 = s.rows[stage] + key * kStride, *row1 = row0 + 8 * kStride;
  uint32_t codes0 = reinterpret_cast<const uint32_t*>(row0 + kScaleAt)[half],
           codes1 = reinterpret_cast<const uint32_t*>(row1 + kScaleAt)[half];
  float sum[kTiles][4][4] = {};
#pragma unroll 1
  for (int block = 0; block < 4; ++block) {
    uint4 part0[2], part1[2];  // 16 values of both rows: low[i], high[i] are values 4 * i, 4 * i + 1 and the
                               // two after them
    if (half == 1 && block == 3) {
      const auto *from0 = reinterpret_cast<const uint4*>(row0 + kPlainBytes + 32 * t),
                 *from1 = reinterpret_cast<const uint4*>(row1 + kPlainBytes + 32 * t);
      part0[0] = from0[0], part0[1] = from0[1], part1[0] = from1[0], part1[1] = from1[1];
    } else {
      int at = 256 * half + 64 * block + 16 * t;
      uint4 a = *reinterpret_cast<const uint4*>(row0 + at), b = *reinterpret_cast<const uint4*>(row1 + at);
      uint32_t code0 = codes0 >> (8 * block) & 0xff, code1 = codes1 >> (8 * block) & 0xff;
      uint32_t factor0 = scale_factor(code0), factor1 = scale_factor(code1);
      part0[0] = bf16_values({a.x, a.y}, factor0), part0[1] = bf16_values({a.z, a.w}, factor0);
      part1[0] = bf16_values({b.x, b.y}, factor1), part1[1] = bf16_values({b.z, b.w}, factor1);
      if (max(code0, code1) > 134) {
        part0[0] = multiply_values(part0[0], lacking(code0)),
        part0[1] = multiply_values(part0[1], lacking(code0));
        part1[0] = multiply_values(part1[0], lacking(code1)),
        part1[1] = multiply_values(part1[1], lacking(code1));
      }
    }
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
      const auto* query =
          reinterpret_cast<const uint4*>(&s.query[8 * n + g][256 * half + 64 * block + 16 * t]);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        uint4 q = query[i];
        const uint32_t a[4] = {part0[i].x, part1[i].x, part0[i].y, part1[i].y},
                       b[4] = {part0[i].z, part1[i].z, part0[i].w, part1[i].w};
        multiply_add(sum[n][2 * i], a, {q.x, q.y});
        multiply_add(sum[n][2 * i + 1], b, {q.z, q.w});
      }
    }
  }
#pragma unroll
  for (int n = 0; n < kTiles; ++n) {
#pragma unroll
    for (int e = 0; e < 4; ++e)
      s.scores[half][key + 8 * (e / 2)][8 * n + 2 * t + e % 2] =
          (sum[n][0][e] + sum[n][1][e]) + (sum[n][2][e] + sum[n][3][e]);
  }
}

// Scores of a head to weights; a warp for a head, two keys a lane.
template <int kTiles>
__device__ __forceinline__ void weigh(Space<kTiles>& s, int stage, int head, int n, float scale, float& top,
                                      float& total) {
  int lane = threadIdx.x % 32;
  float x[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    int key = lane + 32 * i;
    bool counts =
        key < n && *reinterpret_cast<const uint32_t*>(s.rows[stage] + key * kStride + kCountsAt) != 0;
    x[i] = counts ? (s.scores[0][key][head] + s.scores[1][key][head]) * scale : -INFINITY;
  }
  float max = fmaxf(x[0], x[1]);
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) max = fmaxf(max, __shfl_xor_sync(~0u, max, distance));
  max = fmaxf(max, top);
  float base = max == -INFINITY ? 0 : max, shrink = exp2_fast(top - base), sum = 0;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    int key = lane + 32 * i, in_16 = key % 16;
    float weight = exp2_fast(x[i] - base);
    sum += weight;
    s.weights[head][key / 16 * 16 + 4 * (in_16 % 4) + in_16 / 4] =
        static_cast<uint16_t>(pack_bf16x2(weight, 0));
  }
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) sum += __shfl_xor_sync(~0u, sum, distance);
  total = total * shrink + sum;
  top = max;
  if (lane == 0) s.shrink[head] = shrink;
}

// Value `kByte` of two keys' words, side by side; `factor` has 2^(120 + s) of both.
template <int kByte>
__device__ __forceinline__ uint32_t key_pair(uint32_t word0, uint32_t word1, uint32_t factor) {
  uint32_t high =
      __byte_perm(word0, word1, kByte << 4 | (4 + kByte) << 12);  // each in the upper byte of its half
  return multiply_bf16x2((high & 0x80008000u) | ((high >> 4) & 0x07f007f0u), factor);
}
__device__ __forceinline__ uint32_t side_by_side(uint32_t factor0, uint32_t factor1) {
  return __byte_perm(factor0, factor1, 0x7610);
}

// Adds 16 weighted keys to the sums of 64 dims: sums[n][m] has dims 8 * g + 2 * m (elements 0, 1) and + 1 (2,
// 3) of this warp's 64 for heads 2 * t and 2 * t + 1 of tile n.
template <int kTiles>
__device__ __forceinline__ void add_keys(Space<kTiles>& s, int stage, int step, int warp,
                                         float (&sums)[kTiles][4][4]) {
  int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  uint2 weights[kTiles];
#pragma unroll
  for (int n = 0; n < kTiles; ++n)
    weights[n] = *reinterpret_cast<const uint2*>(&s.weights[8 * n + g][16 * step + 4 * t]);
  const std::byte* row = s.rows[stage] + (16 * step + t) * kStride;  // keys t, t + 4, t + 8, t + 12
  uint32_t a[4][4];
  if (warp == 7) {
    uint4 v[4];
#pragma unroll
    for (int i = 0; i < 4; ++i)
      v[i] = *reinterpret_cast<const uint4*>(row + 4 * i * kStride + kPlainBytes + 16 * g);
#pragma unroll
    for (int m = 0; m < 4; ++m) {
      auto word = [&](int i) { return m == 0 ? v[i].x : m == 1 ? v[i].y : m == 2 ? v[i].z : v[i].w; };
      a[m][0] = __byte_perm(word(0), word(1), 0x5410), a[m][1] = __byte_perm(word(0), word(1), 0x7632);
      a[m][2] = __byte_perm(word(2), word(3), 0x5410), a[m][3] = __byte_perm(word(2), word(3), 0x7632);
    }
  } else {
    uint2 v[4];
    uint32_t code[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      v[i] = *reinterpret_cast<const uint2*>(row + 4 * i * kStride + 64 * warp + 8 * g);
      code[i] = static_cast<uint32_t>(row[4 * i * kStride + kScaleAt + warp]);
    }
    uint32_t first = side_by_side(scale_factor(code[0]), scale_factor(code[1]));
    uint32_t second = side_by_side(scale_factor(code[2]), scale_factor(code[3]));
#pragma unroll
    for (int m = 0; m < 4; ++m) {
      auto word = [&](int i) { return m < 2 ? v[i].x : v[i].y; };
      if (m % 2 == 0) {
        a[m][0] = key_pair<0>(word(0), word(1), first), a[m][1] = key_pair<1>(word(0), word(1), first);
        a[m][2] = key_pair<0>(word(2), word(3), second), a[m][3] = key_pair<1>(word(2), word(3), second);
      } else {
        a[m][0] = key_pair<2>(word(0), word(1), first), a[m][1] = key_pair<3>(word(0), word(1), first);
        a[m][2] = key_pair<2>(word(2), word(3), second), a[m][3] = key_pair<3>(word(2), word(3), second);
      }
    }
    if (max(max(code[0], code[1]), max(code[2], code[3])) > 134) {
      first = side_by_side(lacking(code[0]), lacking(code[1])),
      second = side_by_side(lacking(code[2]), lacking(code[3]));
#pragma unroll
      for (int m = 0; m < 4; ++m) {
        a[m][0] = multiply_bf16x2(a[m][0], first), a[m][1] = multiply_bf16x2(a[m][1], first);
        a[m][2] = multiply_bf16x2(a[m][2], second), a[m][3] = multiply_bf16x2(a[m][3], second);
      }
    }
  }
#pragma unroll
  for (int m = 0; m < 4; ++m) {
#pragma unroll
    for (int n = 0; n < kTiles; ++n) multiply_add(sums[n][m], a[m], weights[n]);
  }
}

// Puts this rank's share of heads and dims together out of all ranks' sums, in an order of its own that never
// changes: four lanes a value, ranks r, r + 4, ... each, then their sums.
template <int kTiles>
__device__ __forceinline__ void write_together(const AttentionParams& p, Space<kTiles>& s, int64_t row,
                                               int first_head, int rank, int ranks) {
  namespace cg = cooperative_groups;
  cg::cluster_group cluster = cg::this_cluster();
  constexpr int kHeads = Space<kTiles>::kHeads;
  cluster.sync();
  if (threadIdx.x < ranks * kHeads) {
    int r = threadIdx.x / kHeads, h = threadIdx.x % kHeads;
    s.all_tops[r][h] = *cluster.map_shared_rank(&s.top[h], r);
    s.all_totals[r][h] = *cluster.map_shared_rank(&s.total[h], r);
  }
  __syncthreads();
  int share = kHeads * (kDim / 4) / ranks, lane4 = threadIdx.x % 4;
  for (int i = threadIdx.x / 4; i < share; i += kThreads / 4) {
    int at = rank * share + i, head = at / (kDim / 4), column = at % (kDim / 4);
    float top = -INFINITY;
    for (int r = 0; r < ranks; ++r) top = fmaxf(top, s.all_tops[r][head]);
    float total = exp2_fast(p.sink[first_head + head] * kLog2e - top);
    for (int r = 0; r < ranks; ++r) total += exp2_fast(s.all_tops[r][head] - top) * s.all_totals[r][head];
    float4 x = {0, 0, 0, 0};
#pragma unroll 4
    for (int r = lane4; r < ranks; r += 4) {
      float4 v = *reinterpret_cast<const float4*>(cluster.map_shared_rank(&s.sums[head][4 * column], r));
      float w = exp2_fast(s.all_tops[r][head] - top);
      x.x += w * v.x, x.y += w * v.y, x.z += w * v.z, x.w += w * v.w;
    }
#pragma unroll
    for (int distance = 1; distance < 4; distance *= 2) {
      x.x += __shfl_xor_sync(~0u, x.x, distance), x.y += __shfl_xor_sync(~0u, x.y, distance);
      x.z += __shfl_xor_sync(~0u, x.z, distance), x.w += __shfl_xor_sync(~0u, x.w, distance);
    }
    if (lane4 != 0) continue;
    float inverse = 1 / total;
    x = {x.x * inverse, x.y * inverse, x.z * inverse, x.w * inverse};
    if (p.table != nullptr && column >= kPlainBytes / 4) {
      float4 turn =
          __ldg(reinterpret_cast<const float4*>(p.table + row * p.table_row) + column - kPlainBytes / 4);
      float2 low = turned_back({x.x, x.y}, {turn.x, turn.y}),
             high = turned_back({x.z, x.w}, {turn.z, turn.w});
      x = {low.x, low.y, high.x, high.y};
    }
    *reinterpret_cast<float4*>(p.out + row * p.out_row + (first_head + head) * p.out_head + 4 * column) = x;
  }
  cluster.sync();  // nobody leaves while others read its memory
}

template <int kTiles>
__global__ void __launch_bounds__(kThreads, kTiles == 1 ? 2 : 1)
    attend_split_kernel(const __grid_constant__ AttentionParams p, int ranks) {
  extern __shared__ __align__(128) std::byte memory[];
  auto& s = *reinterpret_cast<Space<kTiles>*>(memory);
  constexpr int kHeads = Space<kTiles>::kHeads;
  int rank = static_cast<int>(blockIdx.x) & (ranks - 1), item = static_cast<int>(blockIdx.x) / ranks;
  int first_head = item % p.groups * kHeads, warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4,
      t = lane % 4;
  int64_t row = item / p.groups;
  RowKeys keys(p.places, row);
  int stretch = ((keys.count + ranks - 1) / ranks + 7) / 8 * 8;
  int begin = min(rank * stretch, keys.count), end = min(begin + stretch, keys.count);
  if (begin < end) request(p, s, keys, 0, begin, end);
  commit_copies();
  if (begin + kKeys < end) request(p, s, keys, 1, begin + kKeys, end);
  commit_copies();
  load_queries(p, s, row, first_head);
  __syncthreads();
  float top[kTiles], total[kTiles], sums[kTiles][4][4] = {};
#pragma unroll
  for (int n = 0; n < kTiles; ++n) top[n] = -INFINITY, total[n] = 0;

#pragma unroll 1
  for (int first = begin, stage = 0; first < end; first += kKeys, stage ^= 1) {
    int n_keys = min(kKeys, end - first);
    wait_copies<1>();
    __syncthreads();  // the chunk is here
    if (16 * (warp % 4) < n_keys) score(s, stage, warp % 4, warp / 4);
    __syncthreads();
#pragma unroll
    for (int n = 0; n < kTiles; ++n) weigh(s, stage, 8 * n + warp, n_keys, p.score_scale, top[n], total[n]);
    __syncthreads();
    if (first > begin) {
#pragma unroll
      for (int n = 0; n < kTiles; ++n) {
        float shrink0 = s.shrink[8 * n + 2 * t], shrink1 = s.shrink[8 * n + 2 * t + 1];
#pragma unroll
        for (int m = 0; m < 4; ++m)
          sums[n][m][0] *= shrink0, sums[n][m][1] *= shrink1, sums[n][m][2] *= shrink0,
              sums[n][m][3] *= shrink1;
      }
    }
#pragma unroll 1
    for (int step = 0; 16 * step < n_keys; ++step) add_keys(s, stage, step, warp, sums);
    if (first + 2 * kKeys < end) {
      __syncthreads();  // all have done with the chunk
      request(p, s, keys, stage, first + 2 * kKeys, end);
    }
    commit_copies();
  }
#pragma unroll
  for (int n = 0; n < kTiles; ++n) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      auto* to = reinterpret_cast<float4*>(&s.sums[8 * n + 2 * t + e][64 * warp + 8 * g]);
      to[0] = {sums[n][0][e], sums[n][0][2 + e], sums[n][1][e], sums[n][1][2 + e]};
      to[1] = {sums[n][2][e], sums[n][2][2 + e], sums[n][3][e], sums[n][3][2 + e]};
    }
    if (lane == 0) s.top[8 * n + warp] = top[n], s.total[8 * n + warp] = total[n];
  }
  write_together(p, s, row, first_head, rank, ranks);
}

template <int kTiles>
void launch(CudaContext& context, const AttendArgs& a, const AttendHeadsArgs* heads, int ranks) {
  constexpr int kHeads = Space<kTiles>::kHeads;
  KVASIR_CHECK(ranks * kHeads <= kThreads && (ranks & (ranks - 1)) == 0, "{} ranks of {} heads", ranks,
               kHeads);
  auto kernel = attend_split_kernel<kTiles>;
  KVASIR_CHECK(
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, sizeof(Space<kTiles>)) ==
              cudaSuccess &&
          cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1) == cudaSuccess,
      "{} bytes of shared memory were refused", sizeof(Space<kTiles>));
  AttentionParams p = attention_params(a, heads, kHeads);
  cudaLaunchAttribute cluster{};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {static_cast<unsigned>(ranks), 1, 1};
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(a.q.shape(0) * p.groups * ranks));
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = sizeof(Space<kTiles>);
  config.stream = context.stream;
  config.attrs = &cluster;
  config.numAttrs = 1;
  cudaLaunchKernelEx(&config, kernel, p, ranks);
}

}  // namespace

void attend_split(CudaContext& context, const AttendArgs& a, const AttendHeadsArgs* heads, bool wide,
                  int ranks) {
  wide ? launch<2>(context, a, heads, ranks) : launch<1>(context, a, heads, ranks);
}

}  // namespace kvasir::cuda::sm90
