// Weights streamed once through a ring in shared memory; see linear_stream.h.
//
//   CTA: 8 consumer warps and a producer warp.     cluster: `split` CTAs, each a slice of K
//   ring stage: 16 weight rows x 1 KB of K, row by row with bulk copies, rows 1088 bytes apart (no bank conflicts)
//
// The producer starts before the kernel in front has ended (weights depend on nobody) and keeps the ring full. Each
// consumer warp owns 128 bytes of every KB of K; its part of x stays in registers, in the layout of the tensor core's
// second operand, for the whole kernel. Per tile of 16 weight rows: every warp multiplies, the warps' sums are added in
// order through shared memory, then, batch by batch, the CTAs' sums of a cluster through distributed shared memory.
// K is dealt to lanes so that one 16-byte load of a weight row feeds whole products: any order of K is right as long as
// both operands use the same.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>

#include "backend/cuda/sm90/linear_stream.h"
#include "backend/cuda/sm90/ptx.cuh"

namespace kvasir::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kConsumers = kWarps * 32;
constexpr int kThreads = kConsumers + 32;
constexpr int kTileRows = 16;
constexpr int kChunk = 1024;             // bytes of a weight row in a stage
constexpr int kRowStride = kChunk + 64;  // in shared memory
constexpr int kStageBytes = kTileRows * kRowStride;
constexpr int kBatchBytes = 8192;        // of a CTA's sums between two exchanges in the cluster

struct Segment {
  const uint8_t* data;
  const uint8_t* scale;  // null: bf16
  float* out;
  int64_t out_stride;    // between tokens
  int rows;
  int first_row;         // of the weight matrix, decides its scales
  int first_tile;        // in the job
};

// One x and the weights it meets: all FP8 or all bf16. `clusters` CTA clusters share its tiles.
struct Job {
  const float* x;
  int64_t x_stride;
  int first_segment, segments;
  int first_cluster, clusters;
  int tiles;
};

struct Plan {
  Segment segments[kStreamSegments];
  Job jobs[kStreamSegments];
  int num_jobs;
  int tokens;
  int k;
  int split;
  int prefetch;
};

// Where things lie in dynamic shared memory, for NT tiles of 8 tokens.
template <int NT>
struct Layout {
  static constexpr int kStages = NT == 1 ? 5 : NT == 2 ? 4 : 8;
  static constexpr int kSumStride = 8 * NT + 2;                  // floats between rows of sums: no bank conflicts
  static constexpr int kTileSums = kTileRows * kSumStride;       // floats
  static constexpr int kBuffers = NT <= 2 ? 2 : 1;               // of warp sums
  static constexpr int kBatchTiles = kBatchBytes / (kTileRows * 8 * NT * 4);
  static constexpr int kRing = 0;
  static constexpr int kWarpSums = kRing + kStages * kStageBytes;
  static constexpr int kCtaSums = kWarpSums + kBuffers * kWarps * kTileSums * 4;
  static constexpr int kBarriers = kCtaSums + kBatchTiles * kTileSums * 4;
  static constexpr int kBytes = kBarriers + (2 * kStages + 2) * 8;
};

__device__ __forceinline__ float e8m0(uint32_t byte) { return byte == 0 ? __uint_as_float(0x00400000u) : __uint_as_float(byte << 23); }

__device__ __forceinline__ uint32_t pack_f16(float lo, float hi) {
  __half2 h = __floats2half2_rn(lo, hi);
  return *reinterpret_cast<uint32_t*>(&h);
}
__device__ __forceinline__ uint32_t pack_bf16(float lo, float hi) {
  __nv_bfloat162 h = __floats2bfloat162_rn(lo, hi);
  return *reinterpret_cast<uint32_t*>(&h);
}

// A CTA's place in the plan.
struct Part {
  const Job& job;
  int begin, end;          // tiles
  uint32_t slice_begin;    // bytes within a weight row
  uint32_t slice_bytes;
  uint32_t chunks;
};

template <bool BF16>
__device__ __forceinline__ uint32_t row_bytes(const Plan& plan) { return BF16 ? 2u * plan.k : plan.k; }

