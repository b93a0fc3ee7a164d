// Up to 64 tokens through MXFP4 experts and an FP8 shared expert in one launch, one block per multiprocessor.
//
// Such a call is a read of weights, so everything serves one stream of bulk copies per block that never pauses:
//
//   producer warp   copies 16 rows of weights after the other into a ring of slots. First the shared expert's, whose
//                   place is known before anybody has been routed, so the stream starts while the gate still runs.
//   16 warps        each multiply their sixteenth of a slot's columns: e2m1 and e4m3 codes become f16 by moving bits
//                   (the exponent's bias is made good at the end), tokens are the 8 columns of mma.m16n8k16.
//   2 warps         add the 16 partial sums in fixed order and finish them.
//
//   phase 1: rows of gate and up, 8 units at a time (rows 0-7 of a slot are w1's, 8-15 w3's), give hidden = silu(g) * u
//   all blocks meet; only the arithmetic waits there, the producer is a ring ahead with phase 2's weights
//   phase 2: a block owns some outputs of all tokens and goes through all experts in ascending order, the shared one
//            last: sums need neither a merge nor an atomic
//
// Every block sorts the call's (token, expert) pairs by itself: a list of up to 8 tokens of one expert is a segment. An
// expert with more tokens has several, and its weights are read again, from L2. Activations are f16: of x with one power
// of two per token and warp, of hidden with one per call. A token's bits depend on its own row and choice alone.
#include "backend/cuda/sm90/experts_decode.h"

#include <cuda_fp16.h>

#include <algorithm>

#include "backend/cuda/sm90/moe_ptx.cuh"
#include "base/check.h"

namespace kvasir::cuda {
namespace {

using namespace ptx;

// Warp 0 produces, warps 1 and 2 finish, warp 3 does nothing, the others multiply. Those with little to do come first:
// others wait for them, and the scheduler prefers them.
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
  __half* hidden;  // [pairs + tokens, inner], the 8 values of a lane in the order in which their bits come apart
  float* out;
  int64_t out_stride;
  int tokens, k, num_experts;
  int rows_per_block;  // of the output
  float limit;
  float hidden_gain;   // power of two: hidden * gain fits f16
};

// Blocks that have arrived at the meeting, and that have left it. The last to leave sets both back to zero. One
// launch at a time per device: launches of one stream follow each other.
__device__ unsigned meeting_arrived, meeting_left;

// One expert's tokens, eight at most. Packed: expert << 16 | begin << 4 | count; `begin` counts pairs.
struct Segment {
  int expert, begin, count;
};
__device__ Segment unpack(uint32_t s) { return {static_cast<int>(s >> 16), static_cast<int>(s >> 4 & 0xfff), static_cast<int>(s & 15)}; }

// Sizes of one model: dim = 512 * G1, inner = 512 * G2. A group is 32 columns, the span of one e2m1 scale.
template <int kG1, int kG2, int kSlotCount, int kSumCount>
struct Shape {
  static constexpr int G1 = kG1, G2 = kG2;              // groups of a warp: of x, of hidden
  static constexpr int dim = 512 * kG1, inner = 512 * kG2;
  static constexpr int kSlots = kSlotCount, kSums = kSumCount;
  static constexpr int kTiles = inner / 8;              // of 8 units, in one segment
  static constexpr int kDataBytes = 16 * (32 + (kG1 * 256 > kG2 * 512 ? kG1 * 256 : kG2 * 512));
  static constexpr int kSlotBytes = kDataBytes + 16 * 16 * (kG1 > kG2 ? kG1 : kG2);
  static_assert(kG1 % 2 == 0 && kSlotBytes % 16 == 0);
};

struct Plan {
  uint32_t segment[kMaxPairs];
  float weight[kMaxPairs];   // of a pair; repeated slots added up
  uint8_t token[kMaxPairs];
  uint32_t warp_total[kMathWarps];
  int segments, pairs;
};

struct Barriers {
  uint64_t full[8], empty[8];        // of a slot
  uint64_t sums_full[4], sums_empty[4];
  uint64_t planned;                  // the plan is there
  uint64_t met;                      // all blocks have written their part of hidden
};

// Partial sums of one tile: [warp][16 rows][8 columns]. Before the first tile: the tokens of each expert as bits.
union Sums {
  float part[4][kMathWarps][128];  // as many as the shape has room for
  unsigned long long tokens_of[kMaxExperts];
};

// 8 e2m1 codes as f16 times 2^-14, in pairs (0,4) (1,5) (2,6) (3,7).
__device__ void e2m1_to_f16(uint32_t w, uint32_t (&h)[4]) {
  constexpr uint32_t kSign = 0x80008000u, kRest = 0x0E000E00u;
  h[0] = ((w << 12) & kSign) | ((w << 9) & kRest);
  h[1] = ((w << 8) & kSign) | ((w << 5) & kRest);
  h[2] = ((w << 4) & kSign) | ((w << 1) & kRest);
  h[3] = (w & kSign) | ((w >> 3) & kRest);
}
constexpr float kE2m1Gain = 16384.f;
__host__ __device__ constexpr int e2m1_place(int i) { return (i & 3) * 2 + (i >> 2); }  // of value i in the pairs

// 4 e4m3 codes as f16 times 2^-8, in pairs (1,3) (0,2).
__device__ void e4m3_to_f16(uint32_t w, uint32_t (&h)[2]) {
  constexpr uint32_t kSign = 0x80008000u, kRest = 0x3F803F80u;
  h[0] = (w & kSign) | ((w >> 1) & kRest);
  h[1] = ((w << 8) & kSign) | ((w << 7) & kRest);
}
constexpr float kE4m3Gain = 256.f;
__host__ __device__ constexpr int e4m3_place(int i) { return (i & 4) + ((i & 1) ? 0 : 2) + (i >> 1 & 1); }

// 2^(byte - 127); the smallest, a subnormal, counts as zero.
__device__ float e8m0(uint32_t byte) { return __uint_as_float(byte << 23); }

// One warp's scales of 16 rows of e2m1 codes, a byte per group; the rows lie 16 * kGroups bytes apart. This lane needs
// those of rows g and g + 8. Where the rows of Flash all begin in the same bank, each lane loads one word, and passes it on.
template <int kGroups>
class Scales {
 public:
  __device__ Scales(const uint8_t* rows, int warp, int lane) : at_(rows + warp * kGroups + lane / 4 * (16 * kGroups)) {
    if constexpr (kWords > 0) {
      const int mine = lane % (16 * kWords);
      const uint32_t word = *reinterpret_cast<const uint32_t*>(rows + warp * kGroups + mine / kWords * (16 * kGroups) + mine % kWords * 4);
#pragma unroll
      for (int i = 0; i < kWords; ++i) {
        top_[i] = __shfl_sync(~0u, word, lane / 4 * kWords + i);
        low_[i] = __shfl_sync(~0u, word, (lane / 4 + 8) * kWords + i);
      }
    }
  }
  __device__ float top(int i) const { return value(top_, i, 0); }
  __device__ float low(int i) const { return value(low_, i, 8 * 16 * kGroups); }

