// The boundary between two half blocks: hc_post, the 24 mixing logits, Sinkhorn, the mix and its norm, in one launch.
//
// A cluster of 16 blocks works on tiles of up to 8 tokens; each block owns a sixteenth of `dim` and keeps its part of fn
// in shared memory for as long as it lives. Per tile a block
//   1. mixes its part of the new streams, writes them and keeps them in registers;
//   2. adds up, over its part, 24 logits (tensor cores) and the 10 products of streams with each other, of which
//        mean(f^2) = trace(G) / 4 dim    and    mean(x^2) = pre^T G pre / dim,
//      so that one exchange between the blocks serves both norms;
//   3. sends its partial sums to all 16 (logits of post and comb only to the block that is the token's), and waits;
//   4. adds the sixteen up in order of rank, and writes its part of norm(sum pre * streams).
// Two groups of warps in a block work on tiles of their own, so that one computes while the other waits for memory or for
// the other blocks. One more warp per group does Sinkhorn for the token whose number in the tile is the block's rank, beside
// step 4 and the next tile. Small and large batches run the same code on a token: its bits do not depend on its company.
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
constexpr int kShared = 4 + kPairs;             // sums that every block needs
constexpr int kOwn = kLogits - 4;               // sums that the token's own block needs
constexpr int kSums = (kLogits + kPairs) * kTile;
constexpr int kGroups = 2;
constexpr int kOwnBlocks = kTile;               // ranks that are some token's own block

// kUnits: runs of 16 values of `dim` that a warp works on.
template <int kDimension, int kUnitCount>
struct Shape {
  static constexpr int kDim = kDimension, kUnits = kUnitCount;
  static constexpr int kSlice = kDim / kBlocks;
  static constexpr int kWarps = kSlice / (16 * kUnits);     // of a group
  static constexpr int kWorkers = 32 * kWarps;
  static constexpr int kThreads = kGroups * (kWorkers + 32);
  struct Exchange {
    float shared_sums[kBlocks][kShared * kTile];            // written by the other blocks, as the next
    float own_sums[kBlocks][kOwn];
  };
  struct GroupSpace {
    Exchange from[2];                                       // tiles take turns
    float warp_sums[kWarps][kSums];
    alignas(16) float weights[kTile][kStreams];
    float own_totals[kLogits];
  };
  struct Space {
    uint4 fn[kSlice / 16][kStreams][3][32];                 // see split_fn
    GroupSpace group[kGroups];
    float base[kLogits], scale[4];
    uint64_t full[kGroups][2];                              // all sums of a tile have come
  };
  static_assert(sizeof(Space) <= 232448);
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

// spec 6.2 in one thread's registers, as scales of the rows and columns of the softmax: A = u a v, and a row step makes
// u = 1 / (sum a v + eps / u). Reciprocals come from the last ones by a third-order step once they are close. When a row and
// a column step change no scale by more than some units in the last place, what is left of the iterations would not either.
__device__ void sinkhorn(float (&a)[kStreams][kStreams], int iterations, float eps) {
  constexpr float kClose = 0x1p-9f, kDone = 3.6e-7f;
  float u[4] = {1, 1, 1, 1}, inverse_u[4] = {1, 1, 1, 1}, v[4], inverse_v[4];
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    float max = fmaxf(fmaxf(a[j][0], a[j][1]), fmaxf(a[j][2], a[j][3]));
#pragma unroll
    for (int k = 0; k < 4; ++k) a[j][k] = __expf(a[j][k] - max);
    float r = reciprocal((a[j][0] + a[j][1]) + (a[j][2] + a[j][3]));
#pragma unroll
    for (int k = 0; k < 4; ++k) a[j][k] = a[j][k] * r + eps;
  }
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    inverse_v[k] = ((a[0][k] + a[1][k]) + (a[2][k] + a[3][k])) + eps;
    v[k] = reciprocal(inverse_v[k]);
  }
  // One row step and one column step; the greatest relative change of a scale.
  auto iterate = [&](auto close) {
    float off = 0;
    auto renew = [&](float& scale, float& inverse, float sum) {
      float e = 1.0f - sum * scale;
      off = fmaxf(off, fabsf(e));
      inverse = sum;
      scale = close ? scale + scale * (e + e * e) : reciprocal(sum);
    };
#pragma unroll
    for (int j = 0; j < 4; ++j) renew(u[j], inverse_u[j], (a[j][0] * v[0] + a[j][1] * v[1]) + (a[j][2] * v[2] + (a[j][3] * v[3] + eps * inverse_u[j])));
#pragma unroll
    for (int k = 0; k < 4; ++k) renew(v[k], inverse_v[k], (a[0][k] * u[0] + a[1][k] * u[1]) + (a[2][k] * u[2] + (a[3][k] * u[3] + eps * inverse_v[k])));
    return off;
  };
  int i = 1;
  while (i < iterations && (++i, iterate(std::false_type{})) > kClose) {}
  while (i < iterations && (++i, iterate(std::true_type{})) > kDone) {}
