// What the warps of experts_decode.cu share: sizes, the ring of slots, the barriers, and the plan, which
// lists the chosen experts in ascending order, each with up to 8 of its tokens. For that one file.
#pragma once

#include <cuda_fp16.h>

#include "backend/cuda/sm90/moe_ptx.cuh"
#include "ops/experts.h"

namespace kvasir::cuda {
namespace {

using namespace ptx;

// Warp 0 produces, warps 1 and 2 finish, warp 3 does nothing, the others multiply. Those with little to do
// come first: others wait for them, and the scheduler prefers them.
constexpr int kMathWarps = 16;
constexpr int kFinishWarps = 2;
constexpr int kFirstMathWarp = 4;
constexpr int kThreads = (kFirstMathWarp + kMathWarps) * 32;
constexpr int kMathThreads = kMathWarps * 32;
constexpr int kFinishThreads = kFinishWarps * 32;
constexpr int kMaxTokens = 64;
constexpr int kMaxPairs = 512;
constexpr int kMaxExperts = 512;
constexpr int kColumns = 8;  // tokens of a segment

// Named barriers; 0 is __syncthreads.
constexpr int kMathBarrier = 1, kFinishBarrier = 2;

struct DecodeProblem {
  const ExpertWeights* routed;
  ExpertWeights shared;
  const int32_t* experts;
  const float* weights;
  int64_t experts_stride, weights_stride;
  const float* x;
  int64_t x_stride;
  __half*
      hidden;  // [pairs + tokens, inner], the 8 values of a lane in the order in which their bits come apart
  float* out;
  int64_t out_stride;
  int tokens, k, num_experts;
  int rows_per_block;  // of the output
  float limit;
  float hidden_gain;  // power of two: hidden * gain fits f16
};

// Blocks that have arrived at the meeting, and that have left it. The last to leave sets both back to zero.
// One launch at a time per device: launches of one stream follow each other.
__device__ unsigned meeting_arrived, meeting_left;

// One expert's tokens, eight at most. Packed: expert << 16 | begin << 4 | count; `begin` counts pairs.
struct Segment {
  int expert, begin, count;
};
__device__ Segment unpack(uint32_t s) {
  return {static_cast<int>(s >> 16), static_cast<int>(s >> 4 & 0xfff), static_cast<int>(s & 15)};
}

// Sizes of one model: dim = 512 * G1, inner = 512 * G2. A group is 32 columns, the span of one e2m1 scale.
template <int kG1, int kG2, int kSlotCount, int kSumCount>
struct Shape {
  static constexpr int G1 = kG1, G2 = kG2;  // groups of a warp: of x, of hidden
  static constexpr int dim = 512 * kG1, inner = 512 * kG2;
  static constexpr int kSlots = kSlotCount, kSums = kSumCount;
  static constexpr int kTiles = inner / 8;  // of 8 units, in one segment
  static constexpr int kDataBytes = 16 * (32 + (kG1 * 256 > kG2 * 512 ? kG1 * 256 : kG2 * 512));
  static constexpr int kSlotBytes = kDataBytes + 16 * 16 * (kG1 > kG2 ? kG1 : kG2);
  static_assert(kG1 % 2 == 0 && kSlotBytes % 16 == 0);
};

struct Plan {
  uint32_t segment[kMaxPairs];
  float weight[kMaxPairs];  // of a pair; repeated slots added up
  uint8_t token[kMaxPairs];
  uint32_t warp_total[kMathWarps];
  int segments, pairs;
};

struct Barriers {
  uint64_t full[8], empty[8];  // of a slot
  uint64_t sums_full[4], sums_empty[4];
  uint64_t planned;  // the plan is there
  uint64_t met;      // all blocks have written their part of hidden
};

// Partial sums of one tile: [warp][16 rows][8 columns]. Before the first tile: the tokens of each expert as
// bits.
union Sums {
  float part[4][kMathWarps][128];  // as many as the shape has room for
  unsigned long long tokens_of[kMaxExperts];
};

// ---- the plan ----

// The 16 math warps sort the pairs. Order is by expert, then token, whoever comes first.
__device__ void make_plan(const DecodeProblem& p, Sums& sums, Plan& plan) {
  const int i = static_cast<int>(threadIdx.x) - 32 * kFirstMathWarp;
  sums.tokens_of[i] = 0;
  sync_threads<kMathBarrier, kMathThreads>();
  if (i < p.tokens * p.k) {
    const int t = i / p.k;
    atomicOr(&sums.tokens_of[p.experts[t * p.experts_stride + i % p.k]], 1ull << t);
  }
  sync_threads<kMathBarrier, kMathThreads>();
  unsigned long long tokens = sums.tokens_of[i];
  const int count = __popcll(tokens);
  // Segments in the upper half, pairs in the lower.
  const uint32_t mine =
      static_cast<uint32_t>((count + kColumns - 1) / kColumns) << 16 | static_cast<uint32_t>(count);
  uint32_t scan = mine;
  for (int offset = 1; offset < 32; offset *= 2) {
    uint32_t below = __shfl_up_sync(~0u, scan, offset);
    if (i % 32 >= offset) scan += below;
  }
  if (i % 32 == 31) plan.warp_total[i / 32] = scan;
  sync_threads<kMathBarrier, kMathThreads>();
  uint32_t before = scan - mine;
  for (int w = 0; w < i / 32; ++w) before += plan.warp_total[w];
  const int begin = static_cast<int>(before & 0xffff);
  for (int j = 0; j < count; j += kColumns)
    plan.segment[(before >> 16) + j / kColumns] = static_cast<uint32_t>(i) << 16 |
                                                  static_cast<uint32_t>(begin + j) << 4 |
                                                  static_cast<uint32_t>(min(kColumns, count - j));
  for (int at = begin; tokens != 0; tokens &= tokens - 1, ++at) {
    const int t = __ffsll(static_cast<long long>(tokens)) - 1;
    float weight = 0.f;
    for (int s = 0; s < p.k; ++s)
      if (p.experts[t * p.experts_stride + s] == i) weight += p.weights[t * p.weights_stride + s];
    plan.token[at] = static_cast<uint8_t>(t);
    plan.weight[at] = weight;
  }
  if (i == kMathThreads - 1) {
    plan.segments = static_cast<int>((before + mine) >> 16);
    plan.pairs = static_cast<int>((before + mine) & 0xffff);
  }
  sync_threads<kMathBarrier, kMathThreads>();
}

// This block's part of `count` things.
__device__ int part_begin(int count) { return static_cast<int>(int64_t{count} * blockIdx.x / gridDim.x); }
__device__ int part_end(int count) { return static_cast<int>(int64_t{count} * (blockIdx.x + 1) / gridDim.x); }

// ---- the ring ----

struct Ring {
  int slot = 0;
  uint32_t parity = 0;
  __device__ void advance(int slots) {
    if (++slot == slots) slot = 0, parity ^= 1;
  }
};

}  // namespace
}  // namespace kvasir::cuda