 private:
  static constexpr int kWords = kGroups % 4 == 0 && kGroups <= 8 ? kGroups / 4 : 0;
  __device__ float value(const uint32_t* words, int i, int offset) const {
    if constexpr (kWords == 0) return e8m0(at_[offset + i]);
    const uint32_t word = words[i / 4];
    return __uint_as_float((i % 4 == 3 ? word >> 1 : word << (23 - 8 * (i % 4))) & 0x7f800000u);
  }
  const uint8_t* at_;
  uint32_t top_[kWords > 0 ? kWords : 1], low_[kWords > 0 ? kWords : 1];
};

__device__ uint32_t half2_bits(float low, float high) {
  __half2 h = __floats2half2_rn(low, high);
  return *reinterpret_cast<uint32_t*>(&h);
}

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
  const uint32_t mine = static_cast<uint32_t>((count + kColumns - 1) / kColumns) << 16 | static_cast<uint32_t>(count);
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
    plan.segment[(before >> 16) + j / kColumns] =
        static_cast<uint32_t>(i) << 16 | static_cast<uint32_t>(begin + j) << 4 | static_cast<uint32_t>(min(kColumns, count - j));
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

// ---- the producer ----

template <class S>
struct Producer {
  std::byte* slots;
  Barriers& bars;
  Ring ring;
  int lane;

