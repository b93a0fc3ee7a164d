// The boundary between two half blocks: hc_post, the 24 mixing logits, Sinkhorn, the mix and its norm, in one launch.
//
// A cluster of 16 blocks shares a tile of up to 8 tokens; each block owns a sixteenth of `dim` and keeps its part of fn
// in shared memory for as long as it lives. Per tile a block
//   1. mixes its part of the new streams, writes them and keeps them in registers;
//   2. adds up, over its part, 24 logits (tensor cores) and the 10 products of streams with each other, of which
//        mean(f^2) = trace(G) / 4 dim    and    mean(x^2) = pre^T G pre / dim,
//      so that one exchange between the blocks serves both norms;
//   3. sends its partial sums to all 16 (logits of post and comb only to the block that is the token's), and waits;
//   4. adds the sixteen up in order of rank, and writes its part of norm(sum pre * streams).
// One extra warp does Sinkhorn for the token whose number is the block's rank, beside step 4 and the next tile.
// Small and large batches run the same code on a token, so its bits do not depend on its company.
//
// The logits: factors are split into two tf32 numbers each, and the products hi*hi, hi*lo and lo*hi added, which leaves
// some 1e-6 (plain tf32: 2e-4). G in f32: if the streams cancel, so that |x|^2 is a share s of sum (pre |X|)^2, the norm
// is off by some 1e-7 / s.
#include "backend/cuda/sm90/boundary_cluster.h"

#include <algorithm>

#include "backend/cuda/sm90/boundary_ptx.cuh"
#include "base/check.h"

