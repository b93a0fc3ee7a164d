// Weights streamed once from memory to registers; see linear_stream.h.
//
//   CTA: 8 warps, each owns 128 bytes of every KB of K     cluster: `split` CTAs, each a slice of K
//   tile: 16 weight rows     step: 4 pieces of 16 rows x 128 bytes a warp, all in flight while the four before are used
//
// The first step's weights are asked for before the kernel in front has ended (they depend on nobody). A warp's part of x
// stays in registers, in the layout of the tensor core's second operand, for the whole kernel. After each step the warps'
// sums are added in order through shared memory; batch by batch the CTAs' sums of a cluster through distributed shared
// memory. K is dealt to lanes so that one 16-byte load of a weight row feeds whole products: any order of K is right as
// long as both operands use the same.
//
// A ring in shared memory filled by row-wise bulk copies was slower (docs/gpu-notes/linear.md).
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>

#include "backend/cuda/sm90/linear_stream.h"
#include "backend/cuda/sm90/ptx.cuh"

namespace kvasir::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kThreads = kWarps * 32;
constexpr int kTileRows = 16;
constexpr int kChunk = 1024;       // bytes of a weight row that the CTA's warps cover side by side
constexpr int kPieces = 4;         // of a step
constexpr int kBatchBytes = 8192;  // of a CTA's sums between two exchanges in the cluster

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
  int ahead;
};

// Where things lie in dynamic shared memory, for NT tiles of 8 tokens and KC KB of K.
template <int NT, int KC>
struct Layout {
  static constexpr int kStepTiles = kPieces / KC;
  static constexpr int kSumStride = 8 * NT + 2;                 // floats between rows of sums: no bank conflicts
  static constexpr int kTileSums = kTileRows * kSumStride;      // floats
  static constexpr int kWarpSumsBytes = kStepTiles * kTileSums * 4;
  static constexpr int kBatchTiles = std::max(kStepTiles, kBatchBytes / (kTileRows * 8 * NT * 4));
  static constexpr int kWarpSums = 0;                           // [2][warps][step tiles]
  static constexpr int kCtaSums = 2 * kWarps * kWarpSumsBytes;  // [batch tiles]
  static constexpr int kBarriers = kCtaSums + kBatchTiles * kTileSums * 4;
  static constexpr int kBytes = kBarriers + 2 * 8;
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
};

template <bool BF16>
__device__ __forceinline__ uint32_t row_bytes(const Plan& plan) { return BF16 ? 2u * plan.k : plan.k; }

template <bool BF16>
__device__ __forceinline__ Part part_of(const Plan& plan, const Job& job, int cluster, uint32_t rank) {
  const uint32_t row = row_bytes<BF16>(plan), slice = (row / 128 + plan.split - 1) / plan.split * 128;
  const uint32_t begin = min(row, rank * slice), end = min(row, begin + slice);
  const int c = cluster - job.first_cluster;
  return {job, static_cast<int>(int64_t{job.tiles} * c / job.clusters), static_cast<int>(int64_t{job.tiles} * (c + 1) / job.clusters),
          begin, end - begin};
}

__device__ __forceinline__ const Segment& segment_of(const Plan& plan, const Job& job, int tile) {
  int s = job.first_segment;
  while (s + 1 < job.first_segment + job.segments && tile >= plan.segments[s + 1].first_tile) ++s;
  return plan.segments[s];
}

// A warp's part of x as tensor core operands: for each KB of the slice its 128 bytes of a weight row, for each 8 tokens;
// and for FP8 the scales of the two tokens whose sums a lane holds.
template <int NT, int KC>
struct Operands {
  uint32_t b[KC][NT][16];
  float scale[KC][NT][2];
};

