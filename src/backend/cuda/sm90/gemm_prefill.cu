// Tensor core products for prefill; see gemm_prefill.h.
//
//   cluster: 2 CTAs, tiles of 128 tokens each, the same 128 weight rows     CTA: 2 consumer warpgroups, a
//   producer warp ring stage: 128 bytes of K of 128 tokens (own) and of 128 weight rows (each CTA fetches
//   half, for both)
//
// CTAs stay and walk over tiles. A consumer warpgroup multiplies 64 tokens x 128 weight rows. With FP8 every
// stage is one block of 128 products with scales of its own, so its sums leave the tensor core and are added,
// scaled, in f32 (which also mends the tensor core's short FP8 sums) while the next stage's products run.
// bf16 sums stay in place.
#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_fp8.h>

#include <algorithm>

#include "backend/cuda/device.h"
#include "backend/cuda/sm90/gemm_prefill.h"
#include "backend/cuda/sm90/ptx.cuh"
#include "backend/cuda/sm90/wgmma.cuh"

namespace kvasir::cuda {
namespace {

constexpr int kTile = 128;        // tokens, and weight rows
constexpr int kBlockBytes = 128;  // of K in a stage
constexpr int kStages = 6;
constexpr int kTileBytes = kTile * kBlockBytes;
constexpr int kStageBytes = 2 * kTileBytes;
constexpr int kScales = kStages * kStageBytes;  // [stages][128] f32
constexpr int kBarriers = kScales + kStages * kTile * 4;
constexpr int kSharedBytes = kBarriers + 2 * kStages * 8 + 1024;  // and room to align the ring
constexpr int kThreads = 3 * 128;
constexpr int kBandPairs = 4;  // pairs of token tiles that walk together over all weight rows, for L2

struct GemmArgs {
  const uint8_t* weight_scale;  // e8m0 [groups*n/128, k/128]
  const float* x_scale;         // [parts, groups*k/128, padded tokens]
  int64_t padded_tokens;
  float* out;  // [tokens, groups*n]
  int tokens, n, k, groups, parts;
  int token_pairs, row_tiles;  // tiles in all: pairs of token tiles x (groups * n / 128)
};

struct Tile {
  int token_pair, row_tile;
};

// The order in which tiles are walked: bands of kBandPairs token pairs, pairs fastest.
__device__ Tile tile_at(const GemmArgs& a, int index) {
  const int band = index / (kBandPairs * a.row_tiles), in_band = index - band * kBandPairs * a.row_tiles;
  const int pairs = min(kBandPairs, a.token_pairs - band * kBandPairs);
  return {band * kBandPairs + in_band % pairs, in_band / pairs};
}

template <bool BF16>
__device__ void produce(const GemmArgs& a, const CUtensorMap* x_map, const CUtensorMap* w_map, uint32_t ring,
                        uint32_t full, uint32_t empty, uint32_t rank, int cluster, int clusters) {
  constexpr int kBlock = BF16 ? 64 : 128;  // elements of K
  const int blocks = a.k / kBlock, tiles_per_group = (a.n + kTile - 1) / kTile;
  int item = 0;
  for (int index = cluster; index < a.token_pairs * a.row_tiles; index += clusters) {
    const Tile tile = tile_at(a, index);
    const int group = tile.row_tile / tiles_per_group;
    const int token = (tile.token_pair * 2 + static_cast<int>(rank)) * kTile;
    const int row =
        group * a.n + tile.row_tile % tiles_per_group * kTile + static_cast<int>(rank) * (kTile / 2);
    for (int part = 0; part < a.parts; ++part) {
      for (int block = 0; block < blocks; ++block, ++item) {
        const int stage = item % kStages;
        const uint32_t at = ring + stage * kStageBytes, bar = full + stage * 8;
        if (item >= kStages) ptx::barrier_wait(empty + stage * 8, (item / kStages - 1) & 1);
        ptx::barrier_expect(bar, kStageBytes + (BF16 ? 0 : kTile * 4));
        const int x_block = (part * a.groups + group) * blocks + block;
        ptx::tensor_load(at, x_map, x_block * kBlock, token, bar);
        ptx::tensor_load_multicast(at + kTileBytes + rank * (kTileBytes / 2), w_map, block * kBlock, row, bar,
                                   3);
        if constexpr (!BF16) {
          ptx::bulk_load(ring + kScales + stage * kTile * 4, a.x_scale + x_block * a.padded_tokens + token,
                         kTile * 4, bar);
        }
      }
    }
  }
}

__device__ __forceinline__ float e8m0(uint32_t byte) {
  return byte == 0 ? __uint_as_float(0x00400000u) : __uint_as_float(byte << 23);
}

// Both CTAs write into a stage's weights, so both must know that it is free.
__device__ __forceinline__ void release(uint32_t empty_of_stage) {
  if (threadIdx.x % 32 < 2) ptx::barrier_arrive_remote(ptx::map_rank(empty_of_stage, threadIdx.x % 32));
}

// A consumer warpgroup's place in the ring, and the tile it works on.
template <bool BF16>
struct Consumer {
  const unsigned char* memory;
  uint32_t ring, full, empty;
  int item = 0;                  // stages multiplied so far
  int half = threadIdx.x / 128;  // of the tile's tokens
  int row = half * 64 + threadIdx.x / 32 % 4 * 16 +
            threadIdx.x % 32 / 4;  // this lane's first token in the tile; the other is 8 on

