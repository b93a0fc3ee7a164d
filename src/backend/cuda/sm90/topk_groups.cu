// Top k in two exact selections: the k groups of 16 entries with the largest maxima (lowest group on ties),
// then the k best of their 16 k entries. Nothing outside of those groups can be among the k best: k maxima
// are at least as large, and where one is equal its entry lies before.
//
// A selection holds 16 values a thread in order of their numbers. It counts those above a sure lower bound in
// 2048 bins of their sortable bits, goes into the bin that the k-th falls in, and so on until that bin is
// wholly in, all equal, or small enough to be ranked. Everything is integer counting: the result does not
// depend on timing.
#include "backend/cuda/sm90/indexer_launch.h"
#include "backend/cuda/sm90/indexer_ptx.cuh"
#include "backend/cuda/sm90/topk_rows.cuh"

namespace kvasir::cuda {
namespace {

constexpr int kThreads = 1024;
constexpr int kEach = 16;
constexpr int kBins = 2048;
constexpr int kRanked = 64;  // a bin of this many is ranked directly

struct SelectShared {
  int count[kBins];
  uint32_t ranked[kRanked];
  int num_ranked;
  int part[32], chosen_part[32];
  uint32_t warp_lo[32], warp_hi[32];
  uint32_t lo, hi;  // of the bin that the k-th is in
  int need, bin_count;
  int32_t groups[kThreads];
};

// Where the k-th value lies: values above `key` are in, and the first `ties` of those equal to it.
struct Threshold {
  uint32_t key;
  int ties;
};

// The threshold of the k largest of at least k values, which the first `held` threads hold; empty places hold
// 0, which no score has. All threads get the same.
__device__ Threshold find_threshold(const uint32_t (&key)[kEach], int k, int held, SelectShared& s) {
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
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
  if (set != 0 && threadIdx.x >= held / set * set) lo = 0xffffffffu;
  lo = __reduce_min_sync(0xffffffffu, lo);
  if (lane == 0) {
    s.warp_lo[warp] = lo;
    s.warp_hi[warp] = hi;
  }
  s.count[threadIdx.x] = s.count[threadIdx.x + kThreads] = 0;
  if (threadIdx.x == 0) s.num_ranked = 0;
  __syncthreads();
  lo = __reduce_min_sync(0xffffffffu, s.warp_lo[lane]);
  hi = __reduce_max_sync(0xffffffffu, s.warp_hi[lane]);
  int need = k;
  for (;;) {
    int shift = max(0, 21 - __clz(hi - lo));  // (hi - lo) >> shift < 2048
#pragma unroll
    for (int i = 0; i < kEach; ++i)
      if (key[i] >= lo && key[i] <= hi) atomicAdd(&s.count[(key[i] - lo) >> shift], 1);
    __syncthreads();
    int bin = kBins - 1 - 2 * static_cast<int>(threadIdx.x);
    int2 both = *reinterpret_cast<const int2*>(&s.count[bin - 1]);
    int upper = both.y, lower = both.x, inclusive = warp_inclusive_sum(upper + lower);
    if (lane == 31) s.part[warp] = inclusive;
    __syncthreads();
    int before = __reduce_add_sync(0xffffffffu, lane < warp ? s.part[lane] : 0) + inclusive - upper - lower;
    if (before < need && need <= before + upper + lower) {
      bool in_upper = need <= before + upper;
      if (!in_upper) --bin;
      s.need = need - before - (in_upper ? 0 : upper);
      s.bin_count = in_upper ? upper : lower;
      s.lo = lo + (static_cast<uint32_t>(bin) << shift);
      s.hi = min(hi, s.lo + ((1u << shift) - 1));
    }
    __syncthreads();
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
      __syncthreads();
      // Every warp ranks them by itself.
      uint32_t mine = lane < count ? s.ranked[lane] : 0, other = lane + 32 < count ? s.ranked[lane + 32] : 0;
      int above = 0, equal = 0, above_other = 0, equal_other = 0;
      for (int i = 0; i < count; ++i) {
        uint32_t value = s.ranked[i];
        above += value > mine;
        equal += value == mine;
        above_other += value > other;
        equal_other += value == other;
      }
      bool found = lane < count && above < need && need <= above + equal;
      bool found_other = lane + 32 < count && above_other < need && need <= above_other + equal_other;
      // Those that found it hold the same value.
      uint32_t result = __reduce_max_sync(0xffffffffu, found ? mine : found_other ? other : 0);
      int ties = __reduce_max_sync(0xffffffffu, found ? need - above : found_other ? need - above_other : 0);
      return {result, ties};
    }
    s.count[threadIdx.x] = s.count[threadIdx.x + kThreads] = 0;
    __syncthreads();
  }
}

// Calls write(place, i) for each of this thread's chosen values, places ascending with thread and i.
template <class Write>
__device__ void write_chosen(const uint32_t (&key)[kEach], Threshold t, SelectShared& s, Write write) {
  int above = 0, equal = 0;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    above += key[i] > t.key;
    equal += key[i] == t.key;
  }
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, packed = above | equal << 16,
      inclusive = warp_inclusive_sum(packed);
  if (lane == 31) s.chosen_part[warp] = inclusive;
  __syncthreads();
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

// Values from, from + 1, ... of a row of n, kEach or fewer; 0 behind the end.
template <int kCount>
__device__ __forceinline__ void load_keys(uint32_t (&key)[kEach], const float* row, int from, int n) {
  constexpr int kWide = kCount < 4 ? kCount : 4;
#pragma unroll
  for (int i = 0; i < kEach; i += kWide) {
    float v[4] = {};
    bool in = i < kCount && from + i < n;
    if constexpr (kWide == 4) {
      if (in) {
        float4 x = *reinterpret_cast<const float4*>(row + from + i);
        v[0] = x.x, v[1] = x.y, v[2] = x.z, v[3] = x.w;
      }
    } else {
#pragma unroll
      for (int j = 0; j < kWide; ++j)
        if (in && from + i + j < n) v[j] = row[from + i + j];
    }
#pragma unroll
    for (int j = 0; j < kWide; ++j) key[i + j] = in && from + i + j < n ? sortable(v[j]) : 0;
  }
}

__global__ void __launch_bounds__(kThreads, 1) topk_groups_kernel(TopkRows c, const float* group_max) {
  __shared__ __align__(16) SelectShared s;
  // The batch was there before the kernel that wrote the scores.
  int64_t row = c.first_row + blockIdx.x;
  int n = static_cast<int>(visible_entries(c, row)), groups = (n + kEach - 1) / kEach;
  const float* scores = c.scores + blockIdx.x * c.capacity;
  int32_t* out = c.selected + row * c.selected_stride;
  wait_for_previous_kernels();
  let_next_kernel_start();
  if (n <= c.topk) {
    for (int i = threadIdx.x; i < c.topk; i += kThreads) out[i] = i < n ? i : -1;
    return;
  }
  uint32_t key[kEach];
  int thread = static_cast<int>(threadIdx.x), first = 0,
      held = 0;  // number of key[0], threads that have values
  if (groups > kThreads) {
    int each = groups > 8 * kThreads ? 16 : groups > 4 * kThreads ? 8 : groups > 2 * kThreads ? 4 : 2;
    const float* maxima = group_max + blockIdx.x * (c.capacity / kEach);
    switch (each) {
      case 16:
        load_keys<16>(key, maxima, thread * 16, groups);
        break;
      case 8:
        load_keys<8>(key, maxima, thread * 8, groups);
        break;
      case 4:
        load_keys<4>(key, maxima, thread * 4, groups);
        break;
      default:
        load_keys<2>(key, maxima, thread * 2, groups);
    }
    Threshold t = find_threshold(key, c.topk, (groups + each - 1) / each, s);
    write_chosen(key, t, s, [&](int place, int i) { s.groups[place] = thread * each + i; });
    __syncthreads();
    held = c.topk;
    first = thread < held ? s.groups[thread] * kEach : n;
    load_keys<16>(key, scores, first, n);
  } else {
    int each = n > 8 * kThreads ? 16 : n > 4 * kThreads ? 8 : n > 2 * kThreads ? 4 : n > kThreads ? 2 : 1;
    held = (n + each - 1) / each;
    first = thread * each;
    switch (each) {
      case 16:
        load_keys<16>(key, scores, first, n);
        break;
      case 8:
        load_keys<8>(key, scores, first, n);
        break;
      case 4:
        load_keys<4>(key, scores, first, n);
        break;
      case 2:
        load_keys<2>(key, scores, first, n);
        break;
      default:
        load_keys<1>(key, scores, first, n);
    }
  }
  Threshold t = find_threshold(key, c.topk, held, s);
  write_chosen(key, t, s, [&](int place, int i) { out[place] = first + i; });
}

}  // namespace

bool topk_groups_serve(const IndexSelectArgs& a) {
  return a.selected.shape(1) <= kThreads && a.batch.max_length / a.place.ratio <= kThreads * kEach * kEach;
}

void topk_rows_of_groups(cudaStream_t stream, const TopkRows& call, const float* group_max, int64_t rows) {
  launch_early(stream, topk_groups_kernel, dim3(static_cast<unsigned>(rows)), kThreads, 0, call, group_max);
}

}  // namespace kvasir::cuda