#pragma unroll
  for (int j = 0; j < 4; ++j)
#pragma unroll
    for (int k = 0; k < 4; ++k) a[j][k] *= u[j] * v[k];
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

// A group's part of fn into shared memory, as the factors of add_up: for each run of 16 values and stream, and each lane
// 4g + c, the values 4c to 4c + 3 of the rows g and g + 8, upper halves, lower halves, and of row g + 16 both. The order of
// the sum is free, so that four neighbours in memory stand for two pairs of columns.
template <class S>
__device__ void split_fn(typename S::Space& space, const Params& p, int unit, int lane, int rank, int first_stream) {
  const float* row = p.fn + static_cast<int64_t>(lane / 4) * kStreams * S::kDim + rank * S::kSlice + 4 * (lane % 4);
#pragma unroll
  for (int u = 0; u < S::kUnits; ++u) {
#pragma unroll
    for (int s = first_stream; s < first_stream + kStreams / kGroups; ++s) {
      const float* at = row + s * S::kDim + 16 * (unit + u);
      constexpr int64_t kEight = int64_t{8} * kStreams * S::kDim;
      Halves a = split(*reinterpret_cast<const float4*>(at)), b = split(*reinterpret_cast<const float4*>(at + kEight)),
             c = split(*reinterpret_cast<const float4*>(at + 2 * kEight));
      uint4(*to)[32] = space.fn[unit + u][s];
      to[0][lane] = {a.high.x, b.high.x, a.high.y, b.high.y};
      to[1][lane] = {a.low.x, b.low.x, a.low.y, b.low.y};
      to[2][lane] = {c.high.x, c.low.x, c.high.y, c.low.y};
    }
  }
}

// The streams of one thread: token g of the tile, and of each of its units four neighbouring places.
template <class S>
struct Held {
  float4 streams[S::kUnits][kStreams];
};

__device__ float4 mixed(float4 y, const float4 (&s)[kStreams], float post, float4 comb) {
  auto one = [&](float v, float v0, float v1, float v2, float v3) {
    return post * v + comb.x * v0 + (comb.y * v1 + (comb.z * v2 + comb.w * v3));
  };
  return {one(y.x, s[0].x, s[1].x, s[2].x, s[3].x), one(y.y, s[0].y, s[1].y, s[2].y, s[3].y),
          one(y.z, s[0].z, s[1].z, s[2].z, s[3].z), one(y.w, s[0].w, s[1].w, s[2].w, s[3].w)};
}

// Step 1: this thread's places of the new streams; zeros where there is no token.
template <class S>
__device__ void load_and_mix(Held<S>& held, const Params& p, int64_t token, int place, bool live) {
  float* streams = p.streams + token * kStreams * S::kDim + place;
  float4 y[S::kUnits], post = {}, comb[kStreams] = {};
#pragma unroll
  for (int u = 0; u < S::kUnits; ++u) {
#pragma unroll
    for (int s = 0; s < kStreams; ++s)
      held.streams[u][s] = live ? *reinterpret_cast<const float4*>(streams + s * S::kDim + 16 * u) : float4{0, 0, 0, 0};
    y[u] = live && p.y ? *reinterpret_cast<const float4*>(p.y + token * S::kDim + place + 16 * u) : float4{0, 0, 0, 0};
  }
  if (!p.y || !live) return;
  post = *reinterpret_cast<const float4*>(p.post + token * kStreams);
#pragma unroll
  for (int j = 0; j < kStreams; ++j) comb[j] = *reinterpret_cast<const float4*>(p.comb + (token * kStreams + j) * kStreams);
#pragma unroll
  for (int u = 0; u < S::kUnits; ++u) {
    auto& s = held.streams[u];
    float4 fresh[kStreams] = {mixed(y[u], s, post.x, {comb[0].x, comb[1].x, comb[2].x, comb[3].x}),
                              mixed(y[u], s, post.y, {comb[0].y, comb[1].y, comb[2].y, comb[3].y}),
                              mixed(y[u], s, post.z, {comb[0].z, comb[1].z, comb[2].z, comb[3].z}),
                              mixed(y[u], s, post.w, {comb[0].w, comb[1].w, comb[2].w, comb[3].w})};
#pragma unroll
    for (int k = 0; k < kStreams; ++k) {
      s[k] = fresh[k];
      *reinterpret_cast<float4*>(streams + k * S::kDim + 16 * u) = fresh[k];
    }
  }
}