template <bool BF16>
__device__ __forceinline__ Part part_of(const Plan& plan, const Job& job, int cluster, uint32_t rank) {
  const uint32_t row = row_bytes<BF16>(plan), slice = (row / 64 + plan.split - 1) / plan.split * 64;
  const uint32_t begin = min(row, rank * slice), end = min(row, begin + slice);
  const int c = cluster - job.first_cluster;
  return {job, static_cast<int>(int64_t{job.tiles} * c / job.clusters), static_cast<int>(int64_t{job.tiles} * (c + 1) / job.clusters),
          begin, end - begin, (end - begin + kChunk - 1) / kChunk};
}

__device__ __forceinline__ const Segment& segment_of(const Plan& plan, const Job& job, int tile) {
  int s = job.first_segment;
  while (s + 1 < job.first_segment + job.segments && tile >= plan.segments[s + 1].first_tile) ++s;
  return plan.segments[s];
}

// --- the producer warp ---

// Lanes 0..15 each copy one row of a stage. Rows past the end of the weight repeat its last row; nobody reads their sums.
template <bool BF16, int STAGES>
__device__ void produce(const Plan& plan, const Part& part, uint32_t ring, uint32_t full, uint32_t empty) {
  const int lane = threadIdx.x % 32;
  const uint64_t policy = ptx::evict_first_policy();
  const uint32_t bytes_of_row = row_bytes<BF16>(plan);
  int item = 0;
  auto address = [&](int tile, uint32_t chunk) {
    const Segment& s = segment_of(plan, part.job, tile);
    const int row = min((tile - s.first_tile) * kTileRows + lane, s.rows - 1);
    return s.data + int64_t{s.first_row + row} * bytes_of_row + part.slice_begin + chunk * kChunk;
  };
  const int items = (part.end - part.begin) * static_cast<int>(part.chunks);
  for (int tile = part.begin; tile < part.end; ++tile) {
    for (uint32_t chunk = 0; chunk < part.chunks; ++chunk, ++item) {
      const int stage = item % STAGES;
      if (item == STAGES && plan.prefetch > 0 && lane < kTileRows) {
        // The ring is full: what comes next may wait in L2 already.
        for (int ahead = item; ahead < min(items, item + plan.prefetch); ++ahead) {
          const uint32_t c = ahead % part.chunks;
          ptx::bulk_prefetch(address(part.begin + ahead / part.chunks, c), min(part.slice_bytes - c * kChunk, uint32_t{kChunk}));
        }
      }
      if (item >= STAGES) ptx::barrier_wait(empty + stage * 8, (item / STAGES - 1) & 1);
      const uint32_t bytes = min(part.slice_bytes - chunk * kChunk, uint32_t{kChunk});
      if (lane == 0) ptx::barrier_expect(full + stage * 8, bytes * kTileRows);
      __syncwarp();
      if (lane < kTileRows)
        ptx::bulk_load(ring + stage * kStageBytes + lane * kRowStride, address(tile, chunk), bytes, full + stage * 8, policy);
    }
  }
}

// --- the consumer warps ---

// A warp's part of x as tensor core operands: per 64 bytes of a weight row 8 registers for each 8 tokens, and for FP8
// the scales of the two tokens whose sums a lane holds.
template <int NT, int KC>
struct Operands {
  uint32_t b[KC * 2][NT][8];
  float scale[KC * 2][NT][2];
};

// 64 FP8 weights meet 64 values of x: lane (g, t) holds those at 16t..16t+15 of token g.
__device__ __forceinline__ void operand_f16(const float* x, bool valid, uint32_t (&b)[8], float (&scale)[2]) {
  float v[16];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    float4 q = valid ? __ldcg(reinterpret_cast<const float4*>(x) + i) : float4{};
    v[4 * i] = q.x, v[4 * i + 1] = q.y, v[4 * i + 2] = q.z, v[4 * i + 3] = q.w;
  }
  float amax = 0x1p-100f;
#pragma unroll
  for (float value : v) amax = fmaxf(amax, fabsf(value));
  amax = fmaxf(amax, __shfl_xor_sync(~0u, amax, 1));
  amax = fmaxf(amax, __shfl_xor_sync(~0u, amax, 2));
  const uint32_t exponent = __float_as_uint(amax) >> 23;
  const float down = __uint_as_float((268 - exponent) << 23);  // the largest value comes to lie in [2^14, 2^15)
  const float up = __uint_as_float((exponent - 14) << 23);
