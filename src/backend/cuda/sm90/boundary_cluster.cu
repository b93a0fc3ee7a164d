// The boundary between two half blocks: hc_post, the 24 mixing logits, Sinkhorn, the mix and its norm, in one launch.
//
// A cluster of 16 blocks works on tiles of up to 8 tokens; each block holds a sixteenth of `dim` and keeps its part of fn
// in shared memory for as long as it lives. Per tile
//   1. a block mixes its part of the new streams, writes them and keeps them in registers;
//   2. adds up, over its part, 24 logits (tensor cores) and the 10 products of streams with each other, of which
//        mean(f^2) = trace(G) / 4 dim    and    mean(x^2) = pre^T G pre / dim,
//      so that one exchange between the blocks serves both norms;
//   3. sends the 34 sums of each token to the block that owns the token. One warp there adds the sixteen up in order of rank,
//      sends the four weights of the normed mix to all blocks, and then does Sinkhorn, beside what the others do next;
//   4. writes its part of the mix.
// Two groups of warps in a block work on tiles of their own, so that one computes while the other waits for memory or for
// the other blocks. Small and large batches run the same code on a token: its bits do not depend on its company.
//
// The logits: factors are split into two bf16 numbers each, and the products hi*hi, hi*lo and lo*hi added, which leaves
// some 1e-5 of a logit (plain tf32: 2e-4). G in f32: if the streams cancel, so that |x|^2 is a share s of sum (pre |X|)^2,
// the norm is off by some 1e-7 / s.
#include "backend/cuda/sm90/boundary_cluster.h"

#include <algorithm>
#include <type_traits>

#include "backend/cuda/sm90/boundary_ptx.cuh"
#include "base/check.h"