// Step 2: sums over this warp's part, into sums[row * kTile + token].
template <class S>
__device__ void add_up(const Held<S>& held, const typename S::Space& space, int unit, int lane, float* sums) {
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
#pragma unroll
  for (int i = 0; i < kPairs; ++i) {
    gram[i] += __shfl_xor_sync(~0u, gram[i], 1);
    gram[i] += __shfl_xor_sync(~0u, gram[i], 2);
    if (i % 4 == c) sums[(kLogits + i) * kTile + g] = gram[i];
  }
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
  auto put = [&](int row, float a, float b) { *reinterpret_cast<float2*>(&sums[row * kTile + 2 * c]) = {a, b}; };
  put(g, high_high[0] + (high_low[0] + low_high[0]), high_high[1] + (high_low[1] + low_high[1]));
  put(g + 8, high_high[2] + (high_low[2] + low_high[2]), high_high[3] + (high_low[3] + low_high[3]));
  put(g + 16, last_high[0] + (last_low[0] + last_high[2]), last_high[1] + (last_low[1] + last_high[3]));
}

// Step 3: the block's sums to whoever needs them, four tokens a thread.
template <class S>
__device__ void send(typename S::GroupSpace& group, uint64_t* full, int buffer, uint32_t rank, int worker) {
  if (worker >= kSums / 4) return;
  float4 sum = {0, 0, 0, 0};
#pragma unroll
  for (int w = 0; w < S::kWarps; ++w) {
    float4 v = *reinterpret_cast<const float4*>(&group.warp_sums[w][4 * worker]);
    sum = {sum.x + v.x, sum.y + v.y, sum.z + v.z, sum.w + v.w};
  }
  int row = worker / 2, token = worker % 2 * 4;
  uint32_t barrier = ptx::shared_address(full);
  auto& to = group.from[buffer];
  if (row >= 4 && row < kLogits) {
    uint32_t address = ptx::shared_address(&to.own_sums[rank][row - 4]);
    auto one = [&](int n, float value) { ptx::send_remote(ptx::remote_address(address, n), ptx::remote_address(barrier, n), value); };
    one(token, sum.x), one(token + 1, sum.y), one(token + 2, sum.z), one(token + 3, sum.w);
    return;
  }
  uint32_t address = ptx::shared_address(&to.shared_sums[rank][(row < 4 ? row : row - kOwn) * kTile + token]);
#pragma unroll
  for (uint32_t b = 0; b < kBlocks; ++b) ptx::send_remote(ptx::remote_address(address, b), ptx::remote_address(barrier, b), sum);
}

template <class S>
constexpr uint32_t bytes_of_tile(uint32_t rank) {
  return static_cast<uint32_t>(kBlocks * sizeof(float)) * (kShared * kTile + (rank < kOwnBlocks ? kOwn : 0));
}

// 1 / rms of all streams, from their squares.
template <class S>
__device__ float inverse_of_streams(float a, float b, float c, float d, float eps) {
  return rsqrtf(((a + b) + (c + d)) / static_cast<float>(kStreams * S::kDim) + eps);
}