  // Lanes 0 to rows - 1 copy a row of codes each, to places `data_pitch` apart; lanes 16 and 17, or 16 alone, the scales of
  // several rows in one piece, since small copies cost as much as large ones.
  __device__ void fill(const uint8_t* from, int rows, uint32_t data_bytes, uint32_t data_pitch, int pieces, uint32_t scale_bytes) {
    barrier_wait(&bars.empty[ring.slot], ring.parity ^ 1);
    uint64_t* full = &bars.full[ring.slot];
    if (lane == 0) barrier_expect(full, static_cast<uint32_t>(rows) * data_bytes + static_cast<uint32_t>(pieces) * scale_bytes);
    __syncwarp();
    std::byte* slot = slots + ring.slot * S::kSlotBytes;
    const bool codes = lane < rows, scales = lane >= 16 && lane < 16 + pieces;
    std::byte* to = codes ? slot + lane * data_pitch : slot + S::kDataBytes + (lane - 16) * scale_bytes;
    if (codes || scales) copy_to_shared(to, from, codes ? data_bytes : scale_bytes, full);
    ring.advance(S::kSlots);
  }

  __device__ const uint8_t* gate_up_source(const ExpertWeights& e) const {
    if (lane < 16) return static_cast<const uint8_t*>(lane < 8 ? e.w1.data : e.w3.data);
    return lane == 16 ? e.w1.scale : e.w3.scale;
  }
  __device__ const uint8_t* down_source(const ExpertWeights& e) const {
    return lane < 16 ? static_cast<const uint8_t*>(e.w2.data) : e.w2.scale;
  }

  __device__ void run(const DecodeProblem& p, const Plan& plan) {
    const int octets = (p.tokens + kColumns - 1) / kColumns;
    const uint8_t* shared_gate_up = gate_up_source(p.shared);
    for (int item = part_begin(octets * S::kTiles), end = part_end(octets * S::kTiles); item < end; ++item) {
      const int64_t unit = item % S::kTiles * 8 + lane % 8;
      for (int h = 0; h < 2; ++h) fill(shared_gate_up + unit * S::dim + h * (S::dim / 2), 16, S::dim / 2, S::dim / 2 + 32, 0, 0);
    }

    barrier_wait(&bars.planned, 0);
    int segment = -1;
    const uint8_t* source = nullptr;
    for (int item = part_begin(plan.segments * S::kTiles), end = part_end(plan.segments * S::kTiles); item < end; ++item) {
      if (item / S::kTiles != segment) {
        segment = item / S::kTiles;
        source = gate_up_source(p.routed[unpack(plan.segment[segment]).expert]);
      }
      const int64_t unit = item % S::kTiles * 8;
      fill(source + (lane < 16 ? (unit + lane % 8) * (S::dim / 2) : unit * (S::dim / 32)), 16, S::dim / 2, S::dim / 2 + 16, 2, 8 * (S::dim / 32));
    }

    const int first = static_cast<int>(blockIdx.x) * p.rows_per_block, last = min(S::dim, first + p.rows_per_block);
    if (first >= last) return;
    const uint8_t* next = plan.segments > 0 ? down_source(p.routed[unpack(plan.segment[0]).expert]) : nullptr;
    for (int s = 0; s < plan.segments; ++s) {
      source = next;
      if (s + 1 < plan.segments) next = down_source(p.routed[unpack(plan.segment[s + 1]).expert]);
      for (int r = first; r < last; r += 16)
        fill(source + (lane < 16 ? int64_t{r + lane} * (S::inner / 2) : int64_t{r} * (S::inner / 32)), min(16, last - r), S::inner / 2,
             S::inner / 2 + 16, 1, static_cast<uint32_t>(min(16, last - r)) * (S::inner / 32));
    }
    source = static_cast<const uint8_t*>(p.shared.w2.data);
    for (int o = 0; o < octets; ++o)
      for (int r = first; r < last; r += 16) fill(source + int64_t{r + lane} * S::inner, min(16, last - r), S::inner, S::inner + 32, 0, 0);
  }
};

// ---- the arithmetic ----

template <class S>
struct Math {
  std::byte* slots;
  Barriers& bars;
  Sums& sums;
  Ring ring;
  Ring sum;  // the tile's place in `sums`
  int warp, lane;

  __device__ int g() const { return lane / 4; }
  __device__ int t() const { return lane % 4; }

  __device__ const std::byte* wait_slot() {
    barrier_wait(&bars.full[ring.slot], ring.parity);
    return slots + ring.slot * S::kSlotBytes;
  }
  __device__ void release_slot() {
    // An arrival overtakes shared loads that still queue, and the copy that refills the slot is ordered behind loads by
    // this fence only. Without it rows of the next slot got into products, seldom.
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    __syncwarp();
    if (lane == 0) barrier_arrive(&bars.empty[ring.slot]);
    ring.advance(S::kSlots);
  }