// 128 FP8 weights meet 128 values of x: lane (g, t) holds those at 16t..16t+15 of both halves of token g's. `x` is the
// lane's first.
__device__ __forceinline__ void operand_f16(const float* x, bool valid, uint32_t (&b)[16], float (&scale)[2]) {
  float4 q[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) q[i] = valid ? __ldcg(reinterpret_cast<const float4*>(x + i / 4 * 64) + i % 4) : float4{};
  float amax = 0x1p-100f;
#pragma unroll
  for (float4& v : q) amax = fmaxf(fmaxf(fmaxf(amax, fabsf(v.x)), fmaxf(fabsf(v.y), fabsf(v.z))), fabsf(v.w));
  amax = fmaxf(amax, __shfl_xor_sync(~0u, amax, 1));
  amax = fmaxf(amax, __shfl_xor_sync(~0u, amax, 2));
  const uint32_t exponent = __float_as_uint(amax) >> 23;
  const float down = __uint_as_float((268 - exponent) << 23);  // the largest value comes to lie in [2^14, 2^15)
  const float up = __uint_as_float((exponent - 14) << 23);
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    b[2 * i] = pack_f16(q[i].x * down, q[i].y * down);
    b[2 * i + 1] = pack_f16(q[i].z * down, q[i].w * down);
  }
  const int token = threadIdx.x % 4 * 2;  // of the two sums; token n's scale is in lanes 4n..4n+3
  scale[0] = __shfl_sync(~0u, up, token * 4);
  scale[1] = __shfl_sync(~0u, up, token * 4 + 4);
}

// 64 bf16 weights meet 64 values of x, each the sum of two bf16: lane (g, t) holds those at 8t..8t+7 of both halves.
__device__ __forceinline__ void operand_bf16(const float* x, bool valid, uint32_t (&b)[16]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float4 q = valid ? __ldcg(reinterpret_cast<const float4*>(x + i / 2 * 32) + i % 2) : float4{};
    auto low = [](float value) { return value - __bfloat162float(__float2bfloat16_rn(value)); };
    b[4 * i] = pack_bf16(q.x, q.y);
    b[4 * i + 1] = pack_bf16(q.z, q.w);
    b[4 * i + 2] = pack_bf16(low(q.x), low(q.y));
    b[4 * i + 3] = pack_bf16(low(q.z), low(q.w));
  }
}

template <bool BF16, int NT, int KC>
__device__ __forceinline__ void load_operands(const Plan& plan, const Part& part, Operands<NT, KC>& op) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
  for (int chunk = 0; chunk < KC; ++chunk) {
    const uint32_t at = chunk * kChunk + warp * 128;
#pragma unroll
    for (int nt = 0; nt < NT; ++nt) {
      const int token = nt * 8 + lane / 4;
      const bool valid = token < plan.tokens && at < part.slice_bytes;
      const float* x = part.job.x + token * part.job.x_stride + (part.slice_begin + at) / (BF16 ? 2 : 1) + lane % 4 * (BF16 ? 8 : 16);
      if constexpr (BF16) {
        operand_bf16(x, valid, op.b[chunk][nt]);
      } else {
        operand_f16(x, valid, op.b[chunk][nt], op.scale[chunk][nt]);
      }
    }
  }
}

// --- weights ---

// 16 rows x 128 bytes of a warp: this lane's 16 bytes of rows g and g+8, in both halves; and the scale's e8m0 byte.
struct Piece {
  uint4 top[2], bottom[2];
  uint32_t scale;
};

__device__ __forceinline__ uint4 load_streaming(const uint8_t* p) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
  return v;
}

