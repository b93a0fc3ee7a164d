// Weights streamed once from memory; see linear_stream.h.
//
//   CTA: 8 warps, each owns 128 bytes of every KB of K     cluster: `split` CTAs, each a slice of K
//   piece: 16 weight rows x 128 bytes, a warp's unit of work; each warp has kStages of them under way
//
// A lane copies (cp.async) just those bytes that it will multiply itself, into a ring of its own in shared
// memory: no lane waits for another, and the ring is full of weights before the kernel in front has ended
// (weights depend on nobody). A warp's part of x stays in registers, in the layout of the tensor core's
// second operand, for the whole kernel. After every few tiles the warps' sums are added in order through
// shared memory; batch by batch the CTAs' sums of a cluster through distributed shared memory. K is dealt to
// lanes so that one 16-byte load of a weight row feeds whole products: any order of K is right as long as
// both operands use the same.
//
// A ring for the whole CTA filled by bulk copies, and pieces held in registers, were slower
// (docs/gpu-notes/linear.md).
#include <algorithm>

#include "backend/cuda/device.h"
#include "backend/cuda/sm90/linear_stream.h"
#include "backend/cuda/sm90/linear_stream_operands.cuh"
#include "backend/cuda/sm90/linear_stream_plan.cuh"
#include "backend/cuda/sm90/linear_stream_weights.cuh"
#include "backend/cuda/sm90/ptx.cuh"

