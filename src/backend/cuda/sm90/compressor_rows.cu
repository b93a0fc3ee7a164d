// Compressors of kFast: one pass over the tokens' projections, f32 arithmetic, rows encoded from registers.
//
// Ratio 4: a thread holds four channels of the eight tokens of a group, so all its loads are under way at
// once; 128 threads make an entry, a warp an index key. Ratio 128: a cluster of eight blocks takes 64
// channels each, which is a block of the row format; within a block 16 slices of eight tokens are merged in a
// fixed order, and the row's norm goes over the cluster. The tail is written by blocks of its own when the
// step is too short to overwrite what groups read, else by a launch that follows.
#include <cooperative_groups.h>

#include <algorithm>
#include <utility>

#include "backend/cuda/sm90/compressor_math.cuh"
#include "backend/cuda/sm90/compressor_rows.h"
#include "backend/cuda/sm90/indexer_launch.h"

namespace kvasir::cuda {
namespace {

constexpr int kPairRatio = 4;
constexpr int kPairThreads = 128;
constexpr int kTailThreads = 128;

__device__ __forceinline__ float4 load4(const float* p) { return *reinterpret_cast<const float4*>(p); }
__device__ __forceinline__ float4 add4(float4 a, float4 b) {
  return {a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w};
}

// What is read once leaves the first cache to ape.
__device__ __forceinline__ float4 stream4(const float* p) {
  uint4 x = stream_16(reinterpret_cast<uint64_t>(p));
  return {__uint_as_float(x.x), __uint_as_float(x.y), __uint_as_float(x.z), __uint_as_float(x.w)};
}

// kv and z = score + ape of four channels of consecutive tokens: first the addresses are chosen, then
// everything is loaded at once. Tokens before the sequence count for nothing.
template <int kTokens>
struct TokenChannels {
  float4 kv[kTokens], z[kTokens];

  // Token i is at position first + i and gives channels [channel(i), channel(i) + 4).
  template <int kRatio, class Channel>
  __device__ __forceinline__ void load(const CompressCall& c, const CacheSequence& s, int first, int width,
                                       Channel channel) {
    auto start = static_cast<int>(s.span.start);
    const float* tail = reinterpret_cast<const float*>(s.state + c.tail);
    float4 ape[kTokens];
#pragma unroll
    for (int i = 0; i < kTokens; ++i) {
      int p = first + i, at = channel(i);
      bool kept = p < start && p >= 0;
      int64_t row = s.span.first_row + max(p - start, 0);
      const float* ring =
          tail + static_cast<uint32_t>(max(p, 0)) % static_cast<uint32_t>(c.tail_capacity) * (2 * width) + at;
      kv[i] = stream4(kept ? ring : c.kv + row * c.kv_row + at);
      z[i] = stream4(kept ? ring + width : c.score + row * c.score_row + at);
      ape[i] = load4(c.ape + (p & (kRatio - 1)) * width + at);
    }
#pragma unroll
    for (int i = 0; i < kTokens; ++i) {
      if (first + i >= start) z[i] = add4(z[i], ape[i]);
      if (first + i < 0) {
        kv[i] = {0, 0, 0, 0};
        z[i] = {-INFINITY, -INFINITY, -INFINITY, -INFINITY};
      }
    }
  }