namespace kvasir::cuda {
namespace {

constexpr int kBlocks = 16;  // of a cluster
constexpr int kTile = 8;     // tokens: the narrow side of the products
constexpr int kStreams = 4;
constexpr int kLogits = 24;                     // pre 4, post 4, comb 16
constexpr int kPairs = 10;                      // of streams
constexpr int kRecord = 36;                     // kSums, to a multiple of 16 bytes

// kUnits: runs of 16 values of `dim` that a warp works on. kGroups: groups of warps with tiles of their own.
template <int kDimension, int kUnitCount, int kGroupCount>
struct Shape {
  static constexpr int kDim = kDimension, kUnits = kUnitCount, kGroups = kGroupCount;
  static constexpr int kSlice = kDim / kBlocks;
  static constexpr int kWarps = kSlice / (16 * kUnits);     // of a group
  static constexpr int kWorkers = 32 * kWarps;
  static constexpr int kThreads = kGroups * (kWorkers + 32);
  struct GroupSpace {
    float warp_sums[kWarps][kTile][kRecord];
    float sums[kBlocks][kRecord];                           // of the token that this block owns, from every block
    float4 weights[2][kTile];                               // from the owners; tiles take turns
    float coefficients[kTile][kStreams * 8 + 4];            // of new stream k, from 8 k: comb[0..3][k], post[k]
  };
  struct Space {
    uint4 fn[kSlice / 16][kStreams][3][32];                 // see split_fn
    GroupSpace group[kGroups];
    uint64_t sums_here[kGroups], weights_here[kGroups][2];
  };
  static_assert(sizeof(Space) <= 232448 && kWorkers >= kTile * 20 && kWorkers >= kTile * kRecord / 4);
};

struct Params {
  const float *y, *fn, *base, *scale, *norm;
  float *streams, *x, *post, *comb;
  int tokens, tile, iterations;
  float norm_eps, sinkhorn_eps;
};

__device__ float reciprocal(float x) {
  float r;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
  return r;
}

__device__ float sigmoid_of(float x) { return reciprocal(1.0f + __expf(-x)); }

__device__ constexpr int pair_index(int i, int j) { return i * (2 * kStreams - 1 - i) / 2 + j; }  // i <= j

// The row and column steps of spec 6.2 on a matrix that has had its row softmax, as scales of rows and columns: A = u a v,
// and a row step makes u = 1 / (sum a v + eps / u). Every four lanes do the same: lane c holds row c and column c of `a` and
// renews u[c] and v[c]. Reciprocals come from the last ones by a third-order step once they are close. When a row and a
// column step change no scale by more than a millionth, what is left of the iterations would not either.
__device__ void sinkhorn(const float (&row)[kStreams], const float (&column)[kStreams], int iterations, float eps, float (&u)[kStreams],
                         float (&v)[kStreams]) {
  constexpr float kClose = 0x1p-9f, kDone = 1e-6f;
  auto exchange = [](float mine, float (&all)[kStreams]) {
#pragma unroll
    for (int i = 0; i < kStreams; ++i) all[i] = __shfl_sync(~0u, mine, i, kStreams);
  };
  float inverse_u = 1, inverse_v = ((column[0] + column[1]) + (column[2] + column[3])) + eps, my_u = 1, my_v = reciprocal(inverse_v);
  exchange(my_v, v);
  // One row step and one column step. True if a scale changed by more than `limit` of it.
  auto iterate = [&](auto close, float limit) {
    auto renew = [&](float& scale, float& inverse, const float (&a)[kStreams], const float (&by)[kStreams]) {
      inverse = (a[0] * by[0] + a[1] * by[1]) + (a[2] * by[2] + (a[3] * by[3] + eps * inverse));
      float e = 1.0f - inverse * scale;
      scale = close ? scale + scale * (e + e * e) : reciprocal(inverse);
      return fabsf(e);
    };
    float off = renew(my_u, inverse_u, row, v);
    exchange(my_u, u);
    off = fmaxf(off, renew(my_v, inverse_v, column, u));
    exchange(my_v, v);
    return __any_sync(~0u, off > limit);
  };
  u[0] = u[1] = u[2] = u[3] = 1;
  int i = 1;
  while (i < iterations && (++i, iterate(std::false_type{}, kClose))) {}
  while (i < iterations && (++i, iterate(std::true_type{}, kDone))) {}
}

// Two bf16 numbers that add up to each of four values but for 2^-17 of it.
struct Halves {
  uint2 high, low;
};
__device__ Halves split(float4 v) {
  auto below = [](uint32_t pair, float a, float b) {
    return ptx::bf16_pair(a - __uint_as_float(pair << 16), b - __uint_as_float(pair & 0xffff0000u));
  };
  uint2 high = {ptx::bf16_pair(v.x, v.y), ptx::bf16_pair(v.z, v.w)};
  return {high, {below(high.x, v.x, v.y), below(high.y, v.z, v.w)}};
}

// A block's part of fn in shared memory, as the factors of add_up: for each run of 16 values and stream, and each lane 4g + c,
// the values 4c to 4c + 3 of the rows g and g + 8, upper halves, lower halves, and of row g + 16 both. The order of the sum
// is free, so that four neighbours in memory stand for two pairs of columns. A thread fetches the f32 values to the very places
// that their halves take later, and splits them there.
template <class S, class Visit>
__device__ void each_piece(typename S::Space& space, int warp, const Visit& visit) {
  constexpr int kPieces = S::kSlice / 16 * kStreams, kStep = S::kGroups * S::kWarps;
#pragma unroll
  for (int i = 0; i < kPieces / kStep; ++i) {
    int piece = warp + i * kStep;
    visit(piece / kStreams, piece % kStreams, space.fn[piece / kStreams][piece % kStreams]);
  }
  static_assert(kPieces % kStep == 0);
}

template <class S>
__device__ void fetch_fn(typename S::Space& space, const Params& p, int warp, int lane, int rank) {
  const float* row = p.fn + static_cast<int64_t>(lane / 4) * kStreams * S::kDim + rank * S::kSlice + 4 * (lane % 4);
  each_piece<S>(space, warp, [&](int unit, int s, uint4(*to)[32]) {
#pragma unroll
    for (int i = 0; i < 3; ++i)
      ptx::copy_16(ptx::shared_address(&to[i][lane]), row + i * (int64_t{8} * kStreams * S::kDim) + s * S::kDim + 16 * unit);
  });
}

template <class S>
__device__ void split_fn(typename S::Space& space, int warp, int lane) {
  ptx::copies_wait();
  each_piece<S>(space, warp, [&](int, int, uint4(*to)[32]) {
    Halves a = split(*reinterpret_cast<const float4*>(&to[0][lane])), b = split(*reinterpret_cast<const float4*>(&to[1][lane])),
           c = split(*reinterpret_cast<const float4*>(&to[2][lane]));
    to[0][lane] = {a.high.x, b.high.x, a.high.y, b.high.y};
    to[1][lane] = {a.low.x, b.low.x, a.low.y, b.low.y};
    to[2][lane] = {c.high.x, c.low.x, c.high.y, c.low.y};
  });
}

// The values of one thread: token g of the tile, and of each of its units four neighbouring places.
template <class S>
struct Held {
  float4 streams[S::kUnits][kStreams];
  float4 y[S::kUnits];
};

template <class S>
__device__ void load(Held<S>& held, const Params& p, int64_t token, int place, bool live) {
  const float *streams = p.streams + token * kStreams * S::kDim + place, *y = p.y + token * S::kDim + place;
#pragma unroll
  for (int u = 0; u < S::kUnits; ++u) {
#pragma unroll
    for (int s = 0; s < kStreams; ++s)
      held.streams[u][s] = live ? *reinterpret_cast<const float4*>(streams + s * S::kDim + 16 * u) : float4{0, 0, 0, 0};
    held.y[u] = live && p.y ? *reinterpret_cast<const float4*>(y + 16 * u) : float4{0, 0, 0, 0};
  }
}

// post and comb of a tile go to shared memory, one value a thread.
template <class S>
__device__ float load_coefficient(const Params& p, int first, int worker) {
  int n = worker / 20, i = worker % 20;
  int64_t token = first + n;
  if (!p.y || n >= p.tile || token >= p.tokens) return 0;
  return i < 4 ? p.post[token * 4 + i] : p.comb[token * 16 + i - 4];
}
template <class S>
__device__ void keep_coefficient(typename S::GroupSpace& mine, int worker, float value) {
  int n = worker / 20, i = worker % 20;
  if (n < kTile) mine.coefficients[n][i < 4 ? 8 * i + 4 : 8 * (i % 4) + (i - 4) / 4] = value;
}

// Step 1: hc_post of this thread's places.
template <class S>
__device__ void mix(Held<S>& held, const Params& p, const float* coefficients, int64_t token, int place, bool live) {
  float* streams = p.streams + token * kStreams * S::kDim + place;
#pragma unroll
  for (int u = 0; u < S::kUnits; ++u) {
    auto& s = held.streams[u];
    float4 y = held.y[u], fresh[kStreams];
#pragma unroll
    for (int k = 0; k < kStreams; ++k) {
      float4 comb = *reinterpret_cast<const float4*>(coefficients + 8 * k);
      float post = coefficients[8 * k + 4];
      auto one = [&](float v, float v0, float v1, float v2, float v3) {
        return post * v + comb.x * v0 + (comb.y * v1 + (comb.z * v2 + comb.w * v3));
      };
      fresh[k] = {one(y.x, s[0].x, s[1].x, s[2].x, s[3].x), one(y.y, s[0].y, s[1].y, s[2].y, s[3].y),
                  one(y.z, s[0].z, s[1].z, s[2].z, s[3].z), one(y.w, s[0].w, s[1].w, s[2].w, s[3].w)};
    }
#pragma unroll
    for (int k = 0; k < kStreams; ++k) {
      s[k] = fresh[k];
      if (live) *reinterpret_cast<float4*>(streams + k * S::kDim + 16 * u) = fresh[k];
    }
  }
}

// Ten values, each added up over four neighbouring lanes: lane c gets those numbered 5 (c & 1) + {0 1 2 or 3 4} by c & 2.
struct Quarter {
  float value[3];
};
__device__ Quarter add_quad(const float (&v)[kPairs], int c) {
  float half[6] = {};
#pragma unroll
  for (int i = 0; i < 5; ++i) {
    float keep = c & 1 ? v[i + 5] : v[i], give = c & 1 ? v[i] : v[i + 5];
    half[i] = keep + __shfl_xor_sync(~0u, give, 1);
  }
  Quarter q;
#pragma unroll
  for (int i = 0; i < 3; ++i) {
    float keep = c & 2 ? half[i + 3] : half[i], give = c & 2 ? half[i] : half[i + 3];
    q.value[i] = keep + __shfl_xor_sync(~0u, give, 2);
  }
  return q;
}

// Step 2: sums over this warp's part.
template <class S>
__device__ void add_up(const Held<S>& held, const typename S::Space& space, int unit, int lane, float (&sums)[kTile][kRecord]) {
  int g = lane / 4, c = lane % 4;
  float gram[kPairs] = {};
#pragma unroll
  for (int u = 0; u < S::kUnits; ++u)
#pragma unroll
    for (int i = 0; i < kStreams; ++i)
#pragma unroll
      for (int j = i; j < kStreams; ++j) {
        float4 a = held.streams[u][i], b = held.streams[u][j];
        gram[pair_index(i, j)] += (a.x * b.x + a.y * b.y) + (a.z * b.z + a.w * b.w);
      }
  Quarter pairs = add_quad(gram, c);
#pragma unroll
  for (int i = 0; i < 3; ++i)
    if (i < 2 || c < 2) sums[g][kLogits + 5 * (c & 1) + 3 * (c >> 1) + i] = pairs.value[i];
  float high_high[4] = {}, high_low[4] = {}, low_high[4] = {}, last_high[4] = {}, last_low[4] = {};
#pragma unroll
  for (int u = 0; u < S::kUnits; ++u)
#pragma unroll
    for (int s = 0; s < kStreams; ++s) {
      const uint4(*fn)[32] = space.fn[unit + u][s];
      uint4 high = fn[0][lane], low = fn[1][lane], both = fn[2][lane];  // `both`: rows 16 to 23 fill half a tile
      Halves b = split(held.streams[u][s]);
      ptx::multiply_bf16(high_high, high, b.high);
      ptx::multiply_bf16(last_high, both, b.high);
      ptx::multiply_bf16(high_low, high, b.low);
      ptx::multiply_bf16(low_high, low, b.high);
      ptx::multiply_bf16(last_low, both, b.low);
    }
  auto put = [&](int row, float a, float b) { sums[2 * c][row] = a, sums[2 * c + 1][row] = b; };
  put(g, high_high[0] + (high_low[0] + low_high[0]), high_high[1] + (high_low[1] + low_high[1]));
  put(g + 8, high_high[2] + (high_low[2] + low_high[2]), high_high[3] + (high_low[3] + low_high[3]));
  put(g + 16, last_high[0] + (last_low[0] + last_high[2]), last_high[1] + (last_low[1] + last_high[3]));
}

// Which tiles a group goes through, and who owns the tokens of a tile: tiles in turn those of rank below 8 and the others, so
// that Sinkhorn has two tiles' time.
struct Tiles {
  int first, step;
  __device__ Tiles(const Params& p, int groups, int group) {
    int clusters = static_cast<int>(gridDim.x) / kBlocks;
    first = (group * clusters + static_cast<int>(blockIdx.x) / kBlocks) * p.tile;
    step = groups * clusters * p.tile;
  }
};
__device__ uint32_t owner_of(int n, int round) { return static_cast<uint32_t>(n + kTile * (round % 2)); }

// Step 3: the block's sums to the owners, 16 bytes a thread.
template <class S>
__device__ void send(typename S::GroupSpace& mine, const uint64_t& sums_here, int round, uint32_t rank, int worker) {
  constexpr int kQuads = kRecord / 4;
  if (worker >= kTile * kQuads) return;
  int n = worker / kQuads, at = worker % kQuads * 4;
  float4 sum = {0, 0, 0, 0};
#pragma unroll
  for (int w = 0; w < S::kWarps; ++w) {
    float4 v = *reinterpret_cast<const float4*>(&mine.warp_sums[w][n][at]);
    sum = {sum.x + v.x, sum.y + v.y, sum.z + v.z, sum.w + v.w};
  }
  uint32_t to = owner_of(n, round);
  ptx::send_remote(ptx::remote_address(ptx::shared_address(&mine.sums[rank][at]), to),
                   ptx::remote_address(ptx::shared_address(&sums_here), to), sum);
}

// Step 4: this thread's places of x.
template <class S>
__device__ void finish(const Held<S>& held, const Params& p, float4 weights, const float4 (&norm)[S::kUnits], int64_t token, int place) {
#pragma unroll
  for (int u = 0; u < S::kUnits; ++u) {
    const auto& s = held.streams[u];
    auto one = [&](float a, float b, float c, float d, float w) {
      return w * (weights.x * a + weights.y * b + (weights.z * c + weights.w * d));
    };
    *reinterpret_cast<float4*>(p.x + token * S::kDim + place + 16 * u) = {
        one(s[0].x, s[1].x, s[2].x, s[3].x, norm[u].x), one(s[0].y, s[1].y, s[2].y, s[3].y, norm[u].y),
        one(s[0].z, s[1].z, s[2].z, s[3].z, norm[u].z), one(s[0].w, s[1].w, s[2].w, s[3].w, norm[u].w)};
  }
}

template <class S>
__device__ void work(typename S::Space& space, const Params& p, int group, int warp, int lane, uint32_t rank) {
  auto& mine = space.group[group];
  int g = lane / 4, unit = warp * S::kUnits, place = static_cast<int>(rank) * S::kSlice + 16 * unit + 4 * (lane % 4), worker = 32 * warp + lane;
  Tiles tiles(p, S::kGroups, group);
  auto expect = [&](int round) {
    if (worker == 0) ptx::barrier_expect(ptx::shared_address(&space.weights_here[group][round % 2]), kTile * sizeof(float4));
  };
  int round = 0;
  for (int first = tiles.first; first < p.tokens; first += tiles.step, ++round) {
    int64_t token = first + g;
    bool live = g < p.tile && token < p.tokens;
    Held<S> held;
    load<S>(held, p, token, place, live);
    float coefficient = load_coefficient<S>(p, first, worker);
    if (round == 0) {
      split_fn<S>(space, group * S::kWarps + warp, lane);
      ptx::cluster_arrive();
    }
    if (p.y) {
      keep_coefficient<S>(mine, worker, coefficient);
      ptx::barrier_sync(1 + group, S::kWorkers);
      mix<S>(held, p, mine.coefficients[g], token, place, live);
    }
    if (round == 0) {
      ptx::cluster_wait();  // every block has started, and fn is there
      expect(0), expect(1);
    }
    add_up<S>(held, space, unit, lane, mine.warp_sums[warp]);
    ptx::barrier_sync(1 + group, S::kWorkers);
    send<S>(mine, space.sums_here[group], round, rank, worker);
    float4 norm[S::kUnits];
#pragma unroll
    for (int u = 0; u < S::kUnits; ++u) norm[u] = *reinterpret_cast<const float4*>(p.norm + place + 16 * u);
    ptx::barrier_wait(ptx::shared_address(&space.weights_here[group][round % 2]), round / 2 % 2);
    expect(round + 2);
    if (live) finish<S>(held, p, mine.weights[round % 2][g], norm, token, place);
  }
  if (round > 0) return;
  split_fn<S>(space, group * S::kWarps + warp, lane);
  ptx::cluster_arrive();
  ptx::cluster_wait();
}

// The warp beside a group: makes weights, post and comb of the tokens that this block owns. Lane i works for logit i, and lanes
// 8 + 4 j + k for comb[j][k].
template <class S>
__device__ void own_tokens(typename S::Space& space, const Params& p, int group, int lane, uint32_t rank) {
  auto& mine = space.group[group];
  Tiles tiles(p, S::kGroups, group);
  uint32_t barrier = ptx::shared_address(&space.sums_here[group]);
  int n = static_cast<int>(rank) % kTile, round = static_cast<int>(rank) / kTile;
  float base = p.base[min(lane, kLogits - 1)], scale = p.scale[lane < 4 ? 0 : lane < 8 ? 1 : 2];
  ptx::cluster_arrive();
  ptx::cluster_wait();
  for (int first = tiles.first + round * tiles.step; first < p.tokens; first += 2 * tiles.step, round += 2) {
    if (lane == 0) ptx::barrier_expect(barrier, sizeof(mine.sums));
    ptx::barrier_wait(barrier, round / 2 % 2);
    float sum = 0, rest = 0, gram[kPairs], pre[kStreams], squares = 0;
#pragma unroll
    for (int b = 0; b < kBlocks; ++b) sum += mine.sums[b][lane], rest += mine.sums[b][32 + lane % 2];
#pragma unroll
    for (int i = 0; i < kPairs; ++i) gram[i] = i < 8 ? __shfl_sync(~0u, sum, kLogits + i) : __shfl_sync(~0u, rest, i - 8);
    float inverse = rsqrtf(((gram[0] + gram[pair_index(1, 1)]) + (gram[pair_index(2, 2)] + gram[pair_index(3, 3)])) /
                               static_cast<float>(kStreams * S::kDim) + p.norm_eps);
    float logit = sum * inverse * scale + base, gate = sigmoid_of(logit);
#pragma unroll
    for (int s = 0; s < kStreams; ++s) pre[s] = __shfl_sync(~0u, gate, s) + p.sinkhorn_eps;
#pragma unroll
    for (int i = 0; i < kStreams; ++i)
#pragma unroll
      for (int j = i; j < kStreams; ++j) squares += (i == j ? 1.f : 2.f) * pre[i] * pre[j] * gram[pair_index(i, j)];
    float by = rsqrtf(fmaxf(squares, 0.f) * (1.0f / S::kDim) + p.norm_eps);
    if (lane < kBlocks) {
      ptx::send_remote(ptx::remote_address(ptx::shared_address(&mine.weights[round % 2][n]), lane),
                       ptx::remote_address(ptx::shared_address(&space.weights_here[group][round % 2]), lane),
                       float4{pre[0] * by, pre[1] * by, pre[2] * by, pre[3] * by});
    }
    if (n >= p.tile || first + n >= p.tokens) continue;
    float max = fmaxf(logit, __shfl_xor_sync(~0u, logit, 1));
    float part = __expf(logit - fmaxf(max, __shfl_xor_sync(~0u, max, 2))), row = part + __shfl_xor_sync(~0u, part, 1);
    part = part * reciprocal(row + __shfl_xor_sync(~0u, row, 2)) + p.sinkhorn_eps;
    float in_row[kStreams], in_column[kStreams], u[kStreams], v[kStreams];
    int j = lane / 4 - 2, k = lane % 4;
#pragma unroll
    for (int i = 0; i < kStreams; ++i) {
      in_row[i] = __shfl_sync(~0u, part, 8 + 4 * k + i);
      in_column[i] = __shfl_sync(~0u, part, 8 + 4 * i + k);
    }
    sinkhorn(in_row, in_column, p.iterations, p.sinkhorn_eps, u, v);
    float row_scale = j == 0 ? u[0] : j == 1 ? u[1] : j == 2 ? u[2] : u[3], column_scale = k == 0 ? v[0] : k == 1 ? v[1] : k == 2 ? v[2] : v[3];
    int64_t token = first + n;
    if (lane >= 4 && lane < 8) p.post[token * 4 + lane - 4] = 2.f * gate;
    if (lane >= 8 && lane < kLogits) p.comb[token * 16 + lane - 8] = part * (row_scale * column_scale);
  }
}

template <class S>
__global__ void __launch_bounds__(S::kThreads, 1) boundary_kernel(const __grid_constant__ Params p) {
  extern __shared__ __align__(128) uint8_t raw[];
  auto& space = *reinterpret_cast<typename S::Space*>(raw);
  uint32_t rank = ptx::cluster_rank();
  int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  bool worker = warp < S::kGroups * S::kWarps;
  int group = worker ? warp / S::kWarps : warp - S::kGroups * S::kWarps, warp_of_group = warp % S::kWarps;
  ptx::let_next_start();
  if (worker) {
    fetch_fn<S>(space, p, warp, lane, static_cast<int>(rank));
  } else if (lane == 0) {
    ptx::barrier_init(ptx::shared_address(&space.sums_here[group]), 1);
    for (int i = 0; i < 2; ++i) ptx::barrier_init(ptx::shared_address(&space.weights_here[group][i]), 1);
    ptx::barrier_init_done();
  }
  __syncwarp();
  ptx::wait_for_previous();
  if (worker) work<S>(space, p, group, warp_of_group, lane, rank);
  else own_tokens<S>(space, p, group, lane, rank);
}

using Flash = Shape<4096, 2, 2>;
using Pro = Shape<7168, 4, 2>;

template <class S>
cudaLaunchConfig_t configuration(cudaLaunchAttribute (&attributes)[2], int clusters, cudaStream_t stream, bool dependent) {
  attributes[0].id = cudaLaunchAttributeClusterDimension;
  attributes[0].val.clusterDim = {kBlocks, 1, 1};
  attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[1].val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(kBlocks * clusters));
  config.blockDim = dim3(S::kThreads);
  config.dynamicSmemBytes = sizeof(typename S::Space);
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = dependent ? 2 : 1;
  return config;
}

// Clusters that run at once; 0 where a cluster of 16 does not fit. Asked once: it is a property of the device.
template <class S>
int clusters_at_once() {
  static const int count = [] {
    auto kernel = boundary_kernel<S>;
    if (cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1) != cudaSuccess ||
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, sizeof(typename S::Space)) != cudaSuccess)
      return 0;
    cudaLaunchAttribute attributes[2]{};
    cudaLaunchConfig_t config = configuration<S>(attributes, 1, nullptr, false);
    int most = 0;
    return cudaOccupancyMaxActiveClusters(&most, kernel, &config) == cudaSuccess ? most : 0;
  }();
  return count;
}