namespace kvasir::cuda {
namespace {

using namespace streamed;

constexpr int max_tiles(int chunks) { return chunks == 1 ? 256 : 64; }

// Where things lie in dynamic shared memory, for NT tiles of 8 tokens and slices of KC KB.
template <int NT, int KC>
struct Layout {
  static constexpr int kStages = KC == 1 ? 5 : 3;                // tiles in a warp's ring
  static constexpr int kStepTiles = NT == 1 && KC == 1 ? 2 : 1;  // between two sums over the warps
  static constexpr int kBatchFloats = NT <= 2 && KC == 1   ? 2304
                                      : NT == 1 && KC == 2 ? 1280
                                                           : 4096;  // a CTA's sums between exchanges
  static constexpr int kMaxTiles = max_tiles(KC);  // of a CTA, with FP8 weights: room for their scales
  static constexpr int kSumStride = 8 * NT + 2;    // floats between rows of sums: no bank conflicts
  static constexpr int kTileSums = kTileRows * kSumStride;                       // floats
  static constexpr int kRing = 0;                                                // [warps][stages][KC][piece]
  static constexpr int kWarpSums = kRing + kWarps * kStages * KC * kPieceBytes;  // [2][step tiles][warps]
  static constexpr int kCtaSums = kWarpSums + 2 * kStepTiles * kWarps * kTileSums * 4;  // [tiles][tokens][16]
  static constexpr int kScales = kCtaSums + kBatchFloats * 4;  // [tiles][warps][KC] bf16
  static constexpr int kBytes = kScales + kMaxTiles * kScaleBytes * KC;
};
__device__ __forceinline__ void write_out(const Plan& plan, const Part& part, int tile, int row, int token,
                                          float value) {
  const Segment& s = segment_of(plan, part.job, tile);
  const int n = (tile - s.first_tile) * kTileRows + row;
  if (n < s.rows) s.out[token * s.out_stride + n] = value;
}

// Adds the CTAs' sums of `tiles` tiles, from `first` on, in order of rank, and writes them out.
__device__ void exchange(const Plan& plan, const Part& part, uint32_t cta_sums, uint32_t rank, int first,
                         int tiles) {
  ptx::cluster_arrive();
  ptx::cluster_wait();
  for (int q = rank * kThreads + threadIdx.x; q < tiles * plan.tokens * 4; q += plan.split * kThreads) {
    float4 part_sum[8], sum{};
#pragma unroll
    for (int r = 0; r < 8; ++r)
      if (r < plan.split) part_sum[r] = ptx::load_cluster(ptx::map_rank(cta_sums + q * 16, r));
#pragma unroll
    for (int r = 0; r < 8; ++r)
      if (r < plan.split)
        sum.x += part_sum[r].x, sum.y += part_sum[r].y, sum.z += part_sum[r].z, sum.w += part_sum[r].w;
    const int row = q % 4 * 4, token = q / 4 % plan.tokens, tile = first + q / 4 / plan.tokens;
    write_out(plan, part, tile, row, token, sum.x);
    write_out(plan, part, tile, row + 1, token, sum.y);
    write_out(plan, part, tile, row + 2, token, sum.z);
    write_out(plan, part, tile, row + 3, token, sum.w);
  }
  // Nobody overwrites his sums, or ends, while others read them.
  ptx::cluster_arrive();
  ptx::cluster_wait();
}

// Adds the warps' sums of a step's tiles, from `first` on, in order of warp: to this CTA's sums, or straight
// to the output.
template <int NT, int KC>
__device__ __forceinline__ void add_warps(const Plan& plan, const Part& part, const float* warp_sums,
                                          int first, int tiles, float* cta_sums) {
  using L = Layout<NT, KC>;
  for (int e = threadIdx.x; e < L::kStepTiles * kTileRows * plan.tokens; e += kThreads) {
    const int row = e % kTileRows, tile = e / kTileRows % L::kStepTiles,
              token = e / kTileRows / L::kStepTiles;
    if (tile >= tiles) continue;
    const float* from = warp_sums + tile * kWarps * L::kTileSums + row * L::kSumStride + token;
    float sum = 0.f;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) sum += from[w * L::kTileSums];
    if (plan.split > 1) {
      cta_sums[(tile * plan.tokens + token) * kTileRows + row] = sum;
    } else {
      write_out(plan, part, first + tile, row, token, sum);
    }
  }
}

template <bool BF16, int NT, int KC>
__device__ void stream(const Plan& plan, const Part& part, unsigned char* memory, uint32_t rank) {
  using L = Layout<NT, KC>;
  constexpr int kStep = L::kStepTiles, kStageBytes = KC * kPieceBytes;
  const int tid = threadIdx.x, lane = tid % 32, warp = tid / 32;
  float* cta_sums = reinterpret_cast<float*>(memory + L::kCtaSums);
  uint16_t* scales = reinterpret_cast<uint16_t*>(memory + L::kScales);
  const uint32_t ring = ptx::shared_address(memory) + L::kRing + warp * L::kStages * kStageBytes + lane * 16;
  const uint32_t ring_end = ring + L::kStages * kStageBytes;

  // Copies run kStages - 1 tiles ahead.
  WeightCopier<BF16, KC> copier(plan, part);
#pragma unroll 1
  for (int i = 0; i < L::kStages - 1; ++i) copier.copy(ring + i * kStageBytes);
  if (!BF16) load_scales<KC>(plan, part, scales);
  ptx::wait_for_dependencies();
  Operands<NT, KC> op;
  load_operands<BF16>(plan, part, op);
  __syncthreads();  // the scales are there

  const int chunks = copier.chunks();
  const uint16_t* scale = scales + warp * KC;  // of the next tile
  uint32_t at = ring, free = ring_end - kStageBytes;
  // This lane's place in its warp's sums of a step, in either half of the buffer.
  float* sums = reinterpret_cast<float*>(memory + L::kWarpSums) + warp * L::kTileSums +
                lane / 4 * L::kSumStride + lane % 4 * 2;
  const float* all_sums = reinterpret_cast<const float*>(memory + L::kWarpSums);
  const int batch_tiles = L::kBatchFloats / (kTileRows * plan.tokens);
  int flip = kStep * kWarps * L::kTileSums, batch_first = part.begin;
  for (int first = part.begin; first < part.end; first += kStep) {
    wait_copies<L::kStages - 1 - kStep>();
    Piece pieces[kStep][KC];
#pragma unroll
    for (int t = 0; t < kStep; ++t) {
#pragma unroll
      for (int chunk = 0; chunk < KC; ++chunk) {
        const uint32_t piece = at + chunk * kPieceBytes;
        pieces[t][chunk] = {{load_shared(piece), load_shared(piece + 512)},
                            {load_shared(piece + 1024), load_shared(piece + 1536)}};
      }
      // A copy lands hundreds of cycles after the loads above have read the stage it goes to.
      copier.copy(free);
      free = at;
      at += kStageBytes;
      if (at == ring_end) at = ring;
    }
    float acc[kStep][NT][4] = {};
#pragma unroll
    for (int t = 0; t < kStep; ++t) {
#pragma unroll
      for (int chunk = 0; chunk < KC; ++chunk) {
        if (chunk < chunks) {
          const float weight_scale =
              BF16 ? 1.f : __uint_as_float(static_cast<uint32_t>(scale[t * kWarps * KC + chunk]) << 16);
          multiply<BF16, NT>(pieces[t][chunk], weight_scale, op.b[chunk], op.scale[chunk], acc[t]);
        }
      }
    }
    scale += kStep * kWarps * KC;
#pragma unroll
    for (int t = 0; t < kStep; ++t) {
#pragma unroll
      for (int nt = 0; nt < NT; ++nt) {
        float* to = sums + t * kWarps * L::kTileSums + nt * 8;
        *reinterpret_cast<float2*>(to) = {acc[t][nt][0], acc[t][nt][1]};
        *reinterpret_cast<float2*>(to + 8 * L::kSumStride) = {acc[t][nt][2], acc[t][nt][3]};
      }
    }
    __syncthreads();  // the next step writes to the other half of the buffer
    const int tiles = min(kStep, part.end - first), in_batch = first - batch_first;
    add_warps<NT, KC>(plan, part, all_sums, first, tiles, cta_sums + in_batch * plan.tokens * kTileRows);
    sums += flip;
    all_sums += flip;
    flip = -flip;
    if (plan.split > 1 && (in_batch + 2 * kStep > batch_tiles || first + kStep >= part.end)) {
      exchange(plan, part, ptx::shared_address(cta_sums), rank, batch_first, in_batch + tiles);
      batch_first = first + kStep;
    }
  }
}

template <int NT, int KC>
__global__ void __launch_bounds__(kThreads, NT* KC <= 2 ? 2 : 1)
    stream_kernel(const __grid_constant__ Plan plan) {
  extern __shared__ __align__(128) unsigned char memory[];
  const uint32_t rank = plan.split > 1 ? ptx::cluster_rank() : 0;
  const int cluster = blockIdx.x / plan.split;
  ptx::launch_dependents();
  int j = 0;
  while (j + 1 < plan.num_jobs && cluster >= plan.jobs[j + 1].first_cluster) ++j;
  const Job& job = plan.jobs[j];
  if (plan.segments[job.first_segment].scale == nullptr) {
    stream<true, NT, KC>(plan, part_of<true>(plan, job, cluster, rank), memory, rank);
  } else {
    stream<false, NT, KC>(plan, part_of<false>(plan, job, cluster, rank), memory, rank);
  }
}

// --- host ---

int64_t row_bytes(const GroupedProduct& p) { return p.w.data_row_bytes(); }

// KB of a CTA's slice when `split` CTAs share rows of `bytes`.
int chunks_for(int64_t bytes, int split) {
  return static_cast<int>(((bytes / 128 + split - 1) / split * 128 + kChunk - 1) / kChunk);
}

int clusters_for(int sm_count, int split) {
  // Clusters of 4 and 8 fit the processors in sixteens.
  return std::max(1, (split >= 4 ? sm_count / 16 * 16 : sm_count) / split);
}

// How many CTAs share the K of rows of `bytes`, of which there are `tiles` times 16: as few as keep a slice
// within a number of KB. Measured (docs/gpu-notes/linear.md): slices of 4 KB need the fewest sums for their
// bytes but leave no room for the next kernel's CTAs; slices of 1 KB are lean. Depends
// on shapes alone.
int split_for(int sm_count, int64_t bytes, int64_t tiles, bool mixed, bool wide_slices) {
  int most = bytes < 2048 || bytes > 8192 || (bytes <= 4096 && tiles < 320) ? 2 : 1;
  if (bytes > 4096 && bytes <= 8192 && (mixed || tiles >= 3 * clusters_for(sm_count, 2) - 6)) most = 4;
  if (!wide_slices) most = std::min(most, 2);
  int split = 1;
  while (split < 8 && chunks_for(bytes, split) > most) split *= 2;
  while (split < 8 && tiles < clusters_for(sm_count, split) / 2 && bytes / split >= 1024) split *= 2;
  return split;
}

template <int NT, int KC>
void launch(CudaContext& context, const Plan& plan, int clusters, bool dependent) {
  using L = Layout<NT, KC>;
  static const cudaError_t once =
      cudaFuncSetAttribute(stream_kernel<NT, KC>, cudaFuncAttributeMaxDynamicSharedMemorySize, L::kBytes);
  check_launch(once, "shared memory of the streaming kernel");
  cudaLaunchAttribute attributes[2];
  int n = 0;
  if (plan.split > 1) {
    attributes[n].id = cudaLaunchAttributeClusterDimension;
    attributes[n].val.clusterDim.x = static_cast<unsigned>(plan.split);
    attributes[n].val.clusterDim.y = attributes[n].val.clusterDim.z = 1;
    ++n;
  }
  if (dependent) {
    attributes[n].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[n].val.programmaticStreamSerializationAllowed = 1;
    ++n;
  }
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(clusters * plan.split));
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = L::kBytes;
  config.stream = context.stream;
  config.attrs = attributes;
  config.numAttrs = static_cast<unsigned>(n);
  cudaError_t error = cudaLaunchKernelEx(&config, stream_kernel<NT, KC>, plan);
  check_launch(error, "the streaming kernel");
}