#pragma unroll
  for (int i = 0; i < 8; ++i) b[i] = pack_f16(v[2 * i] * down, v[2 * i + 1] * down);
  const int token = threadIdx.x % 4 * 2;  // of the two sums; token n's scale is in lanes 4n..4n+3
  scale[0] = __shfl_sync(~0u, up, token * 4);
  scale[1] = __shfl_sync(~0u, up, token * 4 + 4);
}

// 32 bf16 weights meet 32 values of x, each the sum of two bf16: lane (g, t) holds those at 8t..8t+7 of token g.
__device__ __forceinline__ void operand_bf16(const float* x, bool valid, uint32_t (&b)[8]) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    float4 q = valid ? __ldcg(reinterpret_cast<const float4*>(x) + i) : float4{};
    b[2 * i] = pack_bf16(q.x, q.y);
    b[2 * i + 1] = pack_bf16(q.z, q.w);
    auto low = [](float value) { return value - __bfloat162float(__float2bfloat16_rn(value)); };
    b[4 + 2 * i] = pack_bf16(low(q.x), low(q.y));
    b[4 + 2 * i + 1] = pack_bf16(low(q.z), low(q.w));
  }
}

template <bool BF16, int NT, int KC>
__device__ __forceinline__ void load_operands(const Plan& plan, const Part& part, Operands<NT, KC>& op) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
  for (int j = 0; j < KC * 2; ++j) {
    const uint32_t at = j / 2 * kChunk + warp * 128 + j % 2 * 64;
#pragma unroll
    for (int nt = 0; nt < NT; ++nt) {
      const int token = nt * 8 + lane / 4;
      const bool valid = token < plan.tokens && at < part.slice_bytes;
      const uint32_t k = (part.slice_begin + at) / (BF16 ? 2 : 1) + lane % 4 * (BF16 ? 8 : 16);
      const float* x = part.job.x + token * part.job.x_stride + k;
      if constexpr (BF16) {
        operand_bf16(x, valid, op.b[j][nt]);
      } else {
        operand_f16(x, valid, op.b[j][nt], op.scale[j][nt]);
      }
    }
  }
}

__device__ __forceinline__ uint4 load_shared(uint32_t address) {
  uint4 v;
  asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(address));
  return v;
}

// acc += 16 weight rows x 64 bytes, at `row` (this lane's 16 bytes of row g) and 8 rows below.
template <bool BF16, int NT>
__device__ __forceinline__ void multiply(uint32_t row, float weight_scale, const uint32_t (&b)[NT][8], const float (&scale)[NT][2],
                                         float (&acc)[NT][4]) {
  const uint4 top4 = load_shared(row), bottom4 = load_shared(row + 8 * kRowStride);
  const uint32_t top[4] = {top4.x, top4.y, top4.z, top4.w}, bottom[4] = {bottom4.x, bottom4.y, bottom4.z, bottom4.w};
  if constexpr (BF16) {
#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
      for (int nt = 0; nt < NT; ++nt) {
        ptx::mma_bf16(acc[nt], top[2 * i], bottom[2 * i], top[2 * i + 1], bottom[2 * i + 1], b[nt][2 * i], b[nt][2 * i + 1]);
        ptx::mma_bf16(acc[nt], top[2 * i], bottom[2 * i], top[2 * i + 1], bottom[2 * i + 1], b[nt][4 + 2 * i], b[nt][5 + 2 * i]);
      }
  } else {
    float sum[NT][4] = {};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      uint32_t a0, a1, a2, a3;
      ptx::e4m3x4_to_f16(top[i], a0, a2);
      ptx::e4m3x4_to_f16(bottom[i], a1, a3);
#pragma unroll
      for (int nt = 0; nt < NT; ++nt) ptx::mma_f16(sum[nt], a0, a1, a2, a3, b[nt][2 * i], b[nt][2 * i + 1]);
    }
#pragma unroll
    for (int nt = 0; nt < NT; ++nt)
#pragma unroll
      for (int i = 0; i < 4; ++i) acc[nt][i] = fmaf(sum[nt][i], weight_scale * scale[nt][i % 2], acc[nt][i]);
  }
}

