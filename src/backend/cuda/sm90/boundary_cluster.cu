// The boundary between two half blocks: hc_post, the 24 mixing logits, Sinkhorn, the mix and its norm, in one
// launch.
//
// A cluster of 16 blocks works on tiles of up to 8 tokens; each block holds a sixteenth of `dim` and keeps
// its part of fn in shared memory for as long as it lives. Per tile
//   1. a block mixes its part of the new streams, writes them and keeps them in registers;
//   2. adds up, over its part, 24 logits (tensor cores) and the 10 products of streams with each other, of
//   which
//        mean(f^2) = trace(G) / 4 dim    and    mean(x^2) = pre^T G pre / dim,
//      so that one exchange between the blocks serves both norms;
//   3. sends the 34 sums of each token to the block that owns the token. One warp there adds the sixteen up
//   in order of rank,
//      sends the four weights of the normed mix to all blocks, and then does Sinkhorn, beside what the others
//      do next;
//   4. writes its part of the mix.
// Two groups of warps in a block work on tiles of their own, so that one computes while the other waits for
// memory or for the other blocks. For few
// tokens all warps are one group. A token's bits depend on which of the two it is (deterministic: always the
// former), not on its company.
//
// The logits: factors are split into two bf16 numbers each, and the products hi*hi, hi*lo and lo*hi added,
// which leaves some 1e-5 of a logit (plain tf32: 2e-4). G in f32: if the streams cancel, so that |x|^2 is a
// share s of sum (pre |X|)^2, the norm is off by some 1e-7 / s.
#include "backend/cuda/device.h"
#include "backend/cuda/sm90/boundary_cluster.h"

#include <algorithm>

#include "backend/cuda/sm90/boundary_ptx.cuh"
#include "backend/cuda/sm90/boundary_tile.cuh"
#include "base/check.h"