template <int NT>
void launch_chunks(CudaContext& context, const Plan& plan, int chunks, int clusters, bool dependent) {
  if (chunks == 1) return launch<NT, 1>(context, plan, clusters, dependent);
  if (chunks == 2) return launch<NT, 2>(context, plan, clusters, dependent);
  if constexpr (NT == 1) {
    if (chunks <= 4) return launch<NT, 4>(context, plan, clusters, dependent);
  }
  KVASIR_CHECK(false, "{} KB of a weight row for one CTA", chunks);
}

// The plan of a call; `clusters` and `chunks` (KB of a CTA's slice) come with it. Made of shapes alone.
Plan make_plan(int sm_count, std::span<const GroupedProduct> products, const StreamTuning& tuning,
               int& clusters, int& chunks) {
  const GroupedProduct& first = products[0];
  Plan plan{};
  plan.tokens = static_cast<int>(first.tokens);
  plan.k = static_cast<int>(first.k);
  int64_t widest = 0, bytes[2] = {};  // of FP8 and of bf16 weights
  for (const GroupedProduct& p : products) {
    widest = std::max(widest, row_bytes(p));
    bytes[p.w.format == WeightFormat::kBf16] += p.w.rows * row_bytes(p);
  }
  plan.split = tuning.split > 0
                   ? tuning.split
                   : split_for(sm_count, widest, (bytes[0] + bytes[1]) / (kTileRows * widest),
                               bytes[0] > 0 && bytes[1] > 0, !tuning.any_rows && first.tokens <= 8);
  chunks = chunks_for(widest, plan.split);
  clusters = clusters_for(sm_count, plan.split);

  int segment = 0;
  auto add_segment = [&](Job& job, const GroupedProduct& p, int64_t group) {
    Segment& s = plan.segments[segment++];
    s.data = static_cast<const uint8_t*>(p.w.data);
    s.scale = p.w.format == WeightFormat::kBf16 ? nullptr : p.w.scale;
    s.out = p.out + group * p.n;
    s.out_stride = p.groups * p.n;
    s.rows = static_cast<int>(p.n);
    s.first_row = static_cast<int>(group * p.n);
    s.first_tile = job.tiles;
    ++job.segments;
    job.tiles += (s.rows + kTileRows - 1) / kTileRows;
  };
  if (first.groups > 1) {
    const int each = std::max<int>(1, clusters / static_cast<int>(first.groups));
    for (int64_t g = 0; g < first.groups; ++g) {
      Job& job = plan.jobs[plan.num_jobs++];
      job = {first.x + g * first.k, first.groups * first.k, segment, 0, static_cast<int>(g) * each, each, 0};
      add_segment(job, first, g);
    }
    clusters = each * static_cast<int>(first.groups);
  } else {
    if (bytes[0] > 0 && bytes[1] > 0) clusters = std::max(clusters, 2);
    int used = 0;
    for (int bf16 = 0; bf16 < 2; ++bf16) {
      if (bytes[bf16] == 0) continue;
      // Shares in proportion to bytes; FP8 comes first and leaves at least one to bf16.
      int share = clusters - used;
      if (bf16 == 0 && bytes[1] > 0)
        share = std::clamp(
            static_cast<int>((clusters * bytes[0] + (bytes[0] + bytes[1]) / 2) / (bytes[0] + bytes[1])), 1,
            clusters - 1);
      Job& job = plan.jobs[plan.num_jobs++];
      job = {first.x, first.k, segment, 0, used, share, 0};
      for (const GroupedProduct& p : products)
        if ((p.w.format == WeightFormat::kBf16) == (bf16 == 1)) add_segment(job, p, 0);
      used += share;
    }
  }
  return plan;
}