// The e8m0 bytes of this warp's two 64-byte granules (same 128-block: a warp's 128 bytes may straddle two blocks when a
// slice starts in the middle of one) for each chunk of a tile.
template <int KC>
struct TileScales {
  uint8_t byte[KC * 2];
};

template <int KC>
__device__ __forceinline__ TileScales<KC> load_scales(const Plan& plan, const Part& part, int tile) {
  TileScales<KC> s;
  const Segment& segment = segment_of(plan, part.job, tile);
  const int row = segment.first_row + (tile - segment.first_tile) * kTileRows;
  const uint8_t* scale = segment.scale + int64_t{row / 128} * ((plan.k + 127) / 128);
  const int warp = threadIdx.x / 32;
#pragma unroll
  for (int j = 0; j < KC * 2; ++j) {
    const uint32_t at = j / 2 * kChunk + warp * 128 + j % 2 * 64;
    s.byte[j] = at < part.slice_bytes ? __ldg(scale + (part.slice_begin + at) / 128) : 0;
  }
  return s;
}

// Adds the CTAs' sums of `tiles` tiles, from `first` on, in order of rank, and writes them out. All consumers.
template <int NT>
__device__ void exchange(const Plan& plan, const Part& part, uint32_t cta_sums, uint32_t ready, uint32_t done, uint32_t rank, int first,
                         int tiles, int batch) {
  using L = Layout<NT>;
  const int tid = threadIdx.x;
  ptx::sync_part(1, kConsumers);
  if (tid < plan.split) ptx::barrier_arrive_remote(ptx::map_rank(ready, tid));
  ptx::barrier_wait_cluster(ready, batch & 1);
  const int count = tiles * kTileRows * plan.tokens;
  for (int e = rank * kConsumers + tid; e < count; e += plan.split * kConsumers) {
    const int row = e % kTileRows, token = e / kTileRows % plan.tokens, tile = e / kTileRows / plan.tokens;
    const uint32_t at = cta_sums + 4 * (tile * L::kTileSums + row * L::kSumStride + token);
    float sum = 0.f;
    for (int r = 0; r < plan.split; ++r) sum += ptx::load_cluster(ptx::map_rank(at, r));
    const Segment& s = segment_of(plan, part.job, first + tile);
    const int n = (first + tile - s.first_tile) * kTileRows + row;
    if (n < s.rows) s.out[token * s.out_stride + n] = sum;
  }
  ptx::sync_part(1, kConsumers);
  if (tid < plan.split) ptx::barrier_arrive_remote(ptx::map_rank(done, tid));
}

