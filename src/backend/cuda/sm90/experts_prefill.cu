// Many tokens through MXFP4 experts and an FP8 shared expert.
//
//   sort the (token, expert) pairs by expert; x to e4m3, one scale per token
//   hidden = silu(gate) * up   a grouped product: 256 rows of weights times up to 128 tokens of one expert
//   per tile hidden to e4m3, one scale per pair;  y = the grouped product with w2;  out = the weighted sum of
//   a token's y
//
// The weights are the matrix in registers: e2m1 codes become e4m3 through a table that adds the exponent of
// the code's group of 32, relative to the largest of the row, found beforehand. What that leaves of the scale
// is a power of two per row, which multiplies the finished sums. (Groups more than 14 binades below the row's
// largest lose bits: an error of 2^-18 of the row's largest weight.) So nothing interrupts the tensor cores
// along a row. The FP8 weights of the shared expert go in as they are; their scales differ per 128 columns,
// whose sums are added up in f32. Tokens are the rows in shared memory, gathered there by their place in the
// sorted list; their columns are stored in the order in which a thread's 16-byte loads of codes come apart.
#include "backend/cuda/device.h"
#include "backend/cuda/sm90/experts_prefill.h"

#include <algorithm>
#include <type_traits>

#include "backend/cuda/sm90/experts_rows.cuh"
#include "backend/cuda/sm90/moe_wgmma.cuh"
#include "base/check.h"

namespace kvasir::cuda {
namespace {

constexpr int kTileRows = 256;
constexpr int64_t kTokensAtOnce = 8192;  // bounds the scratch: 0.65 GB at Flash's sizes
constexpr int kMaxExperts = 512;

// ---- the grouped product ----

struct Product {
  const ExpertWeights* routed;
  ExpertWeights shared;
  const Tile* tiles;  // of the routed experts
  const int32_t* tile_count;
  int shared_tokens;
  const uint8_t* in;      // [rows, cols] e4m3
  const float* in_scale;  // [rows]
  const int32_t* in_row;  // sorted place -> row of `in`; null: the same
  int64_t in_first;       // row of `in` of the shared expert's first token, and of `out`
  __nv_bfloat16* out;     // [rows, out_cols]
  int64_t out_first;
  int cols, out_cols, row_tiles;
  const uint8_t* row_most;  // [E, 2 * inner + dim]
  int inner, dim;
  float limit;