  // A slot of e2m1 rows, this warp's kGroups groups of columns.
  template <int kGroups>
  __device__ void multiply_e2m1(const uint32_t (&b)[kGroups][4], float (&acc)[4]) {
    constexpr int kPitch = kGroups * 256 + 16;
    const std::byte* slot = wait_slot();
    const std::byte* row = slot + g() * kPitch + warp * kGroups * 16 + 4 * t();
    const Scales<kGroups> scales(reinterpret_cast<const uint8_t*>(slot + S::kDataBytes), warp, lane);
#pragma unroll
    for (int i = 0; i < kGroups; ++i) {
      uint32_t top[4], low[4];
      e2m1_to_f16(*reinterpret_cast<const uint32_t*>(row + 16 * i), top);
      e2m1_to_f16(*reinterpret_cast<const uint32_t*>(row + 8 * kPitch + 16 * i), low);
      float part[4] = {};
      mma_f16(part, top[0], low[0], top[1], low[1], b[i][0], b[i][1]);
      mma_f16(part, top[2], low[2], top[3], low[3], b[i][2], b[i][3]);
      const float top_scale = scales.top(i), low_scale = scales.low(i);
      acc[0] = fmaf(part[0], top_scale, acc[0]);
      acc[1] = fmaf(part[1], top_scale, acc[1]);
      acc[2] = fmaf(part[2], low_scale, acc[2]);
      acc[3] = fmaf(part[3], low_scale, acc[3]);
    }
    release_slot();
  }

  // A slot of e4m3 rows. `first` is this warp's first group in the matrix; the scale rows hold one byte per 4 groups.
  template <int kGroups>
  __device__ void multiply_e4m3(const uint32_t (*b)[4], int first, const uint8_t* top_scales, const uint8_t* low_scales, float (&acc)[4]) {
    constexpr int kPitch = kGroups * 512 + 32;
    uint32_t top_scale[kGroups], low_scale[kGroups];
#pragma unroll
    for (int i = 0; i < kGroups; ++i) {
      top_scale[i] = __ldg(top_scales + (first + i) / 4);
      low_scale[i] = __ldg(low_scales + (first + i) / 4);
    }
    const std::byte* row = wait_slot() + g() * kPitch + warp * kGroups * 32 + 8 * t();
#pragma unroll
    for (int i = 0; i < kGroups; ++i) {
      const uint2 top = *reinterpret_cast<const uint2*>(row + 32 * i), low = *reinterpret_cast<const uint2*>(row + 8 * kPitch + 32 * i);
      uint32_t a[2], c[2];
      float part[4] = {};
      e4m3_to_f16(top.x, a), e4m3_to_f16(low.x, c);
      mma_f16(part, a[0], c[0], a[1], c[1], b[i][0], b[i][1]);
      e4m3_to_f16(top.y, a), e4m3_to_f16(low.y, c);
      mma_f16(part, a[0], c[0], a[1], c[1], b[i][2], b[i][3]);
      acc[0] = fmaf(part[0], e8m0(top_scale[i]), acc[0]);
      acc[1] = fmaf(part[1], e8m0(top_scale[i]), acc[1]);
      acc[2] = fmaf(part[2], e8m0(low_scale[i]), acc[2]);
      acc[3] = fmaf(part[3], e8m0(low_scale[i]), acc[3]);
    }
    release_slot();
  }

  // Hands this warp's part of a tile to the finishing warps.
  __device__ void hand_over(const float (&acc)[4]) {
    barrier_wait(&bars.sums_empty[sum.slot], sum.parity ^ 1);
    float* part = sums.part[sum.slot][warp];
    *reinterpret_cast<float2*>(part + g() * 8 + 2 * t()) = make_float2(acc[0], acc[1]);
    *reinterpret_cast<float2*>(part + (g() + 8) * 8 + 2 * t()) = make_float2(acc[2], acc[3]);
    __syncwarp();
    if (lane == 0) barrier_arrive(&bars.sums_full[sum.slot]);
    sum.advance(S::kSums);
  }

  // Of group i of this warp: its number in the row of x.
  template <bool kE4m3>
  __device__ int group_of_x(int i) const {
    constexpr int half = S::G1 / 2;  // e4m3 rows come in two slots
    return kE4m3 ? i / half * (kMathWarps * half) + warp * half + i % half : warp * S::G1 + i;
  }