template <class S>
void launch(CudaContext& context, Params p, bool dependent) {
  int most = clusters_at_once<S>();
  int slots = S::kGroups * most;
  p.tile = std::clamp((p.tokens + slots - 1) / slots, 1, kTile);
  int clusters = std::min(most, (p.tokens + p.tile - 1) / p.tile);
  cudaLaunchAttribute attributes[2]{};
  cudaLaunchConfig_t config = configuration<S>(attributes, clusters, context.stream, dependent);
  cudaError_t error = cudaLaunchKernelEx(&config, boundary_kernel<S>, p);
  KVASIR_CHECK(error == cudaSuccess, "boundary of {} tokens: {}", p.tokens, cudaGetErrorString(error));
}

}  // namespace

bool boundary_cluster_serves(const HcBoundaryArgs& a) {
  if (a.streams.shape(1) != kStreams || a.streams.shape(0) > (int64_t{1} << 30)) return false;
  if (a.streams.shape(2) == 4096) return clusters_at_once<Flash>() > 0;
  if (a.streams.shape(2) == 7168) return clusters_at_once<Pro>() > 0;
  return false;
}

void boundary_cluster(CudaContext& context, const HcBoundaryArgs& a, bool dependent) {
  int64_t tokens = a.streams.shape(0), dim = a.streams.shape(2);
  KVASIR_CHECK(a.streams.dense() && a.x.dense() && a.post.dense() && a.comb.dense() && a.w.fn.dense(), "streams that are {} apart",
               a.streams.stride(0));
  KVASIR_CHECK(a.w.fn.shape(0) == kLogits && a.w.fn.shape(1) == kStreams * dim && a.norm.shape(0) == dim, "fn [{}, {}], norm {} for {}",
               a.w.fn.shape(0), a.w.fn.shape(1), a.norm.shape(0), dim);
  KVASIR_CHECK(a.x.shape(0) == tokens && (a.y.empty() || (a.y.shape(0) == tokens && a.y.dense())), "x of {}, y of {} for {} tokens",
               a.x.shape(0), a.y.shape(0), tokens);
  Params p{a.y.data(),     a.w.fn.data(), a.w.base.data(),           a.w.scale.data(), a.norm.data(),
           a.streams.data(), a.x.data(),  a.post.data(),             a.comb.data(),    static_cast<int>(tokens),
           0,              a.sinkhorn_iters, a.norm_eps,             a.sinkhorn_eps};
  if (dim == 4096) return launch<Flash>(context, p, dependent);
  launch<Pro>(context, p, dependent);
}

}  // namespace kvasir::cuda
