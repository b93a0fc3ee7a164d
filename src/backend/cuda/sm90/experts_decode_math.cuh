// The multiplying warps of experts_decode.cu: codes to f16, and the products. For that one file.
#pragma once

#include "backend/cuda/sm90/experts_decode_plan.cuh"

namespace kvasir::cuda {
namespace {

using namespace ptx;

// 8 e2m1 codes as f16 times 2^-14, in pairs (0,4) (1,5) (2,6) (3,7).
__device__ void e2m1_to_f16(uint32_t w, uint32_t (&h)[4]) {
  constexpr uint32_t kSign = 0x80008000u, kRest = 0x0E000E00u;
  h[0] = ((w << 12) & kSign) | ((w << 9) & kRest);
  h[1] = ((w << 8) & kSign) | ((w << 5) & kRest);
  h[2] = ((w << 4) & kSign) | ((w << 1) & kRest);
  h[3] = (w & kSign) | ((w >> 3) & kRest);
}
constexpr float kE2m1Gain = 16384.f;
__host__ __device__ constexpr int e2m1_place(int i) {
  return (i & 3) * 2 + (i >> 2);
}  // of value i in the pairs

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

// One warp's scales of 16 rows of e2m1 codes, a byte per group; the rows lie 16 * kGroups bytes apart. This
// lane needs those of rows g and g + 8. Where the rows of Flash all begin in the same bank, each lane loads
// one word, and passes it on.
template <int kGroups>
class Scales {
 public:
  __device__ Scales(const uint8_t* rows, int warp, int lane)
      : at_(rows + warp * kGroups + lane / 4 * (16 * kGroups)) {
    if constexpr (kWords > 0) {
      const int mine = lane % (16 * kWords);
      const uint32_t word = *reinterpret_cast<const uint32_t*>(
          rows + warp * kGroups + mine / kWords * (16 * kGroups) + mine % kWords * 4);
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
    // An arrival overtakes shared loads that still queue, and the copy that refills the slot is ordered
    // behind loads by this fence only. Without it rows of the next slot got into products, seldom.
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

  // A slot of e4m3 rows. `first` is this warp's first group in the matrix; the scale rows hold one byte per 4
  // groups.
  template <int kGroups>
  __device__ void multiply_e4m3(const uint32_t (*b)[4], int first, const uint8_t* top_scales,
                                const uint8_t* low_scales, float (&acc)[4]) {
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
      const uint2 top = *reinterpret_cast<const uint2*>(row + 32 * i),
                  low = *reinterpret_cast<const uint2*>(row + 8 * kPitch + 32 * i);
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

  // This lane's columns of one token's x as f16, and what the two columns of its sums are to be multiplied
  // with.
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
    const float down =
        __uint_as_float(static_cast<uint32_t>(127 - 14 + exponent) << 23) * (kE4m3 ? kE4m3Gain : kE2m1Gain);
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
        if constexpr (kE4m3)
          b[i][j] = half2_bits(v[(j & 2) * 2 + 1 - (j & 1)] * up, v[(j & 2) * 2 + 3 - (j & 1)] * up);
        else
          b[i][j] = half2_bits(v[j] * up, v[j + 4] * up);
      }
    }
  }

  // hidden was stored in the order of the pairs. Other blocks wrote it: past L1.
  __device__ void load_hidden(const __half* row, uint32_t (&b)[S::G2][4]) const {
#pragma unroll
    for (int i = 0; i < S::G2; ++i) {
      uint4 v = row ? __ldcg(reinterpret_cast<const uint4*>(row + (warp * S::G2 + i) * 32 + 8 * t()))
                    : make_uint4(0, 0, 0, 0);
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
        if (h == 0)
          multiply_e4m3<kHalf>(b, first, p.shared.w1.scale + band, p.shared.w3.scale + band, acc);
        else
          multiply_e4m3<kHalf>(b + kHalf, first, p.shared.w1.scale + band, p.shared.w3.scale + band, acc);
      }
      const float scaled[4] = {acc[0] * gain[0], acc[1] * gain[1], acc[2] * gain[0], acc[3] * gain[1]};
      hand_over(scaled);
    }
    segment = -1;
    for (int item = part_begin(plan.segments * S::kTiles), end = part_end(plan.segments * S::kTiles);
         item < end; ++item) {
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

  // Rows of hidden that belong to column g of segment s, which may be past the last routed one: then of the
  // shared expert.
  __device__ const __half* hidden_row(const DecodeProblem& p, const Plan& plan, int s) const {
    if (s < plan.segments) {
      const Segment segment = unpack(plan.segment[s]);
      return g() < segment.count ? p.hidden + int64_t{segment.begin + g()} * S::inner : nullptr;
    }
    const int token = (s - plan.segments) * kColumns + g();
    return token < p.tokens ? p.hidden + int64_t{plan.pairs + token} * S::inner : nullptr;
  }

  __device__ void down(const DecodeProblem& p, const Plan& plan) {
    const int first = static_cast<int>(blockIdx.x) * p.rows_per_block,
              last = min(S::dim, first + p.rows_per_block);
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
          multiply_e4m3<S::G2>(b, warp * S::G2, p.shared.w2.scale + top * (S::inner / 128),
                               p.shared.w2.scale + low * (S::inner / 128), acc);
        }
        hand_over(acc);
      }
    }
  }
};

}  // namespace
}  // namespace kvasir::cuda