// Walks the tiles of a job upwards.
template <bool BF16>
class WeightCursor {
 public:
  __device__ WeightCursor(const Plan& plan, const Part& part) : plan_(plan), part_(part), row_bytes_(row_bytes<BF16>(plan)) {
    enter(part.job.first_segment);
  }
  // The piece of this warp in KB `chunk` of the slice, of tile `tile`; never a smaller tile than before.
  __device__ __forceinline__ void load(int tile, int chunk, Piece& piece) {
    reach(tile);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const uint32_t at = chunk * kChunk + warp * 128, in_row = part_.slice_begin + at;
    // Rows past the end repeat the last one; nobody reads their sums.
    const int row = (tile - first_tile_) * kTileRows, top = min(row + lane / 4, rows_ - 1), bottom = min(row + lane / 4 + 8, rows_ - 1);
    if (at >= part_.slice_bytes) return;
    const uint8_t* p = data_ + in_row + lane % 4 * 16;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      piece.top[half] = load_streaming(p + int64_t{top} * row_bytes_ + half * 64);
      piece.bottom[half] = load_streaming(p + int64_t{bottom} * row_bytes_ + half * 64);
    }
    if constexpr (!BF16) piece.scale = __ldg(scale_ + (first_row_ + row) / 128 * scale_stride() + in_row / 128);
  }

  // Asks for the same bytes to be brought to L2: lanes 0..15 one line each.
  __device__ __forceinline__ void prefetch(int tile, int chunk) {
    reach(tile);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const uint32_t at = chunk * kChunk + warp * 128;
    const int row = min((tile - first_tile_) * kTileRows + lane, rows_ - 1);
    if (at < part_.slice_bytes && lane < kTileRows)
      asm volatile("prefetch.global.L2 [%0];" ::"l"(data_ + int64_t{row} * row_bytes_ + part_.slice_begin + at));
  }

 private:
  __device__ void reach(int tile) {
    while (tile >= last_tile_) enter(segment_ + 1);
  }
  __device__ int scale_stride() const { return plan_.k / 128; }
  __device__ void enter(int segment) {
    segment_ = segment;
    const Segment& s = plan_.segments[segment];
    first_tile_ = s.first_tile;
    last_tile_ = first_tile_ + (s.rows + kTileRows - 1) / kTileRows;
    rows_ = s.rows;
    first_row_ = s.first_row;
    data_ = s.data + int64_t{s.first_row} * row_bytes_;
    scale_ = s.scale;
  }

  const Plan& plan_;
  const Part& part_;
  uint32_t row_bytes_;
  int segment_, first_tile_, last_tile_, rows_, first_row_;
  const uint8_t *data_, *scale_;
};

// acc += 16 weight rows x 128 bytes.
template <bool BF16, int NT>
__device__ __forceinline__ void multiply(const Piece& piece, const uint32_t (&b)[NT][16], const float (&scale)[NT][2], float (&acc)[NT][4]) {
  float sum[2][NT][4] = {};  // of both halves: two chains of products run side by side
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const uint4 &top4 = piece.top[half], &bottom4 = piece.bottom[half];
      const uint32_t top[4] = {top4.x, top4.y, top4.z, top4.w}, bottom[4] = {bottom4.x, bottom4.y, bottom4.z, bottom4.w};
      if constexpr (BF16) {
        const int j = i / 2, word = half * 8 + j * 4 + i % 2 * 2;  // products of x's high parts, then of its low parts
#pragma unroll
        for (int nt = 0; nt < NT; ++nt)
          ptx::mma_bf16(sum[half][nt], top[2 * j], bottom[2 * j], top[2 * j + 1], bottom[2 * j + 1], b[nt][word], b[nt][word + 1]);
      } else {
        uint32_t a0, a1, a2, a3;
        ptx::e4m3x4_to_f16(top[i], a0, a2);
        ptx::e4m3x4_to_f16(bottom[i], a1, a3);
#pragma unroll
        for (int nt = 0; nt < NT; ++nt) ptx::mma_f16(sum[half][nt], a0, a1, a2, a3, b[nt][half * 8 + 2 * i], b[nt][half * 8 + 2 * i + 1]);
      }
    }
  }
#pragma unroll
  for (int nt = 0; nt < NT; ++nt)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float both = sum[0][nt][i] + sum[1][nt][i];
      acc[nt][i] = BF16 ? acc[nt][i] + both : fmaf(both, e8m0(piece.scale) * scale[nt][i % 2], acc[nt][i]);
    }
}

// --- sums ---

__device__ __forceinline__ void write_out(const Plan& plan, const Part& part, int tile, int row, int token, float value) {
  const Segment& s = segment_of(plan, part.job, tile);
  const int n = (tile - s.first_tile) * kTileRows + row;
  if (n < s.rows) s.out[token * s.out_stride + n] = value;
}