namespace kvasir::cuda {
namespace {

constexpr int kBlocks = 16;     // of a cluster
constexpr int kTile = 8;        // tokens, the narrow side of the products
constexpr int kStreams = 4;
constexpr int kLogits = 24;     // pre 4, post 4, comb 16
constexpr int kPairs = 10;      // of streams
constexpr int kShared = 4 + kPairs;             // sums that every block needs
constexpr int kOwn = kLogits - 4;               // sums that the token's own block needs
constexpr int kSums = (kLogits + kPairs) * kTile;

template <int kDim>
struct Shape {
  static constexpr int kSlice = kDim / kBlocks;
  static constexpr int kUnits = 2;                          // runs of 16 values of `dim` per warp
  static constexpr int kWarps = kSlice / (16 * kUnits);
  static constexpr int kWorkers = 32 * kWarps;
  static constexpr int kThreads = kWorkers + 32;
  static constexpr int kFnRow = kStreams * kSlice + 16;     // 64 bytes on: two rows share no bank
  struct Space {
    float fn[kLogits][kFnRow];
    float warp_sums[kWarps][kSums];
    float shared_sums[2][kBlocks][kShared * kTile];         // written by the other blocks
    float own_sums[2][kBlocks][kOwn];
    float totals[kShared * kTile + kOwn];
    float coefficients[2][kTile][kStreams + kStreams * kStreams];  // post and comb of the previous half block
    float base[kLogits], scale[3];
    alignas(8) uint64_t fn_here[kStreams];
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

__device__ float sigmoid_of(float x) { return 1.0f / (1.0f + __expf(-x)); }

__device__ constexpr int pair_index(int i, int j) { return i * (2 * kStreams - 1 - i) / 2 + j; }  // i <= j

// 1 / rms of all streams of tile token n.
__device__ float inverse_of_streams(const float* totals, int n, int dim, float eps) {
  float squares = 0;
#pragma unroll
  for (int s = 0; s < kStreams; ++s) squares += totals[(4 + pair_index(s, s)) * kTile + n];
  return rsqrtf(squares / static_cast<float>(kStreams * dim) + eps);
}

// spec 6.2 in one thread's registers. Once a row step finds rows that sum to 1 within two units in the last place, the
// iterations that are left would change nothing by more than that each.
__device__ void sinkhorn(float (&a)[kStreams][kStreams], int iterations, float eps) {
  constexpr float kDone = 2.4e-7f;
  auto normalise_columns = [&] {
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      float r = reciprocal(((a[0][k] + a[1][k]) + (a[2][k] + a[3][k])) + eps);
#pragma unroll
      for (int j = 0; j < 4; ++j) a[j][k] *= r;
    }
  };
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    float max = fmaxf(fmaxf(a[j][0], a[j][1]), fmaxf(a[j][2], a[j][3]));
#pragma unroll
    for (int k = 0; k < 4; ++k) a[j][k] = __expf(a[j][k] - max);
    float r = 1.0f / ((a[j][0] + a[j][1]) + (a[j][2] + a[j][3]));
#pragma unroll
    for (int k = 0; k < 4; ++k) a[j][k] = a[j][k] * r + eps;
  }
  normalise_columns();
  for (int i = 1; i < iterations; ++i) {
    float off = 0;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      float sum = ((a[j][0] + a[j][1]) + (a[j][2] + a[j][3])) + eps;
      off = fmaxf(off, fabsf(sum - 1.0f));
      float r = reciprocal(sum);
#pragma unroll
      for (int k = 0; k < 4; ++k) a[j][k] *= r;
    }
    normalise_columns();
    if (off <= kDone) break;
  }
}

// The values of one thread: token g of the tile, and of each of its units four neighbouring places in every stream.
template <int kDim>
struct Held {
  float4 streams[Shape<kDim>::kUnits][kStreams];
  float4 y[Shape<kDim>::kUnits];
};

template <int kDim>
__device__ void load(Held<kDim>& held, const Params& p, int64_t token, int place, bool live) {
#pragma unroll
  for (int u = 0; u < Shape<kDim>::kUnits; ++u) {
#pragma unroll
    for (int s = 0; s < kStreams; ++s)
      held.streams[u][s] = live ? *reinterpret_cast<const float4*>(p.streams + (token * kStreams + s) * kDim + place + 16 * u)
                                : float4{0, 0, 0, 0};
    held.y[u] = live && p.y ? *reinterpret_cast<const float4*>(p.y + token * kDim + place + 16 * u) : float4{0, 0, 0, 0};
  }
}

__device__ float4 mixed(float4 y, float4 a, float4 b, float4 c, float4 d, const float* post, const float* comb, int k) {
  float w = post[k], w0 = comb[k], w1 = comb[4 + k], w2 = comb[8 + k], w3 = comb[12 + k];
  auto one = [&](float v, float v0, float v1, float v2, float v3) { return w * v + w0 * v0 + (w1 * v1 + (w2 * v2 + w3 * v3)); };
  return {one(y.x, a.x, b.x, c.x, d.x), one(y.y, a.y, b.y, c.y, d.y), one(y.z, a.z, b.z, c.z, d.z), one(y.w, a.w, b.w, c.w, d.w)};
}

// Step 1: hc_post of this thread's places.
template <int kDim>
__device__ void post_mix(Held<kDim>& held, const Params& p, const float* coefficients, int64_t token, int place, bool live) {
#pragma unroll
  for (int u = 0; u < Shape<kDim>::kUnits; ++u) {
    auto& s = held.streams[u];
    float4 fresh[kStreams];
#pragma unroll
    for (int k = 0; k < kStreams; ++k) fresh[k] = mixed(held.y[u], s[0], s[1], s[2], s[3], coefficients, coefficients + kStreams, k);
#pragma unroll
    for (int k = 0; k < kStreams; ++k) {
      s[k] = live ? fresh[k] : float4{0, 0, 0, 0};
      if (live) *reinterpret_cast<float4*>(p.streams + (token * kStreams + k) * kDim + place + 16 * u) = s[k];
    }
  }
}

__device__ float upper(float x) { return __uint_as_float(__float_as_uint(x) & 0xffffe000u); }  // what tf32 holds of x
__device__ float part(float4 v, int i) { return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w; }

// Step 2: sums over this warp's part, into warp_sums[row * kTile + token].
template <int kDim>
__device__ void add_up(const Held<kDim>& held, typename Shape<kDim>::Space& space, int unit, int lane, float* warp_sums) {
  using S = Shape<kDim>;
  int g = lane / 4, c = lane % 4;
  float high_high[4] = {}, high_low[4] = {}, low_high[4] = {}, last_high[4] = {}, last_low[4] = {};
#pragma unroll
  for (int s = 0; s < kStreams; ++s) {
    ptx::barrier_wait(ptx::shared_address(&space.fn_here[s]), 0);
#pragma unroll
    for (int u = 0; u < S::kUnits; ++u) {
      int at = s * S::kSlice + 16 * (unit + u) + 4 * c;
      float4 first = *reinterpret_cast<const float4*>(&space.fn[g][at]);
      float4 second = *reinterpret_cast<const float4*>(&space.fn[g + 8][at]);
      float4 third = *reinterpret_cast<const float4*>(&space.fn[g + 16][at]);
#pragma unroll
      for (int i = 0; i < 4; i += 2) {  // places i and i+1 stand for the columns c and c+4 of A
        float exact[4] = {part(first, i), part(second, i), part(first, i + 1), part(second, i + 1)};
        float high[4], low[4];
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          high[k] = upper(exact[k]);
          low[k] = exact[k] - high[k];
        }
        float b_high[2] = {upper(part(held.streams[u][s], i)), upper(part(held.streams[u][s], i + 1))};
        float b_low[2] = {part(held.streams[u][s], i) - b_high[0], part(held.streams[u][s], i + 1) - b_high[1]};
        // Rows 16 to 23 fill half a tile: the other half takes their lower parts.
        float h0 = upper(part(third, i)), h1 = upper(part(third, i + 1));
        float both[4] = {h0, part(third, i) - h0, h1, part(third, i + 1) - h1};
        ptx::multiply_tf32(high_high, high, b_high);
        ptx::multiply_tf32(last_high, both, b_high);
        ptx::multiply_tf32(high_low, high, b_low);
        ptx::multiply_tf32(low_high, low, b_high);
        ptx::multiply_tf32(last_low, both, b_low);
      }
    }
  }
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
    if (i % 4 == c) warp_sums[(kLogits + i) * kTile + g] = gram[i];
  }
  auto put = [&](int row, float a, float b) { *reinterpret_cast<float2*>(&warp_sums[row * kTile + 2 * c]) = {a, b}; };
  put(g, high_high[0] + (high_low[0] + low_high[0]), high_high[1] + (high_low[1] + low_high[1]));
  put(g + 8, high_high[2] + (high_low[2] + low_high[2]), high_high[3] + (high_low[3] + low_high[3]));
  put(g + 16, last_high[0] + (last_low[0] + last_high[2]), last_high[1] + (last_low[1] + last_high[3]));
}