  // This lane's columns of one token's x as f16, and what the two columns of its sums are to be multiplied with.
  template <bool kE4m3>
  __device__ void load_x(const float* row, uint32_t (&b)[S::G1][4], float (&gain)[2]) {
    float amax = 0.f;
    if (row) {
#pragma unroll 4
      for (int i = 0; i < S::G1; ++i) {
        const auto* from = reinterpret_cast<const float4*>(row + group_of_x<kE4m3>(i) * 32 + 8 * t());
        const float4 v = from[0], w = from[1];
        amax = fmaxf(amax, fmaxf(fmaxf(fmaxf(fabsf(v.x), fabsf(v.y)), fmaxf(fabsf(v.z), fabsf(v.w))),
                                 fmaxf(fmaxf(fabsf(w.x), fabsf(w.y)), fmaxf(fabsf(w.z), fabsf(w.w)))));
      }
    }
    amax = fmaxf(amax, __shfl_xor_sync(~0u, amax, 1));
    amax = fmaxf(amax, __shfl_xor_sync(~0u, amax, 2));
    // amax * up lies in [2^14, 2^15). Rows of nothing but tiny values stay tiny.
    const int exponent = max(static_cast<int>(__float_as_uint(amax) >> 23) - 127, -100);
    const float up = __uint_as_float(static_cast<uint32_t>(127 + 14 - exponent) << 23);
    const float down = __uint_as_float(static_cast<uint32_t>(127 - 14 + exponent) << 23) * (kE4m3 ? kE4m3Gain : kE2m1Gain);
    gain[0] = __shfl_sync(~0u, down, 8 * t());
    gain[1] = __shfl_sync(~0u, down, 8 * t() + 4);
#pragma unroll
    for (int i = 0; i < S::G1; ++i) {
      float v[8] = {};
      if (row) {
        const auto* from = reinterpret_cast<const float4*>(row + group_of_x<kE4m3>(i) * 32 + 8 * t());
        *reinterpret_cast<float4*>(v) = from[0];
        *reinterpret_cast<float4*>(v + 4) = from[1];
      }
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        if constexpr (kE4m3) b[i][j] = half2_bits(v[(j & 2) * 2 + 1 - (j & 1)] * up, v[(j & 2) * 2 + 3 - (j & 1)] * up);
        else b[i][j] = half2_bits(v[j] * up, v[j + 4] * up);
      }
    }
  }

  // hidden was stored in the order of the pairs. Other blocks wrote it: past L1.
  __device__ void load_hidden(const __half* row, uint32_t (&b)[S::G2][4]) const {
#pragma unroll
    for (int i = 0; i < S::G2; ++i) {
      uint4 v = row ? __ldcg(reinterpret_cast<const uint4*>(row + (warp * S::G2 + i) * 32 + 8 * t())) : make_uint4(0, 0, 0, 0);
      b[i][0] = v.x, b[i][1] = v.y, b[i][2] = v.z, b[i][3] = v.w;
    }
  }

  __device__ void gate_up(const DecodeProblem& p, const Plan& plan) {
    constexpr int kHalf = S::G1 / 2;
    const int octets = (p.tokens + kColumns - 1) / kColumns;
    uint32_t b[S::G1][4];
    float gain[2];
    int segment = -1;
    for (int item = part_begin(octets * S::kTiles), end = part_end(octets * S::kTiles); item < end; ++item) {
      if (item / S::kTiles != segment) {
        segment = item / S::kTiles;
        const int token = segment * kColumns + g();
        load_x<true>(token < p.tokens ? p.x + token * p.x_stride : nullptr, b, gain);
      }
      const int64_t band = item % S::kTiles * 8 / 128 * (S::dim / 128);
      float acc[4] = {};
      for (int h = 0; h < 2; ++h) {
        const int first = h * (kMathWarps * kHalf) + warp * kHalf;
        // The array is indexed by constants only in each branch.
        if (h == 0) multiply_e4m3<kHalf>(b, first, p.shared.w1.scale + band, p.shared.w3.scale + band, acc);
        else multiply_e4m3<kHalf>(b + kHalf, first, p.shared.w1.scale + band, p.shared.w3.scale + band, acc);
      }
      const float scaled[4] = {acc[0] * gain[0], acc[1] * gain[1], acc[2] * gain[0], acc[3] * gain[1]};
      hand_over(scaled);
    }
    segment = -1;
    for (int item = part_begin(plan.segments * S::kTiles), end = part_end(plan.segments * S::kTiles); item < end; ++item) {
      if (item / S::kTiles != segment) {
        segment = item / S::kTiles;
        const Segment s = unpack(plan.segment[segment]);
        load_x<false>(g() < s.count ? p.x + plan.token[s.begin + g()] * p.x_stride : nullptr, b, gain);
      }
      float acc[4] = {};
      multiply_e2m1<S::G1>(b, acc);
      const float scaled[4] = {acc[0] * gain[0], acc[1] * gain[1], acc[2] * gain[0], acc[3] * gain[1]};
      hand_over(scaled);
    }
  }