template <bool BF16, int NT, int KC>
__device__ void consume(const Plan& plan, const Part& part, uint32_t shared, float* warp_sums, float* cta_sums, uint32_t full, uint32_t empty,
                        uint32_t ready, uint32_t done, uint32_t rank) {
  using L = Layout<NT>;
  const int tid = threadIdx.x, lane = tid % 32, warp = tid / 32;
  TileScales<KC> scales{};
  if (!BF16 && part.begin < part.end) scales = load_scales<KC>(plan, part, part.begin);
  ptx::wait_for_dependencies();
  Operands<NT, KC> op;
  load_operands<BF16>(plan, part, op);

  const uint32_t lane_row = shared + L::kRing + lane / 4 * kRowStride + lane % 4 * 16 + warp * 128;
  int item = 0, batch = 0, batch_first = part.begin;
  for (int tile = part.begin; tile < part.end; ++tile) {
    TileScales<KC> next{};
    if (!BF16 && tile + 1 < part.end) next = load_scales<KC>(plan, part, tile + 1);
    float acc[NT][4] = {};
#pragma unroll
    for (int chunk = 0; chunk < KC; ++chunk) {
      if (chunk >= part.chunks) break;
      const int stage = item % L::kStages;
      ptx::barrier_wait(full + stage * 8, item / L::kStages & 1);
      ++item;
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        if (chunk * kChunk + warp * 128 + j * 64 < part.slice_bytes)
          multiply<BF16, NT>(lane_row + stage * kStageBytes + j * 64, BF16 ? 1.f : e8m0(scales.byte[chunk * 2 + j]), op.b[chunk * 2 + j],
                             op.scale[chunk * 2 + j], acc);
      }
      __syncwarp();
      if (lane == 0) ptx::barrier_arrive(empty + stage * 8);
    }
    scales = next;

    // The warps' sums, then this CTA's, in order of warp.
    float* mine = warp_sums + ((tile - part.begin) % L::kBuffers * kWarps + warp) * L::kTileSums;
#pragma unroll
    for (int nt = 0; nt < NT; ++nt) {
      const int column = nt * 8 + lane % 4 * 2;
      *reinterpret_cast<float2*>(mine + lane / 4 * L::kSumStride + column) = {acc[nt][0], acc[nt][1]};
      *reinterpret_cast<float2*>(mine + (lane / 4 + 8) * L::kSumStride + column) = {acc[nt][2], acc[nt][3]};
    }
    ptx::sync_part(1, kConsumers);
    const int in_batch = tile - batch_first;
    if (plan.split > 1 && in_batch == 0 && batch > 0) ptx::barrier_wait_cluster(done, (batch - 1) & 1);
    const float* all = warp_sums + (tile - part.begin) % L::kBuffers * kWarps * L::kTileSums;
    for (int e = tid; e < kTileRows * plan.tokens; e += kConsumers) {
      const int row = e % kTileRows, token = e / kTileRows;
      float sum = 0.f;
#pragma unroll
      for (int w = 0; w < kWarps; ++w) sum += all[w * L::kTileSums + row * L::kSumStride + token];
      if (plan.split > 1) {
        cta_sums[in_batch * L::kTileSums + row * L::kSumStride + token] = sum;
      } else {
        const Segment& s = segment_of(plan, part.job, tile);
        const int n = (tile - s.first_tile) * kTileRows + row;
        if (n < s.rows) s.out[token * s.out_stride + n] = sum;
      }
    }
    if (L::kBuffers == 1) ptx::sync_part(1, kConsumers);
    if (plan.split > 1 && (in_batch + 1 == L::kBatchTiles || tile + 1 == part.end)) {
      exchange<NT>(plan, part, ptx::shared_address(cta_sums), ready, done, rank, batch_first, in_batch + 1, batch);
      ++batch;
      batch_first = tile + 1;
    }
  }
  if (plan.split > 1 && batch > 0) ptx::barrier_wait_cluster(done, (batch - 1) & 1);  // others still read this CTA's sums
}

template <int NT, int KC>
__global__ void __launch_bounds__(kThreads, NT <= 2 && NT * KC <= 4 ? 2 : 1) stream_kernel(const __grid_constant__ Plan plan) {
  using L = Layout<NT>;
  extern __shared__ __align__(128) unsigned char memory[];
  const uint32_t shared = ptx::shared_address(memory);
  const uint32_t full = shared + L::kBarriers, empty = full + L::kStages * 8, ready = empty + L::kStages * 8, done = ready + 8;
  const int warp = threadIdx.x / 32;
  const uint32_t rank = plan.split > 1 ? ptx::cluster_rank() : 0;
  const int cluster = blockIdx.x / plan.split;
  if (threadIdx.x == 0) {
    for (int i = 0; i < L::kStages; ++i) {
      ptx::barrier_init(full + i * 8, 1);
      ptx::barrier_init(empty + i * 8, kWarps);
    }
    ptx::barrier_init(ready, plan.split);
    ptx::barrier_init(done, plan.split);
    ptx::fence_barrier_init();
  }
  __syncthreads();
  ptx::launch_dependents();
  if (plan.split > 1) ptx::cluster_arrive();  // the barriers are there for the other CTAs

  int j = 0;
  while (j + 1 < plan.num_jobs && cluster >= plan.jobs[j + 1].first_cluster) ++j;
  const Job& job = plan.jobs[j];
  const bool bf16 = plan.segments[job.first_segment].scale == nullptr;
  if (warp == kWarps) {
    if (bf16) {
      produce<true, L::kStages>(plan, part_of<true>(plan, job, cluster, rank), shared + L::kRing, full, empty);
    } else {
      produce<false, L::kStages>(plan, part_of<false>(plan, job, cluster, rank), shared + L::kRing, full, empty);
    }
    __syncwarp();
    if (plan.split > 1) ptx::cluster_wait();
  } else {
    if (plan.split > 1) ptx::cluster_wait();
    float* warp_sums = reinterpret_cast<float*>(memory + L::kWarpSums);
    float* cta_sums = reinterpret_cast<float*>(memory + L::kCtaSums);
    if (bf16) {
      consume<true, NT, KC>(plan, part_of<true>(plan, job, cluster, rank), shared, warp_sums, cta_sums, full, empty, ready, done, rank);
    } else {
      consume<false, NT, KC>(plan, part_of<false>(plan, job, cluster, rank), shared, warp_sums, cta_sums, full, empty, ready, done, rank);
    }
  }
}