  // Starts sum = (add ? sum : 0) + the next stage's products. For FP8 also reads the scales of the lane's two
  // tokens.
  __device__ __forceinline__ void start(float (&sum)[64], bool add, uint32_t weight_scale,
                                        float (&scale)[2]) {
    const int stage = item % kStages;
    ptx::barrier_wait(full + stage * 8, item / kStages & 1);
    ++item;
    const uint32_t x_tile = ptx::tile_descriptor(ring + stage * kStageBytes + half * (kTileBytes / 2));
    const uint32_t w_tile = ptx::tile_descriptor(ring + stage * kStageBytes + kTileBytes);
    if constexpr (!BF16) {
      const float* x_scale = reinterpret_cast<const float*>(memory + kScales) + stage * kTile + row;
      scale[0] = x_scale[0] * e8m0(weight_scale);
      scale[1] = x_scale[8] * e8m0(weight_scale);
    }
    ptx::warpgroup_fence();
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if constexpr (BF16) {
        ptx::wgmma_bf16(sum, x_tile + 2 * i, w_tile + 2 * i, add || i > 0);
      } else {
        ptx::wgmma_e4m3(sum, x_tile + 2 * i, w_tile + 2 * i, add || i > 0);
      }
    }
    ptx::warpgroup_commit();
  }
  // Waits until at most LEFT started stages are unfinished and frees the last finished one.
  template <int LEFT>
  __device__ __forceinline__ void finish(float (&sum)[64]) {
    ptx::warpgroup_wait<LEFT>();
#pragma unroll
    for (float& s : sum) asm volatile("" : "+f"(s)::"memory");  // nobody reads the sums before this point
    release(empty + (item - 1 - LEFT) % kStages * 8);
  }
};

__device__ __forceinline__ void add_scaled(const float (&sum)[64], const float (&scale)[2],
                                           float (&total)[64]) {
#pragma unroll
  for (int i = 0; i < 64; ++i) total[i] = fmaf(sum[i], scale[i / 2 % 2], total[i]);
}

// total += all stages of a tile, an even number. While one stage's sums are scaled and added, the next
// stage's products run. No branches between a start and its finish: the compiler would wait for the products
// at each.
__device__ __forceinline__ void accumulate_e4m3(Consumer<false>& c, int parts, int blocks,
                                                const uint8_t* weight_scale, float (&total)[64]) {
  float even[64], odd[64], even_scale[2], odd_scale[2];
  const int count = parts * blocks;
  auto weight = [&](int i) {
    return static_cast<uint32_t>(__ldg(weight_scale + (i < blocks ? i : i - blocks)));
  };
  for (int i = 0; i < count; i += 2) {
    c.start(even, false, weight(i), even_scale);
    c.start(odd, false, weight(i + 1), odd_scale);
    c.finish<1>(even);
    add_scaled(even, even_scale, total);
    c.finish<0>(odd);
    add_scaled(odd, odd_scale, total);
  }
}

__device__ __forceinline__ void accumulate_bf16(Consumer<true>& c, int blocks, float (&total)[64]) {
  float none[2];
  c.start(total, false, 0, none);
  for (int i = 1; i < blocks; ++i) {
    c.start(total, true, 0, none);
    ptx::warpgroup_wait<1>();
    release(c.empty + (c.item - 2) % kStages * 8);
  }
  c.finish<0>(total);
}

// This lane's sums to memory: tokens `token` and `token` + 8, weight rows n0 + 8i + column and the one after.
__device__ __forceinline__ void write_out(const GemmArgs& a, int token, int group, int n0,
                                          const float (&total)[64]) {
  const int64_t stride = int64_t{a.groups} * a.n;
  const int column = threadIdx.x % 4 * 2;
  const bool even = a.n % 2 == 0;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    if (token + half * 8 >= a.tokens) continue;
    float* out = a.out + (token + half * 8) * stride + group * a.n;
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      const int n = n0 + i * 8 + column;
      const float2 v = {total[i * 4 + half * 2], total[i * 4 + half * 2 + 1]};
      if (even && n + 1 < a.n) {
        __stcs(reinterpret_cast<float2*>(out + n), v);
      } else {
        if (n < a.n) out[n] = v.x;
        if (n + 1 < a.n) out[n + 1] = v.y;
      }
    }
  }
}

