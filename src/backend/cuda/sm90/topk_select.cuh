// Selection of the k largest of values that a part of a block holds in registers.
//
// It counts those above a sure lower bound in 1024 bins of their sortable bits, goes into the bin that the
// k-th falls in, and so on until that bin is wholly in, all equal, or small enough to be ranked. Everything
// is integer counting: the result does not depend on timing.
#pragma once

#include "backend/cuda/sm90/indexer_ptx.cuh"
#include "backend/cuda/sm90/topk_rows.cuh"

namespace kvasir::cuda {

// kThreads neighbouring threads with kEach values each; a block has as many selections as parts. Barriers 1,
// 2, ... of the block belong to its parts.
template <int kThreads, int kEach>
struct Selection {
  static constexpr int kBins = 1024;
  static constexpr int kRanked = 32;  // a bin of this many is ranked directly
  static constexpr int kBinsEach = kBins / kThreads;

  struct Shared {
    alignas(16) int count[kBins];
    alignas(16) uint32_t ranked[kRanked];
    int num_ranked;
    int part[32], chosen_part[32];
    uint32_t warp_lo[32], warp_hi[32];
    uint32_t lo, hi;  // of the bin that the k-th is in
    int need, bin_count;
  };

  static __device__ __forceinline__ int thread() { return static_cast<int>(threadIdx.x) % kThreads; }
  static __device__ __forceinline__ void sync() {
    named_barrier(1 + static_cast<int>(threadIdx.x) / kThreads, kThreads);
  }

  // Where the k-th value lies: values above `key` are in, and the first `ties` of those equal to it, of which
  // there are more.
  struct Threshold {
    uint32_t key;
    int ties;
  };

  static __device__ __forceinline__ void clear(Shared& s) {
#pragma unroll
    for (int i = 0; i < kBinsEach; ++i) s.count[thread() + i * kThreads] = 0;
  }

  // The threshold of the k largest of at least k values, which the first `held` threads hold; empty places
  // hold 0, which no score has. All threads get the same.
  static __device__ Threshold find_threshold(const uint32_t (&key)[kEach], int k, int held, Shared& s) {
    int warp = thread() / 32, lane = thread() % 32;
    uint32_t largest = 0, smallest = 0xffffffffu;
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      largest = max(largest, key[i]);
      smallest = min(smallest, key[i] == 0 ? 0xffffffffu : key[i]);
    }
    // Sets of neighbouring threads, at least k of them, have each a value as large as the smallest of their
    // maxima.
    int set = 0;
    if (held >= k) {
      set = 1;
      while (set < 32 && held / (2 * set) >= k) set *= 2;
    }
    uint32_t lo = largest, hi = __reduce_max_sync(0xffffffffu, largest);
    for (int i = 1; i < set; i *= 2) lo = max(lo, __shfl_xor_sync(0xffffffffu, lo, i));
    if (set == 0) lo = smallest;
    if (set != 0 && thread() >= held / set * set) lo = 0xffffffffu;
    lo = __reduce_min_sync(0xffffffffu, lo);
    if (lane == 0) {
      s.warp_lo[warp] = lo;
      s.warp_hi[warp] = hi;
    }
    clear(s);
    if (thread() == 0) s.num_ranked = 0;
    if (thread() < kRanked) s.ranked[thread()] = 0;
    sync();
    lo = __reduce_min_sync(0xffffffffu, lane < kThreads / 32 ? s.warp_lo[lane] : 0xffffffffu);
    hi = __reduce_max_sync(0xffffffffu, lane < kThreads / 32 ? s.warp_hi[lane] : 0);
    int need = k;
    for (;;) {
      int shift = max(0, 22 - __clz(hi - lo));  // (hi - lo) >> shift < 1024
#pragma unroll
      for (int i = 0; i < kEach; ++i)
        if (key[i] >= lo && key[i] <= hi) atomicAdd(&s.count[(key[i] - lo) >> shift], 1);
      sync();
      // This thread's bins, the highest first.
      int first = kBins - kBinsEach * (1 + thread()), bins[kBinsEach], sum = 0;
#pragma unroll
      for (int i = 0; i < kBinsEach; ++i) sum += bins[i] = s.count[first + kBinsEach - 1 - i];
      int inclusive = warp_inclusive_sum(sum);
      if (lane == 31) s.part[warp] = inclusive;
      sync();
      int before = __reduce_add_sync(0xffffffffu, lane < warp ? s.part[lane] : 0) + inclusive - sum;
#pragma unroll
      for (int i = 0; i < kBinsEach; ++i) {
        if (before < need && need <= before + bins[i]) {
          s.need = need - before;
          s.bin_count = bins[i];
          s.lo = lo + (static_cast<uint32_t>(first + kBinsEach - 1 - i) << shift);
          s.hi = min(hi, s.lo + ((1u << shift) - 1));
        }
        before += bins[i];
      }
      sync();
      need = s.need;
      lo = s.lo;
      hi = s.hi;
      int count = s.bin_count;
      if (count == need) return {lo - 1, 0};  // all of the bin; lo > 0
      if (lo == hi) return {lo, need};
      if (count <= kRanked) {
#pragma unroll
        for (int i = 0; i < kEach; ++i)
          if (key[i] >= lo && key[i] <= hi) s.ranked[atomicAdd(&s.num_ranked, 1)] = key[i];
        sync();
        // Every warp ranks them by itself; places that stayed 0 rank last.
        uint32_t mine = s.ranked[lane];
        int above = 0, equal = 0;
#pragma unroll
        for (int i = 0; i < kRanked; i += 4) {
          uint4 x = *reinterpret_cast<const uint4*>(&s.ranked[i]);
          above += (x.x > mine) + (x.y > mine) + (x.z > mine) + (x.w > mine);
          equal += (x.x == mine) + (x.y == mine) + (x.z == mine) + (x.w == mine);
        }
        // Lanes that hold the value agree on the rest.
        unsigned found = __ballot_sync(0xffffffffu, lane < count && above < need && need <= above + equal);
        int from = __ffs(static_cast<int>(found)) - 1;
        uint32_t result = __shfl_sync(0xffffffffu, mine, from);
        int ties = need - __shfl_sync(0xffffffffu, above, from), same = __shfl_sync(0xffffffffu, equal, from);
        if (same == ties) return {result - 1, 0};
        return {result, ties};
      }
      clear(s);
      sync();
    }
  }

  // Calls write(place, i) for each of this thread's chosen values, places ascending with thread and i.
  template <class Write>
  static __device__ void write_chosen(const uint32_t (&key)[kEach], Threshold t, Shared& s, Write write) {
    int above = 0, equal = 0;
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      above += key[i] > t.key;
      equal += key[i] == t.key;
    }
    int warp = thread() / 32, lane = thread() % 32, packed = above | equal << 16,
        inclusive = warp_inclusive_sum(packed);
    if (lane == 31) s.chosen_part[warp] = inclusive;
    sync();
    int before = __reduce_add_sync(0xffffffffu, lane < warp ? s.chosen_part[lane] : 0) + inclusive - packed;
    int place = before & 0xffff, ties = before >> 16;
    place += min(ties, t.ties);
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      bool tie = key[i] == t.key;
      if (key[i] > t.key || (tie && ties < t.ties)) write(place++, i);
      ties += tie;
    }
  }
};

}  // namespace kvasir::cuda