  // Softmax of the tokens of channel e: its largest z, sum and weighted value.
  __device__ __forceinline__ void pool(int e, float& top, float& sum, float& value) const {
    auto at = [&](const float4& x) { return e == 0 ? x.x : e == 1 ? x.y : e == 2 ? x.z : x.w; };
    top = at(z[0]);
    sum = value = 0;
#pragma unroll
    for (int i = 1; i < kTokens; ++i) top = fmaxf(top, at(z[i]));
#pragma unroll
    for (int i = 0; i < kTokens; ++i) {
      float weight = __expf(at(z[i]) - top);
      sum += weight;
      value += weight * at(kv[i]);
    }
  }
};

__device__ __forceinline__ float warp_sum(float x) {
  for (int i = 16; i > 0; i /= 2) x += __shfl_xor_sync(0xffffffffu, x, i);
  return x;
}

// Rotates channels [channel, channel + 4) of a row whose last 2 * pairs are rotated.
__device__ __forceinline__ void rotate4(const CompressCall& c, float (&v)[4], int channel, int64_t position) {
  int pair = (channel - (c.format.dim - 2 * c.pairs)) / 2;
  if (channel < c.format.dim - 2 * c.pairs) return;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    float cosine, sine, a = v[2 * i], b = v[2 * i + 1];
    cos_sin(static_cast<float>(position) * c.inv_freq[pair + i], cosine, sine);
    v[2 * i] = a * cosine - b * sine;
    v[2 * i + 1] = a * sine + b * cosine;
  }
}

// Four channels of an entry row to its page; the 16 lanes of a block of 64 call this together.
__device__ __forceinline__ void store_entry4(const CompressCall& c, const CacheSequence& s, int64_t b,
                                             const float (&v)[4], int channel) {
  std::byte* page = s.written_pages[b / c.section.rows_per_page];
  int64_t slot = b % c.section.rows_per_page;
  std::byte* data = page + c.section.data_offset + slot * c.format.data_bytes;
  auto* scales = reinterpret_cast<uint8_t*>(page + c.section.scale_offset + slot * c.format.scale_bytes);
  int nope = c.format.dim - c.format.rope_dim;
  uint32_t scale, codes = encode_e4m3_block(v, scale);
  if (channel < nope) {
    *reinterpret_cast<uint32_t*>(data + channel) = codes;
  } else {
    *reinterpret_cast<uint2*>(data + nope + 2 * (channel - nope)) = bf16x4(v);
    scale = 0;
  }
  if (channel % 64 == 0) scales[channel / 64] = static_cast<uint8_t>(scale);
}

__device__ __forceinline__ void store_key4(const CompressCall& c, const CacheSequence& s, int64_t b,
                                           const float (&v)[4], int lane) {
  std::byte* page = s.written_pages[b / c.section.rows_per_page];
  int64_t slot = b % c.section.rows_per_page;
  uint32_t scale, codes = encode_e2m1_block(v, scale);
  reinterpret_cast<uint16_t*>(page + c.section.data_offset + slot * c.format.data_bytes)[lane] =
      static_cast<uint16_t>(codes);
  if (lane % 8 == 0)
    reinterpret_cast<uint8_t*>(page + c.section.scale_offset + slot * c.format.scale_bytes)[lane / 8] =
        static_cast<uint8_t>(scale);
}

// Tail row of token i of the last min(tokens, capacity), by one block.
__device__ void write_tail_token(const CompressCall& c, const CacheSequence& s, int64_t i) {
  int64_t kept = min(s.span.tokens, c.tail_capacity);
  if (i >= kept) return;
  int64_t token = s.span.tokens - kept + i, p = s.span.start + token;
  int width = c.lanes * c.format.dim;
  float* tail = reinterpret_cast<float*>(s.state + c.tail) + p % c.tail_capacity * 2 * width;
  const float* kv = c.kv + (s.span.first_row + token) * c.kv_row;
  const float* score = c.score + (s.span.first_row + token) * c.score_row;
  const float* ape = c.ape + p % c.ratio * width;
  for (int e = 4 * static_cast<int>(threadIdx.x); e < width; e += 4 * static_cast<int>(blockDim.x)) {
    float4 z = add4(load4(score + e), load4(ape + e));
    *reinterpret_cast<float4*>(tail + e) = load4(kv + e);
    *reinterpret_cast<float4*>(tail + width + e) = z;
  }
}

template <int kDim>
__device__ void compress_pair_rows(const CompressCall& c, int block, int group_blocks, bool tails,
                                   float* part) {
  constexpr int kRowThreads = kDim / 4, kRows = kPairThreads / kRowThreads;
  const CacheSequence s = c.sequences[blockIdx.y];
  wait_for_previous_kernels();
  if (block >= group_blocks) {
    if (tails) write_tail_token(c, s, block - group_blocks);
    return;
  }
  int64_t b = s.span.start / kPairRatio + block * kRows + threadIdx.x / kRowThreads;
  if (b >= (s.span.start + s.span.tokens) / kPairRatio)
    return;  // all of a row's threads, and its barriers, or none
  int lane = threadIdx.x % 32, channel = static_cast<int>(threadIdx.x) % kRowThreads * 4;
  TokenChannels<2 * kPairRatio> t;
  t.load<kPairRatio>(c, s, static_cast<int>(b - 1) * kPairRatio, 2 * kDim,
                     [&](int i) { return i < kPairRatio ? channel : kDim + channel; });
  float v[4];
#pragma unroll
  for (int e = 0; e < 4; ++e) {
    float top, sum;
    t.pool(e, top, sum, v[e]);
    v[e] /= sum;
  }
  float squares = warp_sum(v[0] * v[0] + v[1] * v[1] + v[2] * v[2] + v[3] * v[3]);
  if constexpr (kRowThreads > 32) {
    if (lane == 0) part[threadIdx.x / 32] = squares;
    __syncthreads();
    squares = (part[0] + part[1]) + (part[2] + part[3]);
  }
  float inverse = rsqrtf(squares / kDim + c.norm_eps);
  float4 norm = load4(c.norm + channel);
  v[0] *= inverse * norm.x;
  v[1] *= inverse * norm.y;
  v[2] *= inverse * norm.z;
  v[3] *= inverse * norm.w;
  rotate4(c, v, channel, b * kPairRatio);
  if constexpr (kRowThreads > 32) {
    store_entry4(c, s, b, v, channel);
  } else {
    hadamard_128(v, lane);
    store_key4(c, s, b, v, lane);
  }
}

struct PairLaunch {
  CompressCall calls[2];
  int group_blocks[2];  // blocks of a sequence that make rows; those behind write tails,
  bool tails[2];        // or do nothing
};

__global__ void __launch_bounds__(kPairThreads) compress_pair_kernel(const __grid_constant__ PairLaunch l) {
  __shared__ float part[4];
  const CompressCall& c = l.calls[blockIdx.z];
  let_next_kernel_start();
  int block = static_cast<int>(blockIdx.x), group_blocks = l.group_blocks[blockIdx.z];
  bool tails = l.tails[blockIdx.z];
  if (c.hadamard) {
    compress_pair_rows<128>(c, block, group_blocks, tails, part);
  } else {
    compress_pair_rows<512>(c, block, group_blocks, tails, part);
  }
}

constexpr int kWideRatio = 128;
constexpr int kWideThreads = 256;
constexpr int kWideBlocks = 8;  // of a cluster, 64 channels each
constexpr int kWideSlices = 16;
constexpr int kWideTokens = kWideRatio / kWideSlices;

struct WideLaunch {
  CompressCall call;
  bool tails;  // the first cluster of a sequence writes them too
};

__global__ void __cluster_dims__(kWideBlocks, 1, 1) __launch_bounds__(kWideThreads)
    compress_wide_kernel(const __grid_constant__ WideLaunch l) {
  // Softmax of a slice: largest, sum and value of every channel.
  __shared__ float4 slice_top[kWideSlices][16], slice_sum[kWideSlices][16], slice_value[kWideSlices][16];
  __shared__ float cluster_squares[kWideBlocks];
  const CompressCall& c = l.call;
  auto cluster = cooperative_groups::this_cluster();
  int index = static_cast<int>(blockIdx.x) / kWideBlocks, rank = static_cast<int>(blockIdx.x) % kWideBlocks;
  const CacheSequence s = c.sequences[blockIdx.y];
  wait_for_previous_kernels();
  let_next_kernel_start();
  if (l.tails && index == 0)
    for (int i = rank; i < s.span.tokens; i += kWideBlocks) write_tail_token(c, s, i);
  int64_t b = s.span.start / kWideRatio + index;
  if (b >= (s.span.start + s.span.tokens) / kWideRatio) return;  // the whole cluster
  auto started = cluster.barrier_arrive();
  int slice = static_cast<int>(threadIdx.x) / 16, lane = static_cast<int>(threadIdx.x) % 16,
      channel = 64 * rank + 4 * lane;
  TokenChannels<kWideTokens> t;
  t.load<kWideRatio>(c, s, static_cast<int>(b) * kWideRatio + slice * kWideTokens, 512,
                     [&](int) { return channel; });
  float top[4], sum[4], value[4];
#pragma unroll
  for (int e = 0; e < 4; ++e) t.pool(e, top[e], sum[e], value[e]);
  slice_top[slice][lane] = {top[0], top[1], top[2], top[3]};
  slice_sum[slice][lane] = {sum[0], sum[1], sum[2], sum[3]};
  slice_value[slice][lane] = {value[0], value[1], value[2], value[3]};
  __syncthreads();
  cluster.barrier_wait(std::move(started));  // all blocks run: their shared memory may be written
  float v[4] = {};
  // One warp merges: its two halves do the same, so that shuffles see whole blocks of 16 lanes.
  if (threadIdx.x < 32) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      auto at = [&](const float4& x) { return e == 0 ? x.x : e == 1 ? x.y : e == 2 ? x.z : x.w; };
      float most = -INFINITY, total = 0;
      for (int i = 0; i < kWideSlices; ++i) most = fmaxf(most, at(slice_top[i][lane]));
      for (int i = 0; i < kWideSlices; ++i) {
        float weight = __expf(at(slice_top[i][lane]) - most);
        total += weight * at(slice_sum[i][lane]);
        v[e] += weight * at(slice_value[i][lane]);
      }
      v[e] /= total;
    }
    float squares = v[0] * v[0] + v[1] * v[1] + v[2] * v[2] + v[3] * v[3];
    for (int i = 1; i < 16; i *= 2) squares += __shfl_xor_sync(0xffffffffu, squares, i);
    if (threadIdx.x < kWideBlocks) *cluster.map_shared_rank(&cluster_squares[rank], threadIdx.x) = squares;
  }
  cluster.sync();
  if (threadIdx.x >= 32) return;
  float squares = 0;
  for (int i = 0; i < kWideBlocks; ++i) squares += cluster_squares[i];
  float inverse = rsqrtf(squares / 512 + c.norm_eps);
  float4 norm = load4(c.norm + channel);
  v[0] *= inverse * norm.x;
  v[1] *= inverse * norm.y;
  v[2] *= inverse * norm.z;
  v[3] *= inverse * norm.w;
  rotate4(c, v, channel, b * kWideRatio);
  store_entry4(c, s, b, v, channel);  // both halves of the warp write the same
}