// Adds the CTAs' sums of `tiles` tiles, from `first` on, in order of rank, and writes them out. All consumers.
template <int NT, int KC>
__device__ void exchange(const Plan& plan, const Part& part, uint32_t cta_sums, uint32_t ready, uint32_t done, uint32_t rank, int first,
                         int tiles, int batch) {
  using L = Layout<NT, KC>;
  const int tid = threadIdx.x;
  __syncthreads();
  if (tid < plan.split) ptx::barrier_arrive_remote(ptx::map_rank(ready, tid));
  ptx::barrier_wait_cluster(ready, batch & 1);
  const int count = tiles * kTileRows * plan.tokens;
  for (int e = rank * kThreads + tid; e < count; e += plan.split * kThreads) {
    const int row = e % kTileRows, token = e / kTileRows % plan.tokens, tile = e / kTileRows / plan.tokens;
    const uint32_t at = cta_sums + 4 * (tile * L::kTileSums + row * L::kSumStride + token);
    float part_sum[8], sum = 0.f;
#pragma unroll
    for (int r = 0; r < 8; ++r)
      if (r < plan.split) part_sum[r] = ptx::load_cluster(ptx::map_rank(at, r));
#pragma unroll
    for (int r = 0; r < 8; ++r)
      if (r < plan.split) sum += part_sum[r];
    write_out(plan, part, first + tile, row, token, sum);
  }
  __syncthreads();
  if (tid < plan.split) ptx::barrier_arrive_remote(ptx::map_rank(done, tid));
}

template <bool BF16, int NT, int KC>
__device__ void stream(const Plan& plan, const Part& part, unsigned char* memory, uint32_t rank) {
  using L = Layout<NT, KC>;
  const int tid = threadIdx.x, lane = tid % 32, warp = tid / 32;
  float* warp_sums = reinterpret_cast<float*>(memory + L::kWarpSums);
  float* cta_sums = reinterpret_cast<float*>(memory + L::kCtaSums);
  const uint32_t ready = ptx::shared_address(memory + L::kBarriers), done = ready + 8;

  WeightCursor<BF16> cursor(plan, part);
  Piece pieces[kPieces];
#pragma unroll
  for (int u = 0; u < kPieces; ++u)
    if (part.begin + u / KC < part.end) cursor.load(part.begin + u / KC, u % KC, pieces[u]);
  if (plan.ahead > 0) {
    WeightCursor<BF16> later = cursor;
    for (int i = kPieces; i < kPieces + plan.ahead && part.begin + i / KC < part.end; ++i) later.prefetch(part.begin + i / KC, i % KC);
  }
  ptx::wait_for_dependencies();
  Operands<NT, KC> op;
  load_operands<BF16>(plan, part, op);
  if (plan.split > 1) ptx::cluster_wait();  // the other CTAs' barriers are there

  int step = 0, batch = 0, batch_first = part.begin;
  for (int first = part.begin; first < part.end; first += L::kStepTiles, ++step) {
    float* step_sums = warp_sums + (step & 1) * kWarps * L::kStepTiles * L::kTileSums;
    float acc[NT][4];
#pragma unroll
    for (int u = 0; u < kPieces; ++u) {
      const int tile = first + u / KC, chunk = u % KC;
      if (tile >= part.end) break;
      if (chunk == 0) {
#pragma unroll
        for (int nt = 0; nt < NT; ++nt) acc[nt][0] = acc[nt][1] = acc[nt][2] = acc[nt][3] = 0.f;
      }
      if (chunk * kChunk + warp * 128 < part.slice_bytes) multiply<BF16, NT>(pieces[u], op.b[chunk], op.scale[chunk], acc);
      if (tile + L::kStepTiles < part.end) cursor.load(tile + L::kStepTiles, chunk, pieces[u]);
      if (chunk == KC - 1) {
        float* mine = step_sums + (u / KC * kWarps + warp) * L::kTileSums;
#pragma unroll
        for (int nt = 0; nt < NT; ++nt) {
          const int column = nt * 8 + lane % 4 * 2;
          *reinterpret_cast<float2*>(mine + lane / 4 * L::kSumStride + column) = {acc[nt][0], acc[nt][1]};
          *reinterpret_cast<float2*>(mine + (lane / 4 + 8) * L::kSumStride + column) = {acc[nt][2], acc[nt][3]};
        }
      }
    }
    // The warps' sums of the step, in order of warp. The next step writes to the other half of warp_sums.
    __syncthreads();
    const int in_batch = first - batch_first, tiles = min(L::kStepTiles, part.end - first);
    if (plan.split > 1 && in_batch == 0 && batch > 0) ptx::barrier_wait_cluster(done, (batch - 1) & 1);
    for (int e = tid; e < tiles * kTileRows * plan.tokens; e += kThreads) {
      const int row = e % kTileRows, token = e / kTileRows % plan.tokens, tile = e / kTileRows / plan.tokens;
      const float* at = step_sums + tile * kWarps * L::kTileSums + row * L::kSumStride + token;
      float sum = 0.f;
#pragma unroll
      for (int w = 0; w < kWarps; ++w) sum += at[w * L::kTileSums];
      if (plan.split > 1) {
        cta_sums[(in_batch + tile) * L::kTileSums + row * L::kSumStride + token] = sum;
      } else {
        write_out(plan, part, first + tile, row, token, sum);
      }
    }
    if (plan.split > 1 && (in_batch + 2 * L::kStepTiles > L::kBatchTiles || first + L::kStepTiles >= part.end)) {
      exchange<NT, KC>(plan, part, ptx::shared_address(cta_sums), ready, done, rank, batch_first, in_batch + tiles, batch);
      ++batch;
      batch_first = first + L::kStepTiles;
    }
  }
  if (plan.split > 1 && batch > 0) ptx::barrier_wait_cluster(done, (batch - 1) & 1);  // others still read this CTA's sums
}