// Step 3: the block's sums to whoever needs them.
template <int kDim>
__device__ void send(typename Shape<kDim>::Space& space, int buffer, uint32_t rank) {
  using S = Shape<kDim>;
  for (int i = threadIdx.x; i < kSums; i += S::kWorkers) {
    float sum = 0;
#pragma unroll
    for (int w = 0; w < S::kWarps; ++w) sum += space.warp_sums[w][i];
    int row = i / kTile, n = i % kTile;
    if (row >= 4 && row < kLogits) {
      ptx::store_remote(ptx::shared_address(&space.own_sums[buffer][rank][row - 4]), n, sum);
    } else {
      int at = row < 4 ? i : i - kOwn * kTile;
      uint32_t address = ptx::shared_address(&space.shared_sums[buffer][rank][at]);
#pragma unroll
      for (uint32_t to = 0; to < kBlocks; ++to) ptx::store_remote(address, to, sum);
    }
  }
}

template <int kDim>
__device__ void add_blocks(typename Shape<kDim>::Space& space, int buffer) {
  int i = threadIdx.x;
  constexpr int kEnd = kShared * kTile;
  if (i >= kEnd + kOwn) return;
  const float* first = i < kEnd ? &space.shared_sums[buffer][0][i] : &space.own_sums[buffer][0][i - kEnd];
  int stride = i < kEnd ? kEnd : kOwn;
  float sum = 0;
#pragma unroll
  for (int b = 0; b < kBlocks; ++b) sum += first[b * stride];
  space.totals[i] = sum;
}

// Step 4: the mix of the streams, normed.
template <int kDim>
__device__ void finish(const Held<kDim>& held, const Params& p, const typename Shape<kDim>::Space& space,
                       const float4 (&norm)[Shape<kDim>::kUnits], int g, int64_t token, int place, bool live) {
  const float* totals = space.totals;
  float inverse = inverse_of_streams(totals, g, kDim, p.norm_eps), pre[kStreams], squares = 0;
#pragma unroll
  for (int s = 0; s < kStreams; ++s) pre[s] = sigmoid_of(totals[s * kTile + g] * inverse * space.scale[0] + space.base[s]) + p.sinkhorn_eps;
#pragma unroll
  for (int i = 0; i < kStreams; ++i)
#pragma unroll
    for (int j = i; j < kStreams; ++j) squares += (i == j ? 1.f : 2.f) * pre[i] * pre[j] * totals[(4 + pair_index(i, j)) * kTile + g];
  float scale = rsqrtf(fmaxf(squares, 0.f) / static_cast<float>(kDim) + p.norm_eps);
  if (!live) return;
#pragma unroll
  for (int u = 0; u < Shape<kDim>::kUnits; ++u) {
    const auto& s = held.streams[u];
    auto one = [&](float a, float b, float c, float d, float w) {
      return w * ((pre[0] * a + pre[1] * b + (pre[2] * c + pre[3] * d)) * scale);
    };
    *reinterpret_cast<float4*>(p.x + token * kDim + place + 16 * u) = {
        one(s[0].x, s[1].x, s[2].x, s[3].x, norm[u].x), one(s[0].y, s[1].y, s[2].y, s[3].y, norm[u].y),
        one(s[0].z, s[1].z, s[2].z, s[3].z, norm[u].z), one(s[0].w, s[1].w, s[2].w, s[3].w, norm[u].w)};
  }
}