  // Where the largest scale of a row of this product is; `matrix` is 0 for w1 and w2, 1 for w3.
  __device__ const uint8_t* most_of(int expert, int matrix, int row, bool gate_up) const {
    return row_most + int64_t{expert} * (2 * inner + dim) + (gate_up ? matrix * inner : 2 * inner) + row;
  }
};

template <bool kShared>
struct Stages {
  static constexpr int kRowBytes = kShared ? 128 : 64;  // of 128 columns of weights
  static constexpr int kCount = kShared ? 4 : 6;
  static constexpr int kTokenBytes = kTileTokens * 128, kWeightBytes = kTileRows * kRowBytes;
  static constexpr int kBytes = kTokenBytes + kWeightBytes + kTileRows * 4;
  static constexpr int kAhead = kCount - 1;  // copies of that many stages are under way
  std::byte* memory;
  __device__ std::byte* tokens(int s) const { return memory + s * kBytes; }
  __device__ std::byte* weights(int s) const { return tokens(s) + kTokenBytes; }
  // Of a row: e2m1: table entries of its four groups, a byte each; e4m3: what its sums are multiplied with.
  __device__ uint32_t* entries(int s) const { return reinterpret_cast<uint32_t*>(weights(s) + kWeightBytes); }
  __device__ float* factors(int s) const { return reinterpret_cast<float*>(entries(s)); }
};

struct ProductBarriers {
  uint64_t full[6], empty[6];
};

template <bool kShared>
__device__ int number_of_tiles(const Product& p) {
  return kShared ? (p.shared_tokens + kTileTokens - 1) / kTileTokens : *p.tile_count;
}
template <bool kShared>
__device__ Tile tile_at(const Product& p, int i) {
  if constexpr (kShared) return {0, i * kTileTokens, min(kTileTokens, p.shared_tokens - i * kTileTokens)};
  return p.tiles[i];
}

__device__ void copy16(uint32_t to, const void* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}

// Fills the stages: 128 threads. Few registers are left for them, and a spilled one costs a trip through a
// cache that their own copies sweep: so 32-bit offsets where they suffice, and addresses in shared memory a
// constant apart.
template <bool kGateUp, bool kShared>
__device__ void produce(const Product& p, const Stages<kShared>& stages, ProductBarriers& bars) {
  using S = Stages<kShared>;
  constexpr int kParts = S::kRowBytes / 16, kRowStep = 128 / kParts, kRowsEach = kTileRows / kRowStep;
  constexpr int kTokensEach = kTileTokens / 16;
  const int thread = static_cast<int>(threadIdx.x) % 128;
  const int part = thread % kParts,
            row0 = thread / kParts;  // this thread's part of the rows row0 + i * kRowStep
  const int total = number_of_tiles<kShared>(p) * p.row_tiles;
  int stage = 0, finished = 0, issued = 0;
  uint32_t parity = 1;

  // Rows of 128 bytes: parts exchanged between neighbours, so that two rows read together use all banks.
  const uint32_t weights_to =
      shared_address(stages.weights(0)) +
      static_cast<uint32_t>(row0 * S::kRowBytes + (kShared ? part ^ (row0 & 1) : part) * 16);
  const uint32_t tokens_to = shared_address(stages.tokens(0)) +
                             static_cast<uint32_t>(thread / 8 * 128 + ((thread % 8) ^ (thread / 8 % 8)) * 16);

  auto matrix = [&](const ExpertWeights& e, int row) -> const WeightMatrix& {
    return !kGateUp ? e.w2 : (row & 8) ? e.w3 : e.w1;
  };
  // Row `row` of a tile is this row of its matrix, relative to the tile's first. Rows 16 apart are of the
  // same matrix.
  auto place = [](int row) { return kGateUp ? (row >> 4) * 8 + (row & 7) : row; };
  constexpr int kStepPlaces = kGateUp ? kRowStep / 2 : kRowStep, kHalfPlaces = kGateUp ? 64 : 128;

  // A stage is finished when its copies have landed: scales of the rows `thread` and `thread + 128`, read
  // when the copies were started, go in then.
  uint32_t scales[S::kAhead][2], largest[S::kAhead];
  auto finish = [&](const uint32_t(&of)[2], uint32_t most) {
    if constexpr (kShared) {
      stages.factors(finished)[thread] = __uint_as_float(of[0] << 23);
      stages.factors(finished)[thread + 128] = __uint_as_float(of[1] << 23);
    } else {
      // Per byte: 8 * the binades below the row's largest, 15 at most.
      stages.entries(finished)[thread] = __vminu4((most & 255) * 0x01010101u - of[0], 0x0f0f0f0fu) << 3;
      stages.entries(finished)[thread + 128] = __vminu4((most >> 8) * 0x01010101u - of[1], 0x0f0f0f0fu) << 3;
    }
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    barrier_arrive(&bars.full[finished]);
    if (++finished == S::kCount) finished = 0;
  };

  for (int at = static_cast<int>(blockIdx.x); at < total; at += static_cast<int>(gridDim.x)) {
    const Tile tile = tile_at<kShared>(p, at / p.row_tiles);
    const ExpertWeights& e = kShared ? p.shared : p.routed[tile.expert];
    const int first_row = at % p.row_tiles * (kGateUp ? kTileRows / 2 : kTileRows);
    const int row_bytes = kShared ? p.cols : p.cols / 2, scale_row = kShared ? p.cols / 128 : p.cols / 32;
    const uint8_t* codes = static_cast<const uint8_t*>(matrix(e, row0).data) +
                           int64_t{first_row + place(row0)} * row_bytes + part * 16;
    const int scale_place = first_row + place(thread);
    const uint8_t* scale =
        matrix(e, thread).scale + int64_t{kShared ? scale_place / 128 : scale_place} * scale_row;
    const int second = (kShared ? kHalfPlaces / 128 : kHalfPlaces) *
                       scale_row;  // from a row's scales to those of the 128th after
    uint32_t most = 0;
    if constexpr (!kShared) {
      const uint8_t* of = p.most_of(tile.expert, thread >> 3 & 1, scale_place, kGateUp);
      most = of[0] | uint32_t{of[kHalfPlaces]} << 8;
    }
    uint32_t token[kTokensEach];  // offsets in `in`
#pragma unroll
    for (int i = 0; i < kTokensEach; ++i) {
      const int at_place = tile.begin + min(thread / 8 + 16 * i, tile.count - 1);
      const int row = kShared    ? static_cast<int>(p.in_first) + at_place
                      : p.in_row ? p.in_row[at_place]
                                 : at_place;
      token[i] =
          static_cast<uint32_t>(row) * static_cast<uint32_t>(p.cols) + static_cast<uint32_t>(thread % 8 * 16);
    }
    const int groups = (tile.count + 31) / 32 * 2;  // of 16 tokens
    for (int block = 0; block < p.cols / 128; ++block) {
      // Before the wait for a free stage: whoever is to free it may be waiting for this one.
      if (issued >= S::kAhead) {
        asm volatile("cp.async.wait_group %0;" ::"n"(S::kAhead - 1) : "memory");
        finish(scales[0], largest[0]);
      }
      barrier_wait(&bars.empty[stage], parity);
      const uint32_t offset = static_cast<uint32_t>(stage * S::kBytes);
#pragma unroll
      for (int i = 0; i < kRowsEach; ++i)
        copy16(weights_to + offset + static_cast<uint32_t>(i * kRowStep * S::kRowBytes),
               codes + i * (kStepPlaces * row_bytes));
#pragma unroll
      for (int i = 0; i < kTokensEach; ++i)
        if (i < groups)
          copy16(tokens_to + offset + static_cast<uint32_t>(i * 2048),
                 p.in + (token[i] + static_cast<uint32_t>(block * 128)));
      asm volatile("cp.async.commit_group;" ::: "memory");
#pragma unroll
      for (int i = 0; i + 1 < S::kAhead; ++i)
        scales[i][0] = scales[i + 1][0], scales[i][1] = scales[i + 1][1], largest[i] = largest[i + 1];
      if constexpr (kShared) {
        scales[S::kAhead - 1][0] = scale[0], scales[S::kAhead - 1][1] = scale[second];
      } else {
        scales[S::kAhead - 1][0] = *reinterpret_cast<const uint32_t*>(scale),
                           scales[S::kAhead - 1][1] = *reinterpret_cast<const uint32_t*>(scale + second);
      }
      largest[S::kAhead - 1] = most;
      codes += S::kRowBytes;
      scale += kShared ? 1 : 4;
      ++issued;
      if (++stage == S::kCount) stage = 0, parity ^= 1;
    }
  }
  asm volatile("cp.async.wait_group 0;" ::: "memory");
#pragma unroll
  for (int i = 0; i < S::kAhead; ++i)
    if (issued >= S::kAhead - i) finish(scales[i], largest[i]);
}

// 4 + 4 of a word's e2m1 codes as e4m3, by the table of their group.
__device__ void e2m1_to_e4m3(uint32_t w, uint2 table, uint32_t& low, uint32_t& high) {
  const uint32_t magnitude = w & 0x77777777u, up = w << 4;
  low = __byte_perm(table.x, table.y, magnitude) | (__byte_perm(up, w, 0x5140) & 0x80808080u);
  high = __byte_perm(table.x, table.y, magnitude >> 16) | (__byte_perm(up, w, 0x7362) & 0x80808080u);
}

// One warpgroup's 128 rows of a tile of up to N tokens: the products, and what is made of them.
template <bool kGateUp, bool kShared, int N>
__device__ void consume(const Product& p, const Stages<kShared>& stages, ProductBarriers& bars,
                        const std::byte* table, float* token_scale, const Tile& tile, int row_tile,
                        int& stage, uint32_t& parity) {
  using S = Stages<kShared>;
  const int group = static_cast<int>(threadIdx.x) / 128, warp = static_cast<int>(threadIdx.x) / 32 % 4,
            lane = static_cast<int>(threadIdx.x) % 32;
  const int g = lane / 4, t = lane % 4;
  float sum[2][N / 2] = {};
  const int row = group * 128 + warp * 16 + g;  // and 8 more, and 64 more
  if constexpr (kShared) {
    for (int block = 0; block < p.cols / 128; ++block) {
      barrier_wait(&bars.full[stage], parity);
      const uint64_t tokens = swizzled_rows(stages.tokens(stage));
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float part[N / 2];
        uint32_t a[4][4];
        const std::byte* codes = stages.weights(stage) + (row + 64 * half) * S::kRowBytes;
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int at = ((2 * t + i) ^ (g & 1)) * 16;
          const uint4 top = *reinterpret_cast<const uint4*>(codes + at),
                      low = *reinterpret_cast<const uint4*>(codes + 8 * S::kRowBytes + at);
          a[2 * i][0] = top.x, a[2 * i][2] = top.y, a[2 * i + 1][0] = top.z, a[2 * i + 1][2] = top.w;
          a[2 * i][1] = low.x, a[2 * i][3] = low.y, a[2 * i + 1][1] = low.z, a[2 * i + 1][3] = low.w;
        }
        multiply_begin();
#pragma unroll
        for (int j = 0; j < 4; ++j) multiply_e4m3(part, a[j], tokens + static_cast<uint64_t>(2 * j), j);
        multiply_commit();
        const float top_factor = stages.factors(stage)[row + 64 * half],
                    low_factor = stages.factors(stage)[row + 64 * half + 8];
        multiply_wait(part);
#pragma unroll
        for (int i = 0; i < N / 2; i += 4) {
          sum[half][i] = fmaf(part[i], top_factor, sum[half][i]);
          sum[half][i + 1] = fmaf(part[i + 1], top_factor, sum[half][i + 1]);
          sum[half][i + 2] = fmaf(part[i + 2], low_factor, sum[half][i + 2]);
          sum[half][i + 3] = fmaf(part[i + 3], low_factor, sum[half][i + 3]);
        }
      }
      __syncwarp();
      if (lane == 0) barrier_arrive(&bars.empty[stage]);
      if (++stage == S::kCount) stage = 0, parity ^= 1;
    }
  } else {
    // One warpgroup converts while the other's products run.
    for (int block = 0; block < p.cols / 128; ++block) {
      barrier_wait(&bars.full[stage], parity);
      const uint64_t tokens = swizzled_rows(stages.tokens(stage));
      uint32_t a[2][4][4];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const std::byte* codes = stages.weights(stage) + (row + 64 * half) * S::kRowBytes + 16 * t;
        const uint4 top = *reinterpret_cast<const uint4*>(codes),
                    low = *reinterpret_cast<const uint4*>(codes + 8 * S::kRowBytes);
        const auto* entries = reinterpret_cast<const uint8_t*>(stages.entries(stage) + row + 64 * half) + t;
        const uint2 top_table = *reinterpret_cast<const uint2*>(table + entries[0]),
                    low_table = *reinterpret_cast<const uint2*>(table + entries[32]);
        const uint32_t top_words[4] = {top.x, top.y, top.z, top.w},
                       low_words[4] = {low.x, low.y, low.z, low.w};
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          e2m1_to_e4m3(top_words[j], top_table, a[half][j][0], a[half][j][2]);
          e2m1_to_e4m3(low_words[j], low_table, a[half][j][1], a[half][j][3]);
        }
      }
      multiply_begin();
#pragma unroll
      for (int half = 0; half < 2; ++half) {
#pragma unroll
        for (int j = 0; j < 4; ++j)
          multiply_e4m3(sum[half], a[half][j], tokens + static_cast<uint64_t>(2 * j), 1);
      }
      multiply_commit();
      multiply_wait(sum[0]);
      multiply_wait(sum[1]);
      if (lane == 0) barrier_arrive(&bars.empty[stage]);
      if (++stage == S::kCount) stage = 0, parity ^= 1;
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int top_row = row + 64 * half, low_row = top_row + 8;
      const int first_row = row_tile * (kGateUp ? kTileRows / 2 : kTileRows);
      auto factor = [&](int r) {
        const uint32_t most =
            *p.most_of(tile.expert, r >> 3 & 1, first_row + (kGateUp ? (r >> 4) * 8 + (r & 7) : r), kGateUp);
        return __uint_as_float((most > 6 ? most - 6 : 0) << 23);
      };
      const float top_factor = factor(top_row), low_factor = factor(low_row);
#pragma unroll
      for (int i = 0; i < N / 2; i += 4)
        sum[half][i] *= top_factor, sum[half][i + 1] *= top_factor, sum[half][i + 2] *= low_factor,
            sum[half][i + 3] *= low_factor;
    }
  }

  // Neighbours in g exchange, so that each stores two neighbouring outputs of one token.
  const bool odd = g % 2 != 0;
  auto store = [&](float first, float second, int column, int out_column) {
    const float other = __shfl_xor_sync(~0u, odd ? first : second, 4);
    const int mine = column + (odd ? 1 : 0);
    if (mine < tile.count) {
      const __nv_bfloat162 pair =
          odd ? __floats2bfloat162_rn(other, second) : __floats2bfloat162_rn(first, other);
      *reinterpret_cast<__nv_bfloat162*>(p.out + (p.out_first + tile.begin + mine) * p.out_cols +
                                         (out_column & ~1)) = pair;
    }
  };
  sync_threads<1, 256>();  // token_scale is there
