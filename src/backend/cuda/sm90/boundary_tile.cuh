// What the threads of the boundary kernel do with their part of a tile: layout of shared memory, the streams'
// mix, the sums, Sinkhorn. How the parts play together stands in boundary_cluster.cu, the only file that
// includes this one.
#pragma once

#include <type_traits>

#include "backend/cuda/context.h"
#include "backend/cuda/sm90/boundary_ptx.cuh"

namespace kvasir::cuda {
namespace boundary {

constexpr int kBlocks = 16;  // of a cluster
constexpr int kTile = 8;     // tokens: the narrow side of the products
constexpr int kStreams = 4;
constexpr int kLogits = 24;  // pre 4, post 4, comb 16
constexpr int kPairs = 10;   // of streams
constexpr int kRecord = 36;  // kSums, to a multiple of 16 bytes

// kUnits: runs of 16 values of `dim` that a warp works on. kGroups: groups of warps with tiles of their own.
template <int kDimension, int kUnitCount, int kGroupCount>
struct Shape {
  static constexpr int kDim = kDimension, kUnits = kUnitCount, kGroups = kGroupCount;
  static constexpr int kSlice = kDim / kBlocks;
  static constexpr int kWarps = kSlice / (16 * kUnits);  // of a group
  static constexpr int kWorkers = 32 * kWarps;
  static constexpr int kThreads = kGroups * (kWorkers + 32);
  struct GroupSpace {
    float warp_sums[kWarps][kTile][kRecord];
    float sums[kBlocks][kRecord];                 // of the token that this block owns, from every block
    float4 weights[2][kTile];                     // from the owners; tiles take turns
    float coefficients[kTile][kStreams * 8 + 4];  // of new stream k, from 8 k: comb[0..3][k], post[k]
  };
  struct Space {
    uint4 fn[kSlice / 16][kStreams][3][32];  // see split_fn
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

// The row and column steps of spec 6.2 on a matrix that has had its row softmax, as scales of rows and
// columns: A = u a v, and a row step makes u = 1 / (sum a v + eps / u). Every four lanes do the same: lane c
// holds row c and column c of `a` and renews u[c] and v[c]. Reciprocals come from the last ones by a
// third-order step once they are close. When a row and a column step change no scale by more than a
// millionth, what is left of the iterations would not either.
__device__ void sinkhorn(const float (&row)[kStreams], const float (&column)[kStreams], int iterations,
                         float eps, float (&u)[kStreams], float (&v)[kStreams]) {
  constexpr float kClose = 0x1p-9f, kDone = 1e-6f;
  auto exchange = [](float mine, float(&all)[kStreams]) {
#pragma unroll
    for (int i = 0; i < kStreams; ++i) all[i] = __shfl_sync(~0u, mine, i, kStreams);
  };
  float inverse_u = 1, inverse_v = ((column[0] + column[1]) + (column[2] + column[3])) + eps, my_u = 1,
        my_v = reciprocal(inverse_v);
  exchange(my_v, v);
  // One row step and one column step. True if a scale changed by more than `limit` of it.
  auto iterate = [&](auto close, float limit) {
    auto renew = [&](float& scale, float& inverse, const float(&a)[kStreams], const float(&by)[kStreams]) {
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
  while (i < iterations && (++i, iterate(std::false_type{}, kClose))) {
  }
  while (i < iterations && (++i, iterate(std::true_type{}, kDone))) {
  }
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

// A block's part of fn in shared memory, as the factors of add_up: for each run of 16 values and stream, and
// each lane 4g + c, the values 4c to 4c + 3 of the rows g and g + 8, upper halves, lower halves, and of row g
// + 16 both. The order of the sum is free, so that four neighbours in memory stand for two pairs of columns.
// A thread fetches the f32 values to the very places that their halves take later, and splits them there.
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
  const float* row =
      p.fn + static_cast<int64_t>(lane / 4) * kStreams * S::kDim + rank * S::kSlice + 4 * (lane % 4);
  each_piece<S>(space, warp, [&](int unit, int s, uint4(*to)[32]) {
#pragma unroll
    for (int i = 0; i < 3; ++i)
      ptx::copy_16(ptx::shared_address(&to[i][lane]),
                   row + i * (int64_t{8} * kStreams * S::kDim) + s * S::kDim + 16 * unit);
  });
}

template <class S>
__device__ void split_fn(typename S::Space& space, int warp, int lane) {
  ptx::copies_wait();
  each_piece<S>(space, warp, [&](int, int, uint4(*to)[32]) {
    Halves a = split(*reinterpret_cast<const float4*>(&to[0][lane])),
           b = split(*reinterpret_cast<const float4*>(&to[1][lane])),
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
      held.streams[u][s] =
          live ? *reinterpret_cast<const float4*>(streams + s * S::kDim + 16 * u) : float4{0, 0, 0, 0};
    held.y[u] = live && p.y ? *reinterpret_cast<const float4*>(y + 16 * u) : float4{0, 0, 0, 0};
  }
}

// Asks for the block's part of a tile in the L2 cache: by the time it is loaded, it is near, and memory was
// read in long runs.
template <class S>
__device__ void fetch_tile(const Params& p, int first, int warp, int lane, int rank) {
  constexpr uint32_t kBytes = S::kSlice * sizeof(float);
  if (lane > kStreams || (lane == kStreams && !p.y)) return;
  for (int n = warp; n < p.tile && first + n < p.tokens; n += S::kWarps) {
    int64_t token = first + n;
    ptx::prefetch_bulk(
        (lane < kStreams ? p.streams + (token * kStreams + lane) * S::kDim : p.y + token * S::kDim) +
            rank * S::kSlice,
        kBytes);
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
__device__ void mix(Held<S>& held, const Params& p, const float* coefficients, int64_t token, int place,
                    bool live) {
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

// Ten values, each added up over four neighbouring lanes: lane c gets those numbered 5 (c & 1) + {0 1 2 or 3
// 4} by c & 2.
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
__device__ void add_up(const Held<S>& held, const typename S::Space& space, int unit, int lane,
                       float (&sums)[kTile][kRecord]) {
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
      uint4 high = fn[0][lane], low = fn[1][lane],
            both = fn[2][lane];  // `both`: rows 16 to 23 fill half a tile
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

}  // namespace boundary
}  // namespace kvasir::cuda