  // Rows of hidden that belong to column g of segment s, which may be past the last routed one: then of the shared expert.
  __device__ const __half* hidden_row(const DecodeProblem& p, const Plan& plan, int s) const {
    if (s < plan.segments) {
      const Segment segment = unpack(plan.segment[s]);
      return g() < segment.count ? p.hidden + int64_t{segment.begin + g()} * S::inner : nullptr;
    }
    const int token = (s - plan.segments) * kColumns + g();
    return token < p.tokens ? p.hidden + int64_t{plan.pairs + token} * S::inner : nullptr;
  }

  __device__ void down(const DecodeProblem& p, const Plan& plan) {
    const int first = static_cast<int>(blockIdx.x) * p.rows_per_block, last = min(S::dim, first + p.rows_per_block);
    if (first >= last) return;
    const int segments = plan.segments + (p.tokens + kColumns - 1) / kColumns;
    barrier_wait(&bars.met, 0);
    uint32_t b[S::G2][4], next[S::G2][4];
    load_hidden(hidden_row(p, plan, 0), next);
    for (int s = 0; s < segments; ++s) {
#pragma unroll
      for (int i = 0; i < S::G2; ++i)
        for (int j = 0; j < 4; ++j) b[i][j] = next[i][j];
      if (s + 1 < segments) load_hidden(hidden_row(p, plan, s + 1), next);
      for (int r = first; r < last; r += 16) {
        float acc[4] = {};
        if (s < plan.segments) {
          multiply_e2m1<S::G2>(b, acc);
        } else {
          const int64_t top = r / 128, low = min(r + 8, S::dim - 1) / 128;
          multiply_e4m3<S::G2>(b, warp * S::G2, p.shared.w2.scale + top * (S::inner / 128), p.shared.w2.scale + low * (S::inner / 128), acc);
        }
        hand_over(acc);
      }
    }
  }
};

// ---- the end of each tile ----

template <class S>
struct Finish {
  Barriers& bars;
  Sums& sums;
  float* out;  // [tokens][rows_per_block] of this block
  Ring sum;
  int thread;  // of the finishing ones

  // The sum over all warps of element `at` of the present tile, which the caller has waited for.
  __device__ float add_parts(int at) const {
    float v = 0.f;
#pragma unroll
    for (int w = 0; w < kMathWarps; ++w) v += sums.part[sum.slot][w][at];
    return v;
  }
  __device__ void wait_tile() { barrier_wait(&bars.sums_full[sum.slot], sum.parity); }
  // `read`: made of everything that was read.
  __device__ void release_tile(float read) {
    __syncwarp();
    if (thread % 32 == 0) barrier_arrive_after(&bars.sums_empty[sum.slot], read);
    sum.advance(S::kSums);
  }

  // 8 units of `count` tokens; `row` is the first one's row of hidden.
  __device__ void swiglu(const DecodeProblem& p, int row, int tile, int count, bool e4m3) {
    const int unit = thread / 8, column = thread % 8;
    __half* to = p.hidden + (row + column) * S::inner + tile * 8 + (e4m3 ? e4m3_place(unit) : e2m1_place(unit));
    wait_tile();
    const float top = add_parts(thread), low = add_parts(64 + thread);
    release_tile(top + low);
    const float gate = fminf(top, p.limit), up = fminf(fmaxf(low, -p.limit), p.limit);
    const float a = __fdividef(gate, 1.f + __expf(-gate)) * up;
    if (column < count) *to = __float2half_rn(a * p.hidden_gain);
  }