template <bool BF16>
__device__ void consume(const GemmArgs& a, Consumer<BF16> c, uint32_t rank, int cluster, int clusters) {
  const int blocks = a.k / (BF16 ? 64 : 128), tiles_per_group = (a.n + kTile - 1) / kTile;
  for (int index = cluster; index < a.token_pairs * a.row_tiles; index += clusters) {
    const Tile tile = tile_at(a, index);
    const int group = tile.row_tile / tiles_per_group, n0 = tile.row_tile % tiles_per_group * kTile;
    float total[64];
#pragma unroll
    for (float& t : total) t = 0.f;
    if constexpr (BF16) {
      accumulate_bf16(c, blocks, total);
    } else {
      accumulate_e4m3(c, a.parts, blocks, a.weight_scale + int64_t{(group * a.n + n0) / 128} * blocks, total);
    }
    write_out(a, (tile.token_pair * 2 + static_cast<int>(rank)) * kTile + c.row, group, n0, total);
  }
}

template <bool BF16>
__global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(kThreads, 1)
    gemm_kernel(const __grid_constant__ CUtensorMap x_map, const __grid_constant__ CUtensorMap w_map,
                const GemmArgs a) {
  extern __shared__ unsigned char raw[];
  unsigned char* memory = raw + (1024 - ptx::shared_address(raw) % 1024) % 1024;
  const uint32_t ring = ptx::shared_address(memory), full = ring + kBarriers, empty = full + kStages * 8;
  const uint32_t rank = ptx::cluster_rank();
  if (threadIdx.x == 0) {
    for (int i = 0; i < kStages; ++i) {
      ptx::barrier_init(full + i * 8, 1);
      ptx::barrier_init(empty + i * 8, 16);  // eight warps of two CTAs
    }
    ptx::fence_barrier_init();
    ptx::prefetch_map(&x_map);
    ptx::prefetch_map(&w_map);
  }
  ptx::cluster_arrive();
  ptx::cluster_wait();
  const int cluster = blockIdx.x / 2, clusters = gridDim.x / 2;
  if (threadIdx.x >= 256) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
    if (threadIdx.x == 256) produce<BF16>(a, &x_map, &w_map, ring, full, empty, rank, cluster, clusters);
    __syncwarp();
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");  // two stages' sums and the total
    consume<BF16>(a, Consumer<BF16>{memory, ring, full, empty}, rank, cluster, clusters);
  }
  // A CTA's shared memory outlives the other's last arrivals.
  ptx::cluster_arrive();
  ptx::cluster_wait();
}

// --- x ---

__device__ __forceinline__ float power_of_two_scale(float amax) {
  const uint32_t u = __float_as_uint(fmaxf(amax, 1e-4f) * (1.0f / 448.f));
  return e8m0((u >> 23) + ((u & 0x7fffffu) != 0));
}

__device__ __forceinline__ float warp_max(float v) {
  for (int d = 16; d > 0; d /= 2) v = fmaxf(v, __shfl_xor_sync(~0u, v, d));
  return v;
}