// post and comb of one token, from its 20 logits.
__device__ void finish_token(const Params& p, const float* base, const float* scale, const float (&logit)[kOwn], float inverse,
                             int64_t token, bool write) {
  float a[kStreams][kStreams];
#pragma unroll
  for (int i = 0; i < 16; ++i) a[i / 4][i % 4] = logit[4 + i] * inverse * scale[2] + base[8 + i];
  sinkhorn(a, p.iterations, p.sinkhorn_eps);
  if (!write) return;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    p.post[token * 4 + i] = 2.f * sigmoid_of(logit[i] * inverse * scale[1] + base[4 + i]);
    *reinterpret_cast<float4*>(p.comb + token * 16 + 4 * i) = {a[i][0], a[i][1], a[i][2], a[i][3]};
  }
}

template <int kDim>
__device__ void copy_fn(typename Shape<kDim>::Space& space, const Params& p, int lane, uint32_t rank) {
  using S = Shape<kDim>;
  constexpr uint32_t kBytes = S::kSlice * sizeof(float);
  for (int s = 0; s < kStreams; ++s) {
    uint32_t barrier = ptx::shared_address(&space.fn_here[s]);
    if (lane == 0) ptx::barrier_expect(barrier, kLogits * kBytes);
    __syncwarp();
    if (lane < kLogits)
      ptx::copy_bulk(ptx::shared_address(&space.fn[lane][s * S::kSlice]), p.fn + (lane * kStreams + s) * kDim + rank * S::kSlice, kBytes,
                     barrier);
  }
}

// The value of post and comb of a tile that thread i < kTile * 20 brings to shared memory.
__device__ float load_coefficient(const Params& p, int first, int count) {
  int n = threadIdx.x / 20, i = threadIdx.x % 20;
  if (!p.y || n >= count) return 0;
  int64_t token = first + n;
  return i < 4 ? p.post[token * 4 + i] : p.comb[token * 16 + i - 4];
}

template <int kDim>
__global__ void __launch_bounds__(Shape<kDim>::kThreads, 1) boundary_kernel(const __grid_constant__ Params p) {
  using S = Shape<kDim>;
  extern __shared__ __align__(128) uint8_t raw[];
  auto& space = *reinterpret_cast<typename S::Space*>(raw);
  uint32_t rank = ptx::cluster_rank();
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, clusters = gridDim.x / kBlocks;
  bool worker = warp < S::kWarps;
  if (threadIdx.x == S::kWorkers) {
    for (auto& barrier : space.fn_here) ptx::barrier_init(ptx::shared_address(&barrier), 1);
    ptx::barrier_init_done();
  }
  ptx::let_next_start();
  if (!worker) {
    __syncwarp();
    copy_fn<kDim>(space, p, lane, rank);
  }
  int g = lane / 4, unit = warp * S::kUnits, place = rank * S::kSlice + 16 * unit + 4 * (lane % 4);
  if (worker && lane < 2) ptx::prefetch(p.norm + place + 16 * lane);

  if (threadIdx.x < kLogits) space.base[threadIdx.x] = p.base[threadIdx.x];
  if (threadIdx.x < 3) space.scale[threadIdx.x] = p.scale[threadIdx.x];

  ptx::wait_for_previous();
  int first = static_cast<int>(blockIdx.x) / kBlocks * p.tile, step = clusters * p.tile, buffer = 0;
  Held<kDim> held;
  if (worker && first < p.tokens) load<kDim>(held, p, first + g, place, g < p.tile && first + g < p.tokens);
  if (threadIdx.x < kTile * 20) (&space.coefficients[0][0][0])[threadIdx.x] = load_coefficient(p, first, min(p.tile, p.tokens - first));
  // Every block of the cluster has started: its shared memory may be written.
  ptx::cluster_arrive();
  ptx::cluster_wait();

  if (worker) {
    for (; first < p.tokens; first += step, buffer ^= 1) {
      int64_t token = first + g;
      bool live = g < p.tile && token < p.tokens;
      if (p.y) post_mix<kDim>(held, p, &space.coefficients[buffer][g][0], token, place, live);
      add_up<kDim>(held, space, unit, lane, space.warp_sums[warp]);
      ptx::barrier_sync<1>(S::kWorkers);
      send<kDim>(space, buffer, rank);
      ptx::cluster_arrive();
      float4 norm[S::kUnits];
#pragma unroll
      for (int u = 0; u < S::kUnits; ++u) norm[u] = *reinterpret_cast<const float4*>(p.norm + place + 16 * u);
      int next = first + step;
      Held<kDim> later;
      float coefficient = 0;
      if (next < p.tokens) {
        load<kDim>(later, p, next + g, place, g < p.tile && next + g < p.tokens);
        if (threadIdx.x < kTile * 20) coefficient = load_coefficient(p, next, min(p.tile, p.tokens - next));
      }
      ptx::cluster_wait();
      add_blocks<kDim>(space, buffer);
      if (threadIdx.x < kTile * 20) (&space.coefficients[buffer ^ 1][0][0])[threadIdx.x] = coefficient;
      __syncthreads();
      finish<kDim>(held, p, space, norm, g, token, place, live);
      held = later;
    }
    return;
  }
  if (first < p.tokens) ptx::cluster_arrive();
  for (; first < p.tokens; first += step) {
    ptx::cluster_wait();
    __syncthreads();
    int n = static_cast<int>(rank);
    float logit[kOwn], inverse = 0;
    bool mine = n < p.tile && first + n < p.tokens;
    if (mine) {
      inverse = inverse_of_streams(space.totals, n, kDim, p.norm_eps);
#pragma unroll
      for (int i = 0; i < kOwn; ++i) logit[i] = space.totals[kShared * kTile + i];
    }
    __syncwarp();
    if (first + step < p.tokens) ptx::cluster_arrive();
    if (mine) finish_token(p, space.base, space.scale, logit, inverse, first + n, lane == 0);
  }
}

