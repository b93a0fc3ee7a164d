// Weights streamed once from memory; see linear_stream.h.
//
//   CTA: 8 warps, each owns 128 bytes of every KB of K     cluster: `split` CTAs, each a slice of K
//   piece: 16 weight rows x 128 bytes, a warp's unit of work; each warp has kStages of them under way
//
// A lane copies (cp.async) just those bytes that it will multiply itself, into a ring of its own in shared memory: no lane
// waits for another, and the ring is full of weights before the kernel in front has ended (weights depend on nobody). A
// warp's part of x stays in registers, in the layout of the tensor core's second operand, for the whole kernel. After
// every few tiles the warps' sums are added in order through shared memory; batch by batch the CTAs' sums of a cluster
// through distributed shared memory. K is dealt to lanes so that one 16-byte load of a weight row feeds whole products:
// any order of K is right as long as both operands use the same.
//
// A ring for the whole CTA filled by bulk copies, and pieces held in registers, were slower (docs/gpu-notes/linear.md).
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
constexpr int kPieceBytes = 2048;
constexpr int kScaleBytes = kWarps * 2;  // a tile's weight scales, in bf16, for each KB of a slice

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
};

constexpr int max_tiles(int chunks) { return chunks == 1 ? 256 : 64; }

// Where things lie in dynamic shared memory, for NT tiles of 8 tokens and slices of KC KB.
template <int NT, int KC>
struct Layout {
  static constexpr int kStages = KC == 1 ? 5 : 3;             // tiles in a warp's ring
  static constexpr int kStepTiles = NT == 1 && KC == 1 ? 2 : 1;  // between two sums over the warps
  static constexpr int kBatchFloats = NT <= 2 && KC == 1 ? 2304 : NT == 1 && KC == 2 ? 1280 : 4096;  // a CTA's sums between exchanges
  static constexpr int kMaxTiles = max_tiles(KC);             // of a CTA, with FP8 weights: room for their scales
  static constexpr int kSumStride = 8 * NT + 2;               // floats between rows of sums: no bank conflicts
  static constexpr int kTileSums = kTileRows * kSumStride;    // floats
  static constexpr int kRing = 0;                             // [warps][stages][KC][piece]
  static constexpr int kWarpSums = kRing + kWarps * kStages * KC * kPieceBytes;         // [2][step tiles][warps]
  static constexpr int kCtaSums = kWarpSums + 2 * kStepTiles * kWarps * kTileSums * 4;  // [tiles][tokens][16]
  static constexpr int kScales = kCtaSums + kBatchFloats * 4;                // [tiles][warps][KC] bf16
  static constexpr int kBytes = kScales + kMaxTiles * kScaleBytes * KC;
};
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

// 128 FP8 weights meet 128 values of x: lane (g, t) holds those at 16t..16t+15 of both halves of token g's. Read in whole
// sectors, four lanes side by side, and exchanged among the four as f16.
__device__ __forceinline__ void operand_f16(const float* x, bool valid, uint32_t (&b)[16], float (&scale)[2]) {
  const int t = threadIdx.x % 4;
  float4 q[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) q[i] = valid ? __ldcg(reinterpret_cast<const float4*>(x) + i * 4 + t) : float4{};
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
  // Transposes each half's 4 x 4 (lane, quad of values): swaps bit `s` of the lane with bit `s` of the index.
#pragma unroll
  for (int s = 1; s <= 2; s *= 2) {
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      if (i / 2 & s) continue;
      const int other = i + 2 * s;
      const uint32_t got = __shfl_xor_sync(~0u, t & s ? b[i] : b[other], s);
      if (t & s) {
        b[i] = got;
      } else {
        b[other] = got;
      }
    }
  }
  const int token = t * 2;  // of the two sums; token n's scale is in lanes 4n..4n+3
  scale[0] = __shfl_sync(~0u, up, token * 4);
  scale[1] = __shfl_sync(~0u, up, token * 4 + 4);
}