// Four values to e4m3 by `scale`, a power of two; what the codes leave over comes back in `v`.
__device__ __forceinline__ uint32_t to_e4m3(float (&v)[4], float scale) {
  const float inverse = __uint_as_float(0x7f000000u - __float_as_uint(scale));
  uint32_t codes = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const uint32_t code = __nv_cvt_float_to_fp8(v[i] * inverse, __NV_SATFINITE, __NV_E4M3);
    codes |= code << (8 * i);
    v[i] -= __uint_as_float((code & 0x80u) << 24 | (code & 0x7fu) << 20) * 0x1p120f * scale;
  }
  return codes;
}

constexpr int kTokensOfBlock = 8;  // one a warp
constexpr int kBlocksOfWarp = 4;   // of 128 values

// values [tokens, parts, width], scales [parts, width/128, padded].
__global__ void __launch_bounds__(kTokensOfBlock * 32)
    quantise_kernel(const float* x, int tokens, int64_t width, int parts, int64_t padded, uint32_t* values,
                    float* scales) {
  const int lane = threadIdx.x % 32;
  const int64_t token = int64_t{blockIdx.x} * kTokensOfBlock + threadIdx.x / 32, blocks = width / 128;
  if (token >= tokens) return;
  const int64_t first = int64_t{blockIdx.y} * kBlocksOfWarp;
  float4 in[kBlocksOfWarp];
#pragma unroll
  for (int b = 0; b < kBlocksOfWarp; ++b)
    if (first + b < blocks)
      in[b] = __ldcs(reinterpret_cast<const float4*>(x + token * width + (first + b) * 128) + lane);
#pragma unroll
  for (int b = 0; b < kBlocksOfWarp; ++b) {
    if (first + b >= blocks) continue;
    float v[4] = {in[b].x, in[b].y, in[b].z, in[b].w};
    for (int part = 0; part < parts; ++part) {
      const float amax = warp_max(fmaxf(fmaxf(fabsf(v[0]), fabsf(v[1])), fmaxf(fabsf(v[2]), fabsf(v[3]))));
      // The second part's own floor lies as far below as its values do.
      const float scale = part == 0 ? power_of_two_scale(amax) : power_of_two_scale(amax * 16.f) * 0x1p-4f;
      values[((token * parts + part) * width + (first + b) * 128) / 4 + lane] = to_e4m3(v, scale);
      if (lane == 0) scales[(part * blocks + first + b) * padded + token] = scale;
    }
  }
}

__global__ void __launch_bounds__(256) to_bf16_kernel(const float4* x, int64_t count, uint2* out) {
  const int64_t i = blockIdx.x * int64_t{256} + threadIdx.x;
  if (i >= count) return;
  const float4 v = __ldcs(x + i);
  const __nv_bfloat162 a = __floats2bfloat162_rn(v.x, v.y), b = __floats2bfloat162_rn(v.z, v.w);
  out[i] = {*reinterpret_cast<const uint32_t*>(&a), *reinterpret_cast<const uint32_t*>(&b)};
}

// --- host ---

using EncodeTiled = decltype(&cuTensorMapEncodeTiled);

EncodeTiled encoder() {
  static const EncodeTiled encode = [] {
    void* f = nullptr;
    cudaDriverEntryPointQueryResult found{};
    cudaError_t error =
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &f, 12000, cudaEnableDefault, &found);
    KVASIR_CHECK(error == cudaSuccess && f != nullptr, "the driver has no cuTensorMapEncodeTiled: {}",
                 cudaGetErrorString(error));
    return reinterpret_cast<EncodeTiled>(f);
  }();
  return encode;
}