// Step 4, once per tile: the weights of the streams in the normed mix, by one warp. Lane 4g + s works for stream s of
// token g; of the ten products of streams it adds up those numbered s, s + 4 and s + 8.
template <class S>
__device__ void weigh(const Params& p, const typename S::Space& space, const typename S::Exchange& from, int lane, float* weights) {
  int g = lane / 4, s = lane % 4;
  float logit = 0, part[3] = {}, gram[kPairs], pre[kStreams], squares = 0;
#pragma unroll
  for (int b = 0; b < kBlocks; ++b) {
    const float* sums = &from.shared_sums[b][g];
    logit += sums[s * kTile];
    part[0] += sums[(4 + s) * kTile];
    part[1] += sums[(8 + s) * kTile];
    part[2] += sums[(12 + s % 2) * kTile];
  }
#pragma unroll
  for (int i = 0; i < kPairs; ++i) gram[i] = __shfl_sync(~0u, part[i / 4], i % 4, 4);
  float inverse = inverse_of_streams<S>(gram[0], gram[pair_index(1, 1)], gram[pair_index(2, 2)], gram[pair_index(3, 3)], p.norm_eps);
  float mine = sigmoid_of(logit * inverse * space.scale[0] + space.base[s]) + p.sinkhorn_eps;
#pragma unroll
  for (int i = 0; i < kStreams; ++i) pre[i] = __shfl_sync(~0u, mine, i, 4);
#pragma unroll
  for (int i = 0; i < kStreams; ++i)
#pragma unroll
    for (int j = i; j < kStreams; ++j) squares += (i == j ? 1.f : 2.f) * pre[i] * pre[j] * gram[pair_index(i, j)];
  weights[lane] = mine * rsqrtf(fmaxf(squares, 0.f) / static_cast<float>(S::kDim) + p.norm_eps);
}

// This thread's places of x.
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

// post and comb of one token, from its 20 logits and the squares of its streams.
template <class S>
__device__ void finish_token(const Params& p, const typename S::Space& space, const float* sums, int64_t token, bool write) {
  float inverse = inverse_of_streams<S>(sums[kOwn], sums[kOwn + 1], sums[kOwn + 2], sums[kOwn + 3], p.norm_eps);
  float a[kStreams][kStreams], post[kStreams];
#pragma unroll
  for (int i = 0; i < 16; ++i) a[i / 4][i % 4] = sums[4 + i] * inverse * space.scale[2] + space.base[8 + i];
#pragma unroll
  for (int i = 0; i < 4; ++i) post[i] = 2.f * sigmoid_of(sums[i] * inverse * space.scale[1] + space.base[4 + i]);
  sinkhorn(a, p.iterations, p.sinkhorn_eps);
  if (!write) return;
  *reinterpret_cast<float4*>(p.post + token * 4) = {post[0], post[1], post[2], post[3]};
#pragma unroll
  for (int i = 0; i < 4; ++i) *reinterpret_cast<float4*>(p.comb + token * 16 + 4 * i) = {a[i][0], a[i][1], a[i][2], a[i][3]};
}

// Which tiles a group goes through: token `first`, then every `step` further.
struct Tiles {
  int first, step;
  __device__ Tiles(const Params& p, int group) {
    int clusters = static_cast<int>(gridDim.x) / kBlocks;
    first = (group * clusters + static_cast<int>(blockIdx.x) / kBlocks) * p.tile;
    step = kGroups * clusters * p.tile;
  }
};

template <class S>
__device__ void work(typename S::Space& space, const Params& p, int group, int warp, int lane, uint32_t rank) {
  auto& mine = space.group[group];
  int g = lane / 4, unit = warp * S::kUnits, place = static_cast<int>(rank) * S::kSlice + 16 * unit + 4 * (lane % 4), worker = 32 * warp + lane;
  int summed = 1 + 2 * group, added = 2 + 2 * group;  // named barriers of the group
  Tiles tiles(p, group);
  bool fresh = true;
  int round = 0;
  for (int first = tiles.first; first < p.tokens; first += tiles.step, ++round) {
    int64_t token = first + g;
    bool live = g < p.tile && token < p.tokens;
    Held<S> held;
    load_and_mix<S>(held, p, token, place, live);
    if (fresh) ptx::cluster_wait();  // every block has started, and fn is there
    fresh = false;
    add_up<S>(held, space, unit, lane, mine.warp_sums[warp]);
    ptx::barrier_sync(summed, S::kWorkers + 32);
    send<S>(mine, &space.full[group][round % 2], round % 2, rank, worker);
    float4 norm[S::kUnits];
#pragma unroll
    for (int u = 0; u < S::kUnits; ++u) norm[u] = *reinterpret_cast<const float4*>(p.norm + place + 16 * u);
    if (warp == 0) {
      ptx::barrier_wait(ptx::shared_address(&space.full[group][round % 2]), round / 2 % 2);
      weigh<S>(p, space, mine.from[round % 2], lane, &mine.weights[0][0]);
    }
    ptx::barrier_sync(added, S::kWorkers);
    if (live) finish<S>(held, p, *reinterpret_cast<const float4*>(mine.weights[g]), norm, token, place);
  }
  if (fresh) ptx::cluster_wait();
}