// 64 bf16 weights meet 64 values of x, each the sum of two bf16: lane (g, t) holds those at 8t..8t+7 of both halves. Read
// and exchanged likewise.
__device__ __forceinline__ void operand_bf16(const float* x, bool valid, uint32_t (&b)[16]) {
  const int lane = threadIdx.x % 32, t = lane % 4;
  auto low = [](float value) { return value - __bfloat162float(__float2bfloat16_rn(value)); };
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    uint32_t p[2][4];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float4 q = valid ? __ldcg(reinterpret_cast<const float4*>(x + half * 32) + i * 4 + t) : float4{};
      p[i][0] = pack_bf16(q.x, q.y);
      p[i][1] = pack_bf16(q.z, q.w);
      p[i][2] = pack_bf16(low(q.x), low(q.y));
      p[i][3] = pack_bf16(low(q.z), low(q.w));
    }
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const int from = (lane & ~3) | ((2 * t + j) & 3);  // who read values 8t+4j..8t+4j+3
#pragma unroll
      for (int w = 0; w < 4; ++w) {
        const uint32_t first = __shfl_sync(~0u, p[0][w], from), second = __shfl_sync(~0u, p[1][w], from);
        b[half * 8 + j * 4 + w] = t < 2 ? first : second;
      }
    }
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
      const float* x = part.job.x + token * part.job.x_stride + (part.slice_begin + at) / (BF16 ? 2 : 1);
      if constexpr (BF16) {
        operand_bf16(x, valid, op.b[chunk][nt]);
      } else {
        operand_f16(x, valid, op.b[chunk][nt], op.scale[chunk][nt]);
      }
    }
  }
}

// --- weights ---

// 16 rows x 128 bytes of a warp: this lane's 16 bytes of rows g and g+8, in both halves.
struct Piece {
  uint4 top[2], bottom[2];
};

__device__ __forceinline__ void copy_async(uint32_t to, const uint8_t* from) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}
__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int LEFT>
__device__ __forceinline__ void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
}
__device__ __forceinline__ uint4 load_shared(uint32_t address) {
  uint4 v;
  asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(address) : "memory");
  return v;
}

// Walks the tiles of a job upwards and copies this lane's share of each: 16 bytes of rows g and g+8, in both halves of the
// warp's 128 bytes, in every KB of the slice.
template <bool BF16, int KC>
class WeightCopier {
 public:
  __device__ WeightCopier(const Plan& plan, const Part& part)
      : plan_(plan), part_(part), row_bytes_(row_bytes<BF16>(plan)), tile_(part.begin) {
    const uint32_t at = threadIdx.x / 32 * 128;
    chunks_ = part.slice_bytes > at ? static_cast<int>((part.slice_bytes - at + kChunk - 1) / kChunk) : 0;
    if (tile_ < part.end) aim();
  }
  // The next tile, to this lane's place in a stage.
  __device__ __forceinline__ void copy(uint32_t to) {
    if (tile_ < part_.end) {
#pragma unroll
      for (int chunk = 0; chunk < KC; ++chunk) {
        if (chunk >= chunks_) continue;
        copy_async(to + chunk * kPieceBytes, top_ + chunk * kChunk);
        copy_async(to + chunk * kPieceBytes + 512, top_ + chunk * kChunk + 64);
        copy_async(to + chunk * kPieceBytes + 1024, bottom_ + chunk * kChunk);
        copy_async(to + chunk * kPieceBytes + 1536, bottom_ + chunk * kChunk + 64);
      }
      ++tile_;
      if (--left_ > 0) {
        top_ += kTileRows * row_bytes_;
        bottom_ += kTileRows * row_bytes_;
      } else if (tile_ < part_.end) {
        aim();
      }
    }
    commit_copies();
  }
  // KBs of the slice in which this warp has weights.
  __device__ int chunks() const { return chunks_; }