  __device__ void gate_up(const DecodeProblem& p, const Plan& plan) {
    const int octets = (p.tokens + kColumns - 1) / kColumns;
    for (int item = part_begin(octets * S::kTiles), end = part_end(octets * S::kTiles); item < end; ++item) {
      const int octet = item / S::kTiles;
      swiglu(p, plan.pairs + octet * kColumns, item % S::kTiles, min(kColumns, p.tokens - octet * kColumns), true);
    }
    for (int item = part_begin(plan.segments * S::kTiles), end = part_end(plan.segments * S::kTiles); item < end; ++item) {
      const Segment s = unpack(plan.segment[item / S::kTiles]);
      swiglu(p, s.begin, item % S::kTiles, s.count, false);
    }
  }

  // Returns when every block has written its part of hidden.
  __device__ void meet() {
    __threadfence();
    sync_threads<kFinishBarrier, kFinishThreads>();
    if (thread == 0) {
      atomicAdd(&meeting_arrived, 1u);
      unsigned arrived;
      do {
        asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(arrived) : "l"(&meeting_arrived) : "memory");
      } while (arrived < gridDim.x);
      if (atomicAdd(&meeting_left, 1u) == gridDim.x - 1) {
        meeting_arrived = 0;
        meeting_left = 0;
      }
      __threadfence();
      barrier_arrive(&bars.met);
    }
  }

  __device__ void down(const DecodeProblem& p, const Plan& plan) {
    const int first = static_cast<int>(blockIdx.x) * p.rows_per_block, last = min(S::dim, first + p.rows_per_block);
    if (first >= last) return;
    const int segments = plan.segments + (p.tokens + kColumns - 1) / kColumns;
    const int row = thread / 8, column = thread % 8;
    for (int i = thread; i < p.tokens * p.rows_per_block; i += kFinishThreads) out[i] = 0.f;
    for (int s = 0; s < segments; ++s) {
      int token = (s - plan.segments) * kColumns + column, count = p.tokens - (s - plan.segments) * kColumns;
      float factor = kE4m3Gain;
      if (s < plan.segments) {
        const Segment segment = unpack(plan.segment[s]);
        count = segment.count;
        const int pair = min(segment.begin + column, kMaxPairs - 1);
        token = plan.token[pair];
        factor = kE2m1Gain * plan.weight[pair];
      }
      factor /= p.hidden_gain;
      // A token's column changes from segment to segment: its sum passes from thread to thread.
      sync_threads<kFinishBarrier, kFinishThreads>();
      for (int r = first; r < last; r += 16) {
        wait_tile();
        const float top = add_parts(thread), low = add_parts(64 + thread);
        release_tile(top + low);
        if (column < count) {
          float* sum_of = out + token * p.rows_per_block + r - first + row;
          if (r + row < last) sum_of[0] += top * factor;
          if (r + row + 8 < last) sum_of[8] += low * factor;
        }
      }
    }
    sync_threads<kFinishBarrier, kFinishThreads>();
    for (int i = thread; i < p.tokens * p.rows_per_block; i += kFinishThreads) {
      const int token = i / p.rows_per_block, r = first + i % p.rows_per_block;
      if (r < last) p.out[token * p.out_stride + r] = out[i];
    }
  }
};

template <class S>
__global__ __launch_bounds__(kThreads, 1) void decode_kernel(const __grid_constant__ DecodeProblem p) {
  extern __shared__ __align__(128) std::byte memory[];
  std::byte* slots = memory;
  Sums& sums = *reinterpret_cast<Sums*>(memory + S::kSlots * S::kSlotBytes);
  Plan& plan = *reinterpret_cast<Plan*>(&sums.part[S::kSums]);
  float* out = reinterpret_cast<float*>(&plan + 1);
  __shared__ Barriers bars;

  if (threadIdx.x == 0) {
    for (int s = 0; s < S::kSlots; ++s) {
      barrier_init(&bars.full[s], 1);
      barrier_init(&bars.empty[s], kMathWarps);
    }
    for (int b = 0; b < S::kSums; ++b) {
      barrier_init(&bars.sums_full[b], kMathWarps);
      barrier_init(&bars.sums_empty[b], kFinishWarps);
    }
    barrier_init(&bars.planned, kMathWarps);
    barrier_init(&bars.met, 1);
    barrier_init_done();
  }
  __syncthreads();
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  if (warp >= kFirstMathWarp) {
    let_next_kernel_start();
    wait_for_last_kernel();
    make_plan(p, sums, plan);
    if (lane == 0) barrier_arrive(&bars.planned);
    Math<S> math{slots, bars, sums, {}, {}, warp - kFirstMathWarp, lane};
    math.gate_up(p, plan);
    math.down(p, plan);
  } else if (warp == 0) {
    Producer<S>{slots, bars, {}, lane}.run(p, plan);  // reads weights only: they were there before any kernel
  } else if (warp <= kFinishWarps) {
    wait_for_last_kernel();
    barrier_wait(&bars.planned, 0);
    Finish<S> finish{bars, sums, out, {}, static_cast<int>(threadIdx.x) - 32};
    finish.gate_up(p, plan);
    finish.meet();
    finish.down(p, plan);
  }
}