// --- host ---

int64_t row_bytes(const GroupedProduct& p) { return p.w.data_row_bytes(); }

int split_for(int64_t bytes) {
  int split = 1;
  while (split < 8 && split * kChunk < bytes) split *= 2;
  return split;
}

template <int NT, int KC>
void launch(CudaContext& context, const Plan& plan, int clusters, bool dependent) {
  using L = Layout<NT>;
  static const cudaError_t once = cudaFuncSetAttribute(stream_kernel<NT, KC>, cudaFuncAttributeMaxDynamicSharedMemorySize, L::kBytes);
  KVASIR_CHECK(once == cudaSuccess, "shared memory of {} bytes: {}", int{L::kBytes}, cudaGetErrorString(once));
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
  KVASIR_CHECK(error == cudaSuccess, "stream kernel, {} clusters of {}: {}", clusters, plan.split, cudaGetErrorString(error));
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

}  // namespace

bool stream_takes(std::span<const GroupedProduct> products) {
  if (products.empty()) return false;
  int64_t segments = 0;
  for (const GroupedProduct& p : products) {
    const bool fp8 = p.w.format == WeightFormat::kFp8Block128;
    if (!fp8 && p.w.format != WeightFormat::kBf16) return false;
    if (p.k != products[0].k || p.x != products[0].x || p.tokens != products[0].tokens) return false;
    if (p.tokens == 0 || p.n == 0 || p.tokens > kStreamRows || row_bytes(p) % 64 != 0 || row_bytes(p) > 2 * 8 * kChunk) return false;
    if ((reinterpret_cast<uintptr_t>(p.w.data) | reinterpret_cast<uintptr_t>(p.x)) % 16 != 0) return false;
    if (p.groups > 1 && (products.size() > 1 || (fp8 && p.n % 16 != 0))) return false;
    if (p.w.rows > (int64_t{1} << 30) || p.quantise || p.round) return false;
    segments += p.groups;
  }
  return segments <= kStreamSegments;
}

void product_stream(CudaContext& context, std::span<const GroupedProduct> products, const StreamTuning& tuning) {
  const GroupedProduct& first = products[0];
  Plan plan{};
  plan.tokens = static_cast<int>(first.tokens);
  plan.k = static_cast<int>(first.k);
  plan.prefetch = tuning.prefetch;
  int64_t widest = 0, bytes[2] = {};  // of FP8 and of bf16 weights
  for (const GroupedProduct& p : products) {
    widest = std::max(widest, row_bytes(p));
    bytes[p.w.format == WeightFormat::kBf16] += p.w.rows * row_bytes(p);
  }
  plan.split = tuning.split > 0 ? tuning.split : split_for(widest);
  const int chunks = static_cast<int>(((widest / 64 + plan.split - 1) / plan.split * 64 + kChunk - 1) / kChunk);
  // Clusters of 4 and 8 fit the processors in sixteens.
  int clusters = std::max(1, (plan.split >= 4 ? context.sm_count / 16 * 16 : context.sm_count) / plan.split);

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
        share = std::clamp(static_cast<int>((clusters * bytes[0] + (bytes[0] + bytes[1]) / 2) / (bytes[0] + bytes[1])), 1, clusters - 1);
      Job& job = plan.jobs[plan.num_jobs++];
      job = {first.x, first.k, segment, 0, used, share, 0};
      for (const GroupedProduct& p : products)
        if ((p.w.format == WeightFormat::kBf16) == (bf16 == 1)) add_segment(job, p, 0);
      used += share;
    }
  }
  if (first.tokens <= 8) return launch_chunks<1>(context, plan, chunks, clusters, tuning.dependent);
  if (first.tokens <= 16) return launch_chunks<2>(context, plan, chunks, clusters, tuning.dependent);
  launch_chunks<4>(context, plan, chunks, clusters, tuning.dependent);
}

}  // namespace kvasir::cuda