template <int kDim>
int prepare() {
  using S = Shape<kDim>;
  auto kernel = boundary_kernel<kDim>;
  if (cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1) != cudaSuccess ||
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, sizeof(typename S::Space)) != cudaSuccess)
    return 0;
  cudaLaunchConfig_t config{};
  cudaLaunchAttribute cluster{};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {kBlocks, 1, 1};
  config.gridDim = dim3(kBlocks);
  config.blockDim = dim3(S::kThreads);
  config.dynamicSmemBytes = sizeof(typename S::Space);
  config.attrs = &cluster;
  config.numAttrs = 1;
  int count = 0;
  return cudaOccupancyMaxActiveClusters(&count, kernel, &config) == cudaSuccess ? count : 0;
}

// Clusters that run at once; 0 where a cluster of 16 does not fit. Asked once: it is a property of the device.
template <int kDim>
int clusters_at_once() {
  static const int count = prepare<kDim>();
  return count;
}

template <int kDim>
void launch(CudaContext& context, Params p, bool dependent) {
  using S = Shape<kDim>;
  int most = clusters_at_once<kDim>();
  p.tile = std::clamp((p.tokens + most - 1) / most, 1, kTile);
  int clusters = std::min(most, (p.tokens + p.tile - 1) / p.tile);
  cudaLaunchAttribute attributes[2]{};
  attributes[0].id = cudaLaunchAttributeClusterDimension;
  attributes[0].val.clusterDim = {kBlocks, 1, 1};
  attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[1].val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(kBlocks * clusters));
  config.blockDim = dim3(S::kThreads);
  config.dynamicSmemBytes = sizeof(typename S::Space);
  config.stream = context.stream;
  config.attrs = attributes;
  config.numAttrs = dependent ? 2 : 1;
  cudaError_t error = cudaLaunchKernelEx(&config, boundary_kernel<kDim>, p);
  KVASIR_CHECK(error == cudaSuccess, "boundary of {} tokens: {}", p.tokens, cudaGetErrorString(error));
}

}  // namespace

bool boundary_cluster_serves(const HcBoundaryArgs& a) {
  if (a.streams.shape(1) != kStreams || a.streams.shape(0) > (int64_t{1} << 30)) return false;
  if (a.streams.shape(2) == 4096) return clusters_at_once<4096>() > 0;
  if (a.streams.shape(2) == 7168) return clusters_at_once<7168>() > 0;
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
  if (dim == 4096) return launch<4096>(context, p, dependent);
  launch<7168>(context, p, dependent);
}

}  // namespace kvasir::cuda