__global__ void __launch_bounds__(kTailThreads)
    compress_tails_kernel(const __grid_constant__ CompressCall c) {
  wait_for_previous_kernels();
  let_next_kernel_start();
  write_tail_token(c, c.sequences[blockIdx.y], blockIdx.x);
}

// Whether tails may be written while groups are pooled: no token that a group reads is overwritten.
bool tails_beside_groups(const CompressCall& c) {
  return c.max_tokens + int64_t{c.lanes} * c.ratio - 1 <= c.tail_capacity;
}

int64_t tail_tokens(const CompressCall& c) { return std::min(c.max_tokens, c.tail_capacity); }

void write_tails(cudaStream_t stream, const CompressCall& c) {
  launch_early(stream, compress_tails_kernel,
               dim3(static_cast<unsigned>(tail_tokens(c)), static_cast<unsigned>(c.num_sequences)),
               kTailThreads, 0, c);
}

void compress_pairs(cudaStream_t stream, const CompressCall* calls, int count) {
  PairLaunch l{};
  int64_t blocks = 0;
  for (int i = 0; i < count; ++i) {
    const CompressCall& c = calls[i];
    l.calls[i] = c;
    int64_t groups = c.max_tokens / kPairRatio + 1;
    int64_t group_blocks = c.hadamard ? (groups + 3) / 4 : groups;
    l.group_blocks[i] = static_cast<int>(group_blocks);
    l.tails[i] = tails_beside_groups(c);
    blocks = std::max(blocks, group_blocks + (l.tails[i] ? tail_tokens(c) : 0));
  }
  dim3 grid(static_cast<unsigned>(blocks), static_cast<unsigned>(calls[0].num_sequences),
            static_cast<unsigned>(count));
  launch_early(stream, compress_pair_kernel, grid, kPairThreads, 0, l);
  for (int i = 0; i < count; ++i)
    if (!tails_beside_groups(calls[i])) write_tails(stream, calls[i]);
}