// A row-major matrix, fetched in boxes of 128 bytes by `box_rows`.
CUtensorMap map_of(const void* data, bool bf16, int64_t rows, int64_t cols, int box_rows) {
  CUtensorMap map;
  const cuuint64_t size[2] = {static_cast<cuuint64_t>(cols), static_cast<cuuint64_t>(rows)};
  const cuuint64_t stride[1] = {static_cast<cuuint64_t>(cols * (bf16 ? 2 : 1))};
  const cuuint32_t box[2] = {static_cast<cuuint32_t>(bf16 ? 64 : 128), static_cast<cuuint32_t>(box_rows)},
                   step[2] = {1, 1};
  CUresult result = encoder()(&map, bf16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_UINT8,
                              2, const_cast<void*>(data), size, stride, box, step,
                              CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                              CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  // Anything else is a fault of the device, which the launch meets again.
  KVASIR_CHECK(result != CUDA_ERROR_INVALID_VALUE, "tensor map of [{}, {}]: {}", rows, cols, static_cast<int>(result));
  return map;
}

template <bool BF16>
void launch(CudaContext& context, const GroupedProduct& p, const PreparedRows& x) {
  static const cudaError_t once =
      cudaFuncSetAttribute(gemm_kernel<BF16>, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
  check_launch(once, "shared memory of the prefill product");
  GemmArgs a{};
  a.weight_scale = p.w.scale;
  a.x_scale = x.scales;
  a.padded_tokens = x.padded_tokens;
  a.out = p.out;
  a.tokens = static_cast<int>(p.tokens);
  a.n = static_cast<int>(p.n);
  a.k = static_cast<int>(p.k);
  a.groups = static_cast<int>(p.groups);
  a.parts = x.parts;
  a.token_pairs = static_cast<int>((p.tokens + 2 * kTile - 1) / (2 * kTile));
  a.row_tiles = static_cast<int>((p.n + kTile - 1) / kTile * p.groups);
  const CUtensorMap x_map = map_of(x.values, BF16, p.tokens, p.groups * p.k * x.parts, kTile);
  const CUtensorMap w_map = map_of(p.w.data, BF16, p.w.rows, p.k, kTile / 2);
  const int clusters = std::min(context.sm_count / 2, a.token_pairs * a.row_tiles);
  gemm_kernel<BF16><<<clusters * 2, kThreads, kSharedBytes, context.stream>>>(x_map, w_map, a);
}

}  // namespace

bool prefill_takes(const GroupedProduct& p) {
  const bool fp8 = p.w.format == WeightFormat::kFp8Block128, bf16 = p.w.format == WeightFormat::kBf16;
  if (!fp8 && !bf16) return false;
  if (p.tokens == 0 || p.n == 0 || p.k % (fp8 ? 256 : 64) != 0 || (p.groups > 1 && p.n % kTile != 0))
    return false;
  if (p.quantise || p.round || p.tokens > (int64_t{1} << 24) || p.w.rows > (int64_t{1} << 30)) return false;
  return (reinterpret_cast<uintptr_t>(p.w.data) | reinterpret_cast<uintptr_t>(p.x) |
          reinterpret_cast<uintptr_t>(p.out)) %
             16 ==
         0;
}

PreparedRows prepare_rows(CudaContext& context, const GroupedProduct& p) {
  const int64_t width = p.groups * p.k;
  PreparedRows x;
  x.bf16 = p.w.format == WeightFormat::kBf16;
  x.padded_tokens = (p.tokens + 2 * kTile - 1) / (2 * kTile) * (2 * kTile);
  if (x.bf16) {
    x.values = context.scratch.take<__nv_bfloat16>(p.tokens * width);
    const int64_t count = p.tokens * width / 4;
    to_bf16_kernel<<<static_cast<unsigned>((count + 255) / 256), 256, 0, context.stream>>>(
        reinterpret_cast<const float4*>(p.x), count, static_cast<uint2*>(x.values));
    return x;
  }
  x.parts = p.wide ? 2 : 1;
  x.values = context.scratch.take<uint8_t>(p.tokens * width * x.parts);
  x.scales = context.scratch.take<float>(width / 128 * x.parts * x.padded_tokens);
  const dim3 grid(static_cast<unsigned>((p.tokens + kTokensOfBlock - 1) / kTokensOfBlock),
                  static_cast<unsigned>((width / 128 + kBlocksOfWarp - 1) / kBlocksOfWarp));
  quantise_kernel<<<grid, kTokensOfBlock * 32, 0, context.stream>>>(
      p.x, static_cast<int>(p.tokens), width, x.parts, x.padded_tokens, static_cast<uint32_t*>(x.values),
      x.scales);
  return x;
}

void product_prefill(CudaContext& context, const GroupedProduct& p, const PreparedRows& x) {
  if (x.bf16) return launch<true>(context, p, x);
  launch<false>(context, p, x);
}

}  // namespace kvasir::cuda