template <int NT, int KC>
__global__ void __launch_bounds__(kThreads, NT * KC == 1 ? 2 : 1) stream_kernel(const __grid_constant__ Plan plan) {
  using L = Layout<NT, KC>;
  extern __shared__ __align__(128) unsigned char memory[];
  const uint32_t rank = plan.split > 1 ? ptx::cluster_rank() : 0;
  const int cluster = blockIdx.x / plan.split;
  ptx::launch_dependents();
  if (plan.split > 1) {
    if (threadIdx.x == 0) {
      const uint32_t ready = ptx::shared_address(memory + L::kBarriers);
      ptx::barrier_init(ready, plan.split);
      ptx::barrier_init(ready + 8, plan.split);
      ptx::fence_barrier_init();
    }
    __syncthreads();
    ptx::cluster_arrive();
  }
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

int split_for(int64_t bytes) {
  int split = 1;
  while (split < 8 && split * kChunk < bytes) split *= 2;
  return split;
}

template <int NT, int KC>
void launch(CudaContext& context, const Plan& plan, int clusters, bool dependent) {
  using L = Layout<NT, KC>;
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
    if (p.tokens == 0 || p.n == 0 || p.tokens > kStreamRows || row_bytes(p) % 128 != 0 || row_bytes(p) > 2 * 8 * kChunk) return false;
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
  int64_t widest = 0, bytes[2] = {};  // of FP8 and of bf16 weights
  for (const GroupedProduct& p : products) {
    widest = std::max(widest, row_bytes(p));
    bytes[p.w.format == WeightFormat::kBf16] += p.w.rows * row_bytes(p);
  }
  plan.ahead = tuning.ahead;
  plan.split = tuning.split > 0 ? tuning.split : split_for(widest);
  const int chunks = static_cast<int>(((widest / 128 + plan.split - 1) / plan.split * 128 + kChunk - 1) / kChunk);
  // Clusters of 4 and 8 fit the processors in sixteens.
  int clusters = std::max(1, (plan.split >= 4 ? context.sm_count / 16 * 16 : context.sm_count) * tuning.per_sm / plan.split);

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