void compress_wide(cudaStream_t stream, const CompressCall& c) {
  WideLaunch l{c, tails_beside_groups(c)};
  auto blocks = static_cast<unsigned>((c.max_tokens / kWideRatio + 1) * kWideBlocks);
  launch_early(stream, compress_wide_kernel, dim3(blocks, static_cast<unsigned>(c.num_sequences)),
               kWideThreads, 0, l);
  if (!tails_beside_groups(c)) write_tails(stream, c);
}

bool aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

}  // namespace

bool compress_rows_serves(const CompressCall& c) {
  if (!aligned(c.kv) || !aligned(c.score) || !aligned(c.ape) || !aligned(c.norm) || c.kv_row % 4 != 0 ||
      c.score_row % 4 != 0 || c.tail % 16 != 0 || !c.format.quantised || c.native || c.pairs % 2 != 0)
    return false;
  if (c.section.data_offset % 16 != 0 || c.num_sequences > 65535) return false;
  if (c.hadamard)
    return c.ratio == kPairRatio && c.lanes == 2 && c.format.dim == 128 && c.format.rope_dim == 0;
  bool shape = c.format.dim == 512 && c.format.rope_dim == 64 && c.pairs == 32;
  return shape && ((c.ratio == kPairRatio && c.lanes == 2) || (c.ratio == kWideRatio && c.lanes == 1));
}

void compress_rows(cudaStream_t stream, const CompressCall& c) {
  if (c.ratio == kWideRatio) {
    compress_wide(stream, c);
  } else {
    compress_pairs(stream, &c, 1);
  }
}

void compress_rows_pair(cudaStream_t stream, const CompressCall& entry, const CompressCall& key) {
  const CompressCall calls[2] = {entry, key};
  compress_pairs(stream, calls, 2);
}

}  // namespace kvasir::cuda