// The warp beside a group: counts its exchanges and does Sinkhorn.
template <class S>
__device__ void attend_tokens(typename S::Space& space, const Params& p, int group, int lane, uint32_t rank) {
  auto& mine = space.group[group];
  Tiles tiles(p, group);
  int summed = 1 + 2 * group, round = 0, n = static_cast<int>(rank);
  auto expect = [&](int r) {
    if (lane == 0) ptx::barrier_expect(ptx::shared_address(&space.full[group][r % 2]), bytes_of_tile<S>(rank));
  };
  ptx::cluster_wait();
  if (tiles.first < p.tokens) {
    expect(0);
    ptx::barrier_arrive(summed, S::kWorkers + 32);
  }
  for (int first = tiles.first; first < p.tokens; first += tiles.step, ++round) {
    bool more = first + tiles.step < p.tokens, own = n < p.tile && first + n < p.tokens;
    if (more) expect(round + 1);
    ptx::barrier_wait(ptx::shared_address(&space.full[group][round % 2]), round / 2 % 2);
    if (own && lane < kLogits) {
      constexpr int kDiagonal[kStreams] = {pair_index(0, 0), pair_index(1, 1), pair_index(2, 2), pair_index(3, 3)};
      const auto& from = mine.from[round % 2];
      int at = 4;
#pragma unroll
      for (int s = 0; s < kStreams; ++s) at = lane == kOwn + s ? 4 + kDiagonal[s] : at;
      float sum = 0;
#pragma unroll
      for (int b = 0; b < kBlocks; ++b) sum += lane < kOwn ? from.own_sums[b][lane] : from.shared_sums[b][at * kTile + n];
      mine.own_totals[lane] = sum;
    }
    __syncwarp();
    if (more) ptx::barrier_arrive(summed, S::kWorkers + 32);  // the sums have been read: their place may be written
    if (own) finish_token<S>(p, space, mine.own_totals, first + n, lane == 0);
    __syncwarp();
  }
}

template <class S>
__global__ void __launch_bounds__(S::kThreads, 1) boundary_kernel(const __grid_constant__ Params p) {
  extern __shared__ __align__(128) uint8_t raw[];
  auto& space = *reinterpret_cast<typename S::Space*>(raw);
  uint32_t rank = ptx::cluster_rank();
  int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  bool worker = warp < kGroups * S::kWarps;
  int group = worker ? warp / S::kWarps : warp - kGroups * S::kWarps, warp_of_group = warp % S::kWarps;
  ptx::let_next_start();
  if (worker) {
    split_fn<S>(space, p, warp_of_group * S::kUnits, lane, static_cast<int>(rank), group * (kStreams / kGroups));
  } else if (group == 0) {
    if (lane < kGroups * 2) ptx::barrier_init(ptx::shared_address(&space.full[lane / 2][lane % 2]), 1);
    ptx::barrier_init_done();
    if (lane < kLogits) space.base[lane] = p.base[lane];
    if (lane < 3) space.scale[lane] = p.scale[lane];
  }
  ptx::cluster_arrive();
  ptx::wait_for_previous();
  if (worker) work<S>(space, p, group, warp_of_group, lane, rank);
  else attend_tokens<S>(space, p, group, lane, rank);
}

using Flash = Shape<4096, 2>;
using Pro = Shape<7168, 4>;

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
  p.tile = std::clamp((p.tokens + kGroups * most - 1) / (kGroups * most), 1, kTile);
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