#pragma unroll
  for (int half = 0; half < 2; ++half) {
#pragma unroll
    for (int i = 0; i < N / 2; i += 4) {
      const int column = i * 2 + 2 * t;
      const float first = token_scale[column], second = token_scale[column + 1];
      const float* v = &sum[half][i];
      if constexpr (kGateUp) {
        auto swiglu = [&](float gate, float up) {
          gate = fminf(gate, p.limit);
          return gate / (1.f + __expf(-gate)) * fminf(fmaxf(up, -p.limit), p.limit);
        };
        store(swiglu(v[0] * first, v[2] * first), swiglu(v[1] * second, v[3] * second), column,
              row_tile * (kTileRows / 2) + group * 64 + half * 32 + warp * 8 + g);
      } else {
        const int row = row_tile * kTileRows + group * 128 + half * 64 + warp * 16 + g;
        store(v[0] * first, v[1] * second, column, row);
        store(v[2] * first, v[3] * second, column, row + 8);
      }
    }
  }
}

template <bool kGateUp, bool kShared>
__global__ __launch_bounds__(384, 1) void product_kernel(const __grid_constant__ Product p) {
  extern __shared__ __align__(1024) std::byte memory[];
  __shared__ ProductBarriers bars;
  __shared__ __align__(8) uint8_t table[16][8];  // [binades below the row's largest][magnitude] -> e4m3
  __shared__ float token_scale[2][kTileTokens];
  using S = Stages<kShared>;
  const S stages{memory};
  if (threadIdx.x == 0) {
    for (int s = 0; s < S::kCount; ++s) {
      barrier_init(&bars.full[s], 128);
      barrier_init(&bars.empty[s], 8);
    }
    barrier_init_done();
  }
  if (threadIdx.x < 128) {
    const int magnitude = static_cast<int>(threadIdx.x) % 8, below = static_cast<int>(threadIdx.x) / 8;
    const float value = static_cast<float>((0xC8643210u >> (4 * magnitude)) & 15) * .5f;
    table[below][magnitude] = __nv_cvt_float_to_fp8(ldexpf(value, 6 - below), __NV_SATFINITE, __NV_E4M3);
  }
  __syncthreads();
  let_next_kernel_start();
  wait_for_last_kernel();
  if (threadIdx.x >= 256) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 56;");
    produce<kGateUp, kShared>(p, stages, bars);
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 224;");
    const int total = number_of_tiles<kShared>(p) * p.row_tiles;
    int stage = 0, turn = 0;
    uint32_t parity = 0;
    for (int at = static_cast<int>(blockIdx.x); at < total; at += static_cast<int>(gridDim.x), turn ^= 1) {
      const Tile tile = tile_at<kShared>(p, at / p.row_tiles);
      if (threadIdx.x < kTileTokens) {
        const int place = tile.begin + min(static_cast<int>(threadIdx.x), tile.count - 1);
        token_scale[turn][threadIdx.x] = p.in_scale[kShared    ? p.in_first + place
                                                    : p.in_row ? p.in_row[place]
                                                               : place];
      }
      const auto* entries = reinterpret_cast<const std::byte*>(table);
      auto consume_up_to = [&](auto tokens) {
        consume<kGateUp, kShared, decltype(tokens)::value>(p, stages, bars, entries, token_scale[turn], tile,
                                                           at % p.row_tiles, stage, parity);
      };
      if (tile.count <= 32)
        consume_up_to(std::integral_constant<int, 32>());
      else if (tile.count <= 64)
        consume_up_to(std::integral_constant<int, 64>());
      else if (tile.count <= 96)
        consume_up_to(std::integral_constant<int, 96>());
      else if (tile.count <= 112)
        consume_up_to(std::integral_constant<int, 112>());
      else
        consume_up_to(std::integral_constant<int, 128>());
    }
  }
}