using Flash = Shape<8, 4, 5, 4>;
using Pro = Shape<14, 6, 3, 3>;
using Small = Shape<2, 1, 5, 2>;  // no model's: for tests that shall be quick

template <class S>
bool fits(const ExpertsArgs& a) {
  return a.x.shape(1) == S::dim && a.routed_like.w1.rows == S::inner && a.shared.w1.rows == S::inner;
}

template <class S>
void launch(CudaContext& context, DecodeProblem p) {
  p.rows_per_block = (S::dim / 8 + context.sm_count - 1) / context.sm_count * 8;
  p.hidden = context.scratch.take<__half>(int64_t{p.tokens} * (p.k + 1) * S::inner);
  const size_t bytes = S::kSlots * S::kSlotBytes + S::kSums * sizeof(Sums{}.part[0]) + sizeof(Plan) + static_cast<size_t>(p.tokens * p.rows_per_block) * sizeof(float);
  static const cudaError_t allowed =
      cudaFuncSetAttribute(decode_kernel<S>, cudaFuncAttributeMaxDynamicSharedMemorySize, 232448 - static_cast<int>(sizeof(Barriers)) - 1024);
  KVASIR_CHECK(allowed == cudaSuccess, "{}", cudaGetErrorString(allowed));
  cudaLaunchAttribute early{};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = static_cast<unsigned>(context.sm_count);
  config.blockDim = kThreads;
  config.dynamicSmemBytes = bytes;
  config.stream = context.stream;
  config.attrs = &early;
  config.numAttrs = 1;
  cudaLaunchKernelEx(&config, decode_kernel<S>, p);
}

}  // namespace

bool experts_decode_serves(const CudaContext& context, const ExpertsArgs& a) {
  auto all = [](const ExpertWeights& e, WeightFormat f) { return e.w1.format == f && e.w2.format == f && e.w3.format == f; };
  return context.numerics == Numerics::kFast && all(a.routed_like, WeightFormat::kFp4Group32) && all(a.shared, WeightFormat::kFp8Block128) &&
         (fits<Flash>(a) || fits<Pro>(a) || fits<Small>(a)) && a.experts.shape(1) <= kMaxPairs / kMaxTokens && a.routed.shape(0) <= kMaxExperts &&
         a.x.stride(0) % 4 == 0 && reinterpret_cast<uintptr_t>(a.x.data()) % 16 == 0 && a.limit * a.limit <= 16384.f;
}

void experts_decode(CudaContext& context, const ExpertsArgs& a) {
  DecodeProblem p{};
  p.routed = a.routed.data();
  p.shared = a.shared;
  p.experts_stride = a.experts.stride(0);
  p.weights_stride = a.weights.stride(0);
  p.x_stride = a.x.stride(0);
  p.out_stride = a.out.stride(0);
  p.k = static_cast<int>(a.experts.shape(1));
  p.num_experts = static_cast<int>(a.routed.shape(0));
  p.limit = a.limit;
  p.hidden_gain = 1.f;
  while (p.hidden_gain < 4096.f && p.hidden_gain * a.limit * a.limit <= 16384.f) p.hidden_gain *= 2;
  for (int64_t t = 0; t < a.x.shape(0); t += kMaxTokens) {
    p.tokens = static_cast<int>(std::min<int64_t>(kMaxTokens, a.x.shape(0) - t));
    p.experts = a.experts.row(t);
    p.weights = a.weights.row(t);
    p.x = a.x.row(t);
    p.out = a.out.row(t);
    Scratch::Scope scope(context.scratch);
    if (fits<Flash>(a)) launch<Flash>(context, p);
    else if (fits<Pro>(a)) launch<Pro>(context, p);
    else launch<Small>(context, p);
  }
}

}  // namespace kvasir::cuda