 private:
  // Points at tile_. The pointers then hold for left_ tiles: to the end of the segment's whole tiles. In a tile that is not
  // whole, rows past the end repeat the last one; nobody reads their sums.
  __device__ __forceinline__ void aim() {
    const Segment& s = segment_of(plan_, part_.job, tile_);
    const int lane = threadIdx.x % 32, row = (tile_ - s.first_tile) * kTileRows;
    left_ = max(1, (s.rows - row) / kTileRows);
    const uint8_t* p = s.data + part_.slice_begin + threadIdx.x / 32 * 128 + lane % 4 * 16;
    top_ = p + int64_t{s.first_row + min(row + lane / 4, s.rows - 1)} * row_bytes_;
    bottom_ = p + int64_t{s.first_row + min(row + lane / 4 + 8, s.rows - 1)} * row_bytes_;
  }

  const Plan& plan_;
  const Part& part_;
  uint32_t row_bytes_;
  int tile_, chunks_, left_ = 0;
  const uint8_t *top_ = nullptr, *bottom_ = nullptr;
};

// The scales of all the CTA's FP8 tiles, as bf16 (which has 2^-127 too), [tiles][warps][KC].
template <int KC>
__device__ void load_scales(const Plan& plan, const Part& part, uint16_t* scales) {
  const int columns = kWarps * KC, blocks = plan.k / 128;
  for (int i = threadIdx.x; i < (part.end - part.begin) * columns; i += kThreads) {
    const int tile = part.begin + i / columns, warp = i % columns / KC, chunk = i % KC;
    const uint32_t at = chunk * kChunk + warp * 128;
    const Segment& s = segment_of(plan, part.job, tile);
    const int row = s.first_row + (tile - s.first_tile) * kTileRows;
    const uint32_t byte = at < part.slice_bytes ? __ldg(s.scale + int64_t{row / 128} * blocks + (part.slice_begin + at) / 128) : 0;
    scales[i] = byte == 0 ? 0x0040 : static_cast<uint16_t>(byte << 7);
  }
}

// acc += 16 weight rows x 128 bytes.
template <bool BF16, int NT>
__device__ __forceinline__ void multiply(const Piece& piece, float weight_scale, const uint32_t (&b)[NT][16], const float (&scale)[NT][2], float (&acc)[NT][4]) {
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
      acc[nt][i] = BF16 ? acc[nt][i] + both : fmaf(both, weight_scale * scale[nt][i % 2], acc[nt][i]);
    }
}

// --- sums ---

__device__ __forceinline__ void write_out(const Plan& plan, const Part& part, int tile, int row, int token, float value) {
  const Segment& s = segment_of(plan, part.job, tile);
  const int n = (tile - s.first_tile) * kTileRows + row;
  if (n < s.rows) s.out[token * s.out_stride + n] = value;
}