// Whether every FP8 job's scales have room.
bool scales_fit(const Plan& plan, int chunks) {
  for (int j = 0; j < plan.num_jobs; ++j) {
    const Job& job = plan.jobs[j];
    if (plan.segments[job.first_segment].scale != nullptr &&
        (job.tiles + job.clusters - 1) / job.clusters > max_tiles(chunks))
      return false;
  }
  return true;
}

}  // namespace

bool stream_takes(int sm_count, std::span<const GroupedProduct> products, const StreamTuning& tuning) {
  if (products.empty()) return false;
  int64_t segments = 0;
  for (const GroupedProduct& p : products) {
    const bool fp8 = p.w.format == WeightFormat::kFp8Block128;
    if (!fp8 && p.w.format != WeightFormat::kBf16) return false;
    if (p.k != products[0].k || p.x != products[0].x || p.tokens != products[0].tokens) return false;
    if (p.tokens == 0 || p.n == 0 || p.tokens > kStreamRows || row_bytes(p) % 128 != 0 ||
        row_bytes(p) > 2 * 8 * kChunk)
      return false;
    if ((reinterpret_cast<uintptr_t>(p.w.data) | reinterpret_cast<uintptr_t>(p.x)) % 16 != 0) return false;
    if (p.groups > 1 && (products.size() > 1 || (fp8 && p.n % 16 != 0))) return false;
    if (p.w.rows > (int64_t{1} << 30) || p.quantise || p.round) return false;
    segments += p.groups;
  }
  if (segments > kStreamSegments) return false;
  int clusters, chunks;
  const Plan plan = make_plan(sm_count, products, tuning, clusters, chunks);
  return scales_fit(plan, chunks);
}

void product_stream(CudaContext& context, std::span<const GroupedProduct> products,
                    const StreamTuning& tuning) {
  int clusters, chunks;
  const Plan plan = make_plan(context.sm_count, products, tuning, clusters, chunks);
  KVASIR_CHECK(scales_fit(plan, chunks), "too many FP8 weights for {} clusters", clusters);
  if (plan.tokens <= 8) return launch_chunks<1>(context, plan, chunks, clusters, tuning.dependent);
  if (plan.tokens <= 16) return launch_chunks<2>(context, plan, chunks, clusters, tuning.dependent);
  launch_chunks<4>(context, plan, chunks, clusters, tuning.dependent);
}

}  // namespace kvasir::cuda