// ---- the launches ----

template <class... Formal, class... Actual>
void launch(CudaContext& context, void (*kernel)(Formal...), dim3 blocks, int threads, size_t shared,
            Actual... args) {
  cudaLaunchAttribute early{};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = blocks;
  config.blockDim = static_cast<unsigned>(threads);
  config.dynamicSmemBytes = shared;
  config.stream = context.stream;
  config.attrs = &early;
  config.numAttrs = 1;
  cudaLaunchKernelEx(&config, kernel, Formal(args)...);
}

template <bool kGateUp, bool kShared>
void launch_product(CudaContext& context, const Product& p) {
  constexpr int kBytes = Stages<kShared>::kCount * Stages<kShared>::kBytes;
  static const cudaError_t allowed = cudaFuncSetAttribute(
      product_kernel<kGateUp, kShared>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  check_launch(allowed, "shared memory of the grouped product");
  launch(context, product_kernel<kGateUp, kShared>, static_cast<unsigned>(context.sm_count), 384, kBytes, p);
}

void prefill_chunk(CudaContext& context, const ExpertsArgs& a, int64_t first, int64_t tokens) {
  const int64_t dim = a.x.shape(1), inner = a.shared.w1.rows, k = a.experts.shape(1),
                experts = a.routed.shape(0), pairs = tokens * k;
  Scratch& scratch = context.scratch;
  Scratch::Scope scope(scratch);
  Sorting s{a.experts.row(first),
            a.experts.stride(0),
            static_cast<int>(tokens),
            static_cast<int>(k),
            static_cast<int>(experts),
            scratch.take<int32_t>(experts),
            scratch.take<int32_t>(pairs),
            scratch.take<int32_t>(pairs),
            scratch.take<Tile>(experts + pairs / kTileTokens),
            scratch.take<int32_t>(1)};
  launch(context, count_kernel, static_cast<unsigned>(experts), 256, 0, s);
  launch(context, place_kernel, static_cast<unsigned>(experts), 256, 0, s);
  auto* row_most = scratch.take<uint8_t>(experts * (2 * inner + dim));
  launch(context, row_scales_kernel, dim3(16, static_cast<unsigned>(experts)), 256, 0,
         RowScales{a.routed.data(), s.counts, static_cast<int>(inner), static_cast<int>(dim), row_most});

  auto* x = scratch.take<uint32_t>(tokens * dim / 4);
  auto* x_scale = scratch.take<float>(tokens);
  launch(context, round_rows_kernel<float>, static_cast<unsigned>(tokens), 128, 0, a.x.row(first),
         a.x.stride(0), static_cast<int>(dim), x, x_scale);

  // y comes after hidden has become e4m3: they share their memory.
  auto* wide = scratch.take<__nv_bfloat16>((pairs + tokens) * std::max(dim, inner));
  auto* hidden = scratch.take<uint32_t>((pairs + tokens) * inner / 4);
  auto* hidden_scale = scratch.take<float>(pairs + tokens);
  Product p{};
  p.routed = a.routed.data();
  p.shared = a.shared;
  p.tiles = s.tiles;
  p.tile_count = s.tile_count;
  p.shared_tokens = static_cast<int>(tokens);
  p.in = reinterpret_cast<const uint8_t*>(x);
  p.in_scale = x_scale;
  p.in_row = s.token_of;
  p.out = wide;
  p.cols = static_cast<int>(dim);
  p.out_cols = static_cast<int>(inner);
  p.row_tiles = static_cast<int>(inner * 2 / kTileRows);
  p.row_most = row_most;
  p.inner = static_cast<int>(inner);
  p.dim = static_cast<int>(dim);
  p.limit = a.limit;
  launch_product<true, false>(context, p);
  p.out_first = pairs;
  launch_product<true, true>(context, p);
  launch(context, round_rows_kernel<__nv_bfloat16>, static_cast<unsigned>(pairs + tokens), 128, 0, wide,
         inner, static_cast<int>(inner), hidden, hidden_scale);

  p.in = reinterpret_cast<const uint8_t*>(hidden);
  p.in_scale = hidden_scale;
  p.in_row = nullptr;
  p.out_first = 0;
  p.cols = static_cast<int>(inner);
  p.out_cols = static_cast<int>(dim);
  p.row_tiles = static_cast<int>(dim / kTileRows);
  launch_product<false, false>(context, p);
  p.in_first = p.out_first = pairs;
  launch_product<false, true>(context, p);
  launch(context, combine_kernel, static_cast<unsigned>(tokens), 256, 0,
         Combination{a.experts.row(first), a.weights.row(first), a.experts.stride(0), a.weights.stride(0),
                     s.place_of, wide, a.out.row(first), a.out.stride(0), static_cast<int>(tokens),
                     static_cast<int>(k), static_cast<int>(dim)});
}

}  // namespace

bool experts_prefill_serves(const CudaContext& context, const ExpertsArgs& a) {
  auto all = [](const ExpertWeights& e, WeightFormat f) {
    return e.w1.format == f && e.w2.format == f && e.w3.format == f;
  };
  const int64_t dim = a.x.shape(1), inner = a.routed_like.w1.rows;
  return context.numerics == Numerics::kFast && !context.deterministic &&
         all(a.routed_like, WeightFormat::kFp4Group32) && all(a.shared, WeightFormat::kFp8Block128) &&
         a.shared.w1.rows == inner && dim % 256 == 0 && inner % 128 == 0 && a.experts.shape(1) < 32 &&
         a.routed.shape(0) <= kMaxExperts && a.x.stride(0) % 4 == 0 && a.out.stride(0) % 4 == 0;
}

void experts_prefill(CudaContext& context, const ExpertsArgs& a) {
  for (int64_t t = 0; t < a.x.shape(0); t += kTokensAtOnce)
    prefill_chunk(context, a, t, std::min(kTokensAtOnce, a.x.shape(0) - t));
}

}  // namespace kvasir::cuda