// Adds the CTAs' sums of `tiles` tiles, from `first` on, in order of rank, and writes them out.
__device__ void exchange(const Plan& plan, const Part& part, uint32_t cta_sums, uint32_t rank, int first, int tiles) {
  ptx::cluster_arrive();
  ptx::cluster_wait();
  for (int q = rank * kThreads + threadIdx.x; q < tiles * plan.tokens * 4; q += plan.split * kThreads) {
    float4 part_sum[8], sum{};
#pragma unroll
    for (int r = 0; r < 8; ++r)
      if (r < plan.split) part_sum[r] = ptx::load_cluster(ptx::map_rank(cta_sums + q * 16, r));
#pragma unroll
    for (int r = 0; r < 8; ++r)
      if (r < plan.split) sum.x += part_sum[r].x, sum.y += part_sum[r].y, sum.z += part_sum[r].z, sum.w += part_sum[r].w;
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
  float* sums = reinterpret_cast<float*>(memory + L::kWarpSums) + warp * L::kTileSums + lane / 4 * L::kSumStride + lane % 4 * 2;
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
        pieces[t][chunk] = {{load_shared(piece), load_shared(piece + 512)}, {load_shared(piece + 1024), load_shared(piece + 1536)}};
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
          const float weight_scale = BF16 ? 1.f : __uint_as_float(static_cast<uint32_t>(scale[t * kWarps * KC + chunk]) << 16);
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
    // The warps' sums of the step, in order of warp. The next step writes to the other half of the buffer.
    __syncthreads();
    const int tiles = min(kStep, part.end - first), in_batch = first - batch_first;
    for (int e = tid; e < kStep * kTileRows * plan.tokens; e += kThreads) {
      const int row = e % kTileRows, tile = e / kTileRows % kStep, token = e / kTileRows / kStep;
      if (tile >= tiles) continue;
      const float* from = all_sums + tile * kWarps * L::kTileSums + row * L::kSumStride + token;
      float sum = 0.f;
#pragma unroll
      for (int w = 0; w < kWarps; ++w) sum += from[w * L::kTileSums];
      if (plan.split > 1) {
        cta_sums[((in_batch + tile) * plan.tokens + token) * kTileRows + row] = sum;
      } else {
        write_out(plan, part, first + tile, row, token, sum);
      }
    }
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
__global__ void __launch_bounds__(kThreads, NT * KC <= 2 ? 2 : 1) stream_kernel(const __grid_constant__ Plan plan) {
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
int chunks_for(int64_t bytes, int split) { return static_cast<int>(((bytes / 128 + split - 1) / split * 128 + kChunk - 1) / kChunk); }

int clusters_for(int sm_count, int split) {
  // Clusters of 4 and 8 fit the processors in sixteens.
  return std::max(1, (split >= 4 ? sm_count / 16 * 16 : sm_count) / split);
}

// How many CTAs share the K of rows of `bytes`, of which there are `tiles` times 16. Wide slices need fewer sums for their
// bytes; slices of 4 KB leave no room for the next kernel's CTAs and pay in long calls only; few tiles need more CTAs each.
int split_for(int sm_count, int64_t bytes, int64_t tiles, bool wide_slices) {
  const bool longest = wide_slices && tiles >= 32 * clusters_for(sm_count, 2);
  int split = 1;
  while (split < 8 && chunks_for(bytes, split) > (longest ? 4 : 2)) split *= 2;
  while (split < 8 && tiles < clusters_for(sm_count, split) / 2 && bytes / split >= 1024) split *= 2;
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

// The plan of a call; `clusters` and `chunks` (KB of a CTA's slice) come with it. Made of shapes alone.
Plan make_plan(int sm_count, std::span<const GroupedProduct> products, const StreamTuning& tuning, int& clusters, int& chunks) {
  const GroupedProduct& first = products[0];
  Plan plan{};
  plan.tokens = static_cast<int>(first.tokens);
  plan.k = static_cast<int>(first.k);
  int64_t widest = 0, bytes[2] = {};  // of FP8 and of bf16 weights
  for (const GroupedProduct& p : products) {
    widest = std::max(widest, row_bytes(p));
    bytes[p.w.format == WeightFormat::kBf16] += p.w.rows * row_bytes(p);
  }
  plan.split = tuning.split > 0 ? tuning.split : split_for(sm_count, widest, (bytes[0] + bytes[1]) / (kTileRows * widest), !tuning.any_rows && first.tokens <= 8);
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
        share = std::clamp(static_cast<int>((clusters * bytes[0] + (bytes[0] + bytes[1]) / 2) / (bytes[0] + bytes[1])), 1, clusters - 1);
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
    if (plan.segments[job.first_segment].scale != nullptr && (job.tiles + job.clusters - 1) / job.clusters > max_tiles(chunks)) return false;
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
    if (p.tokens == 0 || p.n == 0 || p.tokens > kStreamRows || row_bytes(p) % 128 != 0 || row_bytes(p) > 2 * 8 * kChunk) return false;
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

void product_stream(CudaContext& context, std::span<const GroupedProduct> products, const StreamTuning& tuning) {
  int clusters, chunks;
  const Plan plan = make_plan(context.sm_count, products, tuning, clusters, chunks);
  KVASIR_CHECK(scales_fit(plan, chunks), "too many FP8 weights for {} clusters", clusters);
  if (plan.tokens <= 8) return launch_chunks<1>(context, plan, chunks, clusters, tuning.dependent);
  if (plan.tokens <= 16) return launch_chunks<2>(context, plan, chunks, clusters, tuning.dependent);
  launch_chunks<4>(context, plan, chunks, clusters, tuning.dependent);
}

}  // namespace kvasir::cuda