namespace kvasir::cuda {
namespace {

using namespace boundary;

// Which tiles a group goes through, and who owns the tokens of a tile: tiles in turn those of rank below 8
// and the others, so that Sinkhorn has two tiles' time.
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
__device__ void send(typename S::GroupSpace& mine, const uint64_t& sums_here, int round, uint32_t rank,
                     int worker) {
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
__device__ void finish(const Held<S>& held, const Params& p, float4 weights, const float4 (&norm)[S::kUnits],
                       int64_t token, int place) {
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
__device__ void work(typename S::Space& space, const Params& p, int group, int warp, int lane,
                     uint32_t rank) {
  auto& mine = space.group[group];
  int g = lane / 4, unit = warp * S::kUnits,
      place = static_cast<int>(rank) * S::kSlice + 16 * unit + 4 * (lane % 4), worker = 32 * warp + lane;
  Tiles tiles(p, S::kGroups, group);
  auto expect = [&](int round) {
    if (worker == 0)
      ptx::barrier_expect(ptx::shared_address(&space.weights_here[group][round % 2]), kTile * sizeof(float4));
  };
  int round = 0;
#pragma unroll 1
  for (int first = tiles.first; first < p.tokens; first += tiles.step, ++round) {
    int64_t token = first + g;
    bool live = g < p.tile && token < p.tokens;
    Held<S> held;
    load<S>(held, p, token, place, live);
    float coefficient = load_coefficient<S>(p, first, worker);
    if (p.y) {
      keep_coefficient<S>(mine, worker, coefficient);
      ptx::barrier_sync(1 + group, S::kWorkers);
      mix<S>(held, p, mine.coefficients[g], token, place, live);
    }
    if (round == 0) {
      ptx::cluster_wait();  // every block has started, and fn is there
      expect(0), expect(1);
    }
    fetch_tile<S>(p, first + tiles.step, warp, lane, static_cast<int>(rank));
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
  if (round == 0) ptx::cluster_wait();
}

// The warp beside a group: makes weights, post and comb of the tokens that this block owns. Lane i works for
// logit i, and lanes 8 + 4 j + k for comb[j][k].
template <class S>
__device__ void own_tokens(typename S::Space& space, const Params& p, int group, int lane, uint32_t rank) {
  auto& mine = space.group[group];
  Tiles tiles(p, S::kGroups, group);
  uint32_t barrier = ptx::shared_address(&space.sums_here[group]);
  int n = static_cast<int>(rank) % kTile, round = static_cast<int>(rank) / kTile;
  float base = p.base[min(lane, kLogits - 1)], scale = p.scale[lane < 4 ? 0 : lane < 8 ? 1 : 2];
  ptx::cluster_wait();
#pragma unroll 1
  for (int first = tiles.first + round * tiles.step; first < p.tokens; first += 2 * tiles.step, round += 2) {
    if (lane == 0) ptx::barrier_expect(barrier, sizeof(mine.sums));
    ptx::barrier_wait(barrier, round / 2 % 2);
    float sum = 0, rest = 0, gram[kPairs], pre[kStreams], squares = 0;
#pragma unroll
    for (int b = 0; b < kBlocks; ++b) sum += mine.sums[b][lane], rest += mine.sums[b][32 + lane % 2];
#pragma unroll
    for (int i = 0; i < kPairs; ++i)
      gram[i] = i < 8 ? __shfl_sync(~0u, sum, kLogits + i) : __shfl_sync(~0u, rest, i - 8);
    float inverse =
        rsqrtf(((gram[0] + gram[pair_index(1, 1)]) + (gram[pair_index(2, 2)] + gram[pair_index(3, 3)])) /
                   static_cast<float>(kStreams * S::kDim) +
               p.norm_eps);
    float logit = sum * inverse * scale + base, gate = sigmoid_of(logit);
#pragma unroll
    for (int s = 0; s < kStreams; ++s) pre[s] = __shfl_sync(~0u, gate, s) + p.sinkhorn_eps;
#pragma unroll
    for (int i = 0; i < kStreams; ++i)
#pragma unroll
      for (int j = i; j < kStreams; ++j)
        squares += (i == j ? 1.f : 2.f) * pre[i] * pre[j] * gram[pair_index(i, j)];
    float by = rsqrtf(fmaxf(squares, 0.f) * (1.0f / S::kDim) + p.norm_eps);
    if (lane < kBlocks) {
      ptx::send_remote(ptx::remote_address(ptx::shared_address(&mine.weights[round % 2][n]), lane),
                       ptx::remote_address(ptx::shared_address(&space.weights_here[group][round % 2]), lane),
                       float4{pre[0] * by, pre[1] * by, pre[2] * by, pre[3] * by});
    }
    if (n >= p.tile || first + n >= p.tokens) continue;
    float max = fmaxf(logit, __shfl_xor_sync(~0u, logit, 1));
    float part = __expf(logit - fmaxf(max, __shfl_xor_sync(~0u, max, 2))),
          row = part + __shfl_xor_sync(~0u, part, 1);
    part = part * reciprocal(row + __shfl_xor_sync(~0u, row, 2)) + p.sinkhorn_eps;
    float in_row[kStreams], in_column[kStreams], u[kStreams], v[kStreams];
    int j = lane / 4 - 2, k = lane % 4;
#pragma unroll
    for (int i = 0; i < kStreams; ++i) {
      in_row[i] = __shfl_sync(~0u, part, 8 + 4 * k + i);
      in_column[i] = __shfl_sync(~0u, part, 8 + 4 * i + k);
    }
    sinkhorn(in_row, in_column, p.iterations, p.sinkhorn_eps, u, v);
    float row_scale = j == 0   ? u[0]
                      : j == 1 ? u[1]
                      : j == 2 ? u[2]
                               : u[3],
          column_scale = k == 0   ? v[0]
                         : k == 1 ? v[1]
                         : k == 2 ? v[2]
                                  : v[3];
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
  if (worker) split_fn<S>(space, warp, lane);
  ptx::cluster_arrive();
  ptx::wait_for_previous();
  if (worker)
    work<S>(space, p, group, warp_of_group, lane, rank);
  else
    own_tokens<S>(space, p, group, lane, rank);
}

// For few tokens all warps share a tile, which shortens the way of each; for many they are two groups.
template <int kDim>
struct Shapes;
template <>
struct Shapes<4096> {
  using Few = Shape<4096, 1, 1>;
  using Many = Shape<4096, 2, 2>;
};
template <>
struct Shapes<7168> {
  using Few = Shape<7168, 2, 1>;
  using Many = Shape<7168, 4, 2>;
};

template <class S>
cudaLaunchConfig_t configuration(cudaLaunchAttribute (&attributes)[2], int clusters, cudaStream_t stream,
                                 bool dependent) {
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

// Clusters that run at once; 0 where a cluster of 16 does not fit. Asked once: it is a property of the
// device.
template <class S>
int clusters_at_once() {
  static const int count = [] {
    auto kernel = boundary_kernel<S>;
    if (cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1) != cudaSuccess ||
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             sizeof(typename S::Space)) != cudaSuccess)
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
  // Tiles of less than 4 tokens gain nothing: a block costs its part of fn.
  constexpr int kLeast = 4;
  int most = clusters_at_once<S>(), slots = S::kGroups * most;
  p.tile = std::clamp((p.tokens + slots - 1) / slots, kLeast, kTile);
  int clusters = std::min(most, (p.tokens + p.tile - 1) / p.tile);
  cudaLaunchAttribute attributes[2]{};
  cudaLaunchConfig_t config = configuration<S>(attributes, clusters, context.stream, dependent);
  cudaError_t error = cudaLaunchKernelEx(&config, boundary_kernel<S>, p);
  check_launch(error, "the boundary");
}

template <int kDim>
bool serves() {
  return clusters_at_once<typename Shapes<kDim>::Few>() > 0 &&
         clusters_at_once<typename Shapes<kDim>::Many>() > 0;
}

template <int kDim>
void launch_any(CudaContext& context, const Params& p, bool dependent) {
  using Few = typename Shapes<kDim>::Few;
  if (!context.deterministic && p.tokens <= kTile * clusters_at_once<Few>())
    return launch<Few>(context, p, dependent);
  launch<typename Shapes<kDim>::Many>(context, p, dependent);
}

}  // namespace

bool boundary_cluster_serves(const HcBoundaryArgs& a) {
  if (a.streams.shape(1) != kStreams || a.streams.shape(0) > (int64_t{1} << 30)) return false;
  if (a.streams.shape(2) == 4096) return serves<4096>();
  if (a.streams.shape(2) == 7168) return serves<7168>();
  return false;
}

void boundary_cluster(CudaContext& context, const HcBoundaryArgs& a, bool dependent) {
  int64_t tokens = a.streams.shape(0), dim = a.streams.shape(2);
  KVASIR_CHECK(a.streams.dense() && a.x.dense() && a.post.dense() && a.comb.dense() && a.w.fn.dense(),
               "streams that are {} apart", a.streams.stride(0));
  KVASIR_CHECK(a.w.fn.shape(0) == kLogits && a.w.fn.shape(1) == kStreams * dim && a.norm.shape(0) == dim,
               "fn [{}, {}], norm {} for {}", a.w.fn.shape(0), a.w.fn.shape(1), a.norm.shape(0), dim);
  KVASIR_CHECK(a.x.shape(0) == tokens && (a.y.empty() || (a.y.shape(0) == tokens && a.y.dense())),
               "x of {}, y of {} for {} tokens", a.x.shape(0), a.y.shape(0), tokens);
  Params p{a.y.data(),
           a.w.fn.data(),
           a.w.base.data(),
           a.w.scale.data(),
           a.norm.data(),
           a.streams.data(),
           a.x.data(),
           a.post.data(),
           a.comb.data(),
           static_cast<int>(tokens),
           0,
           a.sinkhorn_iters,
           a.norm_eps,
           a.sinkhorn_eps};
  if (dim == 4096) return launch_any<4096>(context, p, dependent);
  launch_any<7168>(context, p, dependent);
}

}  // namespace kvasir::cuda
