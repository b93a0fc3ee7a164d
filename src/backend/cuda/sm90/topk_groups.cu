// Top k in two exact selections: the k groups of 16 entries with the largest maxima (lowest group on ties),
// then the k best of their 16 k entries. Nothing outside of those groups can be among the k best: k maxima
// are at least as large, and where one is equal its entry lies before.
//
// A selection holds up to 16 values a thread, four from each of up to four chunks of 4096, so that loads are
// wide; chunk, thread and place give the order of their numbers. The k-th value is found by counting those
// above a sure lower bound in 2048 bins of their sortable bits, then those in the bin that it falls in, and
// so on until that bin is wholly in, all equal, or small enough to be ranked. Everything is integer counting:
// the result does not depend on timing.
#include "backend/cuda/sm90/indexer_launch.h"
#include "backend/cuda/sm90/indexer_ptx.cuh"
#include "backend/cuda/sm90/topk_rows.cuh"

namespace kvasir::cuda {
namespace {

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / 32;
constexpr int kGroup = 16;  // scores of one maximum
constexpr int kChunks = 4;
constexpr int kChunk = 4 * kThreads;
constexpr int kBins = 2048;
constexpr int kRanked = 32;  // a bin of this many is ranked directly

struct SelectShared {
  int count[kBins];
  alignas(16) uint32_t ranked[kRanked];
  int num_ranked;
  int warp_part[kWarps], chosen[2][kChunks][kWarps];
  uint32_t warp_lo[kWarps], warp_hi[kWarps];
  uint32_t lo, hi;  // of the bin that the k-th is in
  int need, bin_count, ties;
  float threshold;
  int32_t groups[kThreads];
};

// Values of which those above `at` are taken, and of those equal to it all or the first `ties`.
struct Threshold {
  float at;
  bool all;
  int ties;
};

using Values = float[4 * kChunks];  // -inf where there is none

__device__ __forceinline__ float value_of(uint32_t key) {
  return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

// Clears the bins between uses; its writes are seen after the next barrier.
__device__ __forceinline__ void clear(SelectShared& s) {
  reinterpret_cast<int2*>(s.count)[threadIdx.x] = {0, 0};
  if (threadIdx.x < kRanked) s.ranked[threadIdx.x] = 0;
  if (threadIdx.x == 0) s.num_ranked = 0;
}

// The range of keys that the k-th of `size` values is in; ends behind a barrier.
__device__ __forceinline__ void bound_range(const Values& v, int size, int k, SelectShared& s, uint32_t& lo,
                                            uint32_t& hi) {
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, chunks = (size + kChunk - 1) / kChunk,
      held = min((size + 3) / 4, kThreads);
  float most = v[0], least = INFINITY;
#pragma unroll
  for (int i = 0; i < kChunks; ++i)
    if (i < chunks)
      most = fmaxf(most, fmaxf(fmaxf(v[4 * i], v[4 * i + 1]), fmaxf(v[4 * i + 2], v[4 * i + 3])));
  // Sets of neighbouring threads, at least k of them, have each a value as large as the smallest of their
  // maxima.
  int set = 0;
  if (held >= k) {
    set = 1;
    while (set < 32 && held / (2 * set) >= k) set *= 2;
  }
  if (set == 0) {
#pragma unroll
    for (int i = 0; i < 4 * kChunks; ++i) least = fminf(least, v[i] == -INFINITY ? INFINITY : v[i]);
  } else if (static_cast<int>(threadIdx.x) < held / set * set) {
    least = most;
  }
  uint32_t bottom = sortable(least);
  hi = __reduce_max_sync(0xffffffffu, sortable(most));
  if (set > 0)
    for (int i = 1; i < set; i *= 2) bottom = max(bottom, __shfl_xor_sync(0xffffffffu, bottom, i));
  bottom = __reduce_min_sync(0xffffffffu, bottom);
  if (lane == 0) {
    s.warp_lo[warp] = bottom;
    s.warp_hi[warp] = hi;
  }
  clear(s);
  __syncthreads();
  lo = __reduce_min_sync(0xffffffffu, s.warp_lo[lane]);
  hi = __reduce_max_sync(0xffffffffu, s.warp_hi[lane]);
}

// The threshold of the k largest of `size` >= k values. All threads get the same.
__device__ Threshold find_threshold(const Values& v, int size, int k, SelectShared& s) {
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, chunks = (size + kChunk - 1) / kChunk, need = k;
  uint32_t lo, hi;
  bound_range(v, size, k, s, lo, hi);
  for (;;) {
    int shift = max(0, 21 - __clz(hi - lo));  // (hi - lo) >> shift < 2048
    float bottom = value_of(lo), top = value_of(hi);
#pragma unroll
    for (int i = 0; i < kChunks; ++i) {
      if (i >= chunks) break;
#pragma unroll
      for (int j = 4 * i; j < 4 * i + 4; ++j)
        if (v[j] >= bottom && v[j] <= top) atomicAdd(&s.count[(sortable(v[j]) - lo) >> shift], 1);
    }
    __syncthreads();
    // This thread's two bins, the higher one first.
    int first = kBins - 2 - 2 * static_cast<int>(threadIdx.x);
    int2 bins = *reinterpret_cast<const int2*>(&s.count[first]);
    int inclusive = warp_inclusive_sum(bins.x + bins.y);
    if (lane == 31) s.warp_part[warp] = inclusive;
    __syncthreads();
    int before =
        __reduce_add_sync(0xffffffffu, lane < warp ? s.warp_part[lane] : 0) + inclusive - bins.x - bins.y;
    if (before < need && need <= before + bins.x + bins.y) {
      bool upper = need <= before + bins.y;
      s.need = need - before - (upper ? 0 : bins.y);
      s.bin_count = upper ? bins.y : bins.x;
      uint32_t start = lo + (static_cast<uint32_t>(first + upper) << shift);
      s.lo = start;
      s.hi = min(hi, start + ((1u << shift) - 1));
    }
    __syncthreads();
    need = s.need;
    lo = s.lo;
    hi = s.hi;
    int count = s.bin_count;
    if (count == need || lo == hi) return {value_of(lo), count == need, need};
    if (count <= kRanked) break;
    clear(s);
    __syncthreads();
  }
  float bottom = value_of(lo), top = value_of(hi);
#pragma unroll
  for (int i = 0; i < kChunks; ++i) {
    if (i >= chunks) break;
#pragma unroll
    for (int j = 4 * i; j < 4 * i + 4; ++j)
      if (v[j] >= bottom && v[j] <= top) s.ranked[atomicAdd(&s.num_ranked, 1)] = sortable(v[j]);
  }
  __syncthreads();
  if (warp == 0) {  // places that stayed 0 rank last
    uint32_t mine = s.ranked[lane];
    int above = 0, equal = 0;
#pragma unroll
    for (int i = 0; i < kRanked; i += 4) {
      uint4 x = *reinterpret_cast<const uint4*>(&s.ranked[i]);
      above += (x.x > mine) + (x.y > mine) + (x.z > mine) + (x.w > mine);
      equal += (x.x == mine) + (x.y == mine) + (x.z == mine) + (x.w == mine);
    }
    if (mine != 0 && above < need && need <= above + equal) {  // lanes with this value write the same
      s.threshold = value_of(mine);
      s.ties = need - above;
      s.bin_count = equal;
    }
  }
  __syncthreads();
  return {s.threshold, s.bin_count == s.ties, s.ties};
}

// For each chunk, how many bits of all masks lie before this thread's; four bits of a mask belong to a chunk.
__device__ __forceinline__ void places_of(uint32_t mask, int chunks, int (&chosen)[kChunks][kWarps],
                                          int (&before)[kChunks]) {
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  uint32_t counts = (mask & 0x5555u) + (mask >> 1 & 0x5555u);
  counts = (counts & 0x3333u) + (counts >> 2 & 0x3333u);  // a nibble each
  counts =
      (counts & 0xf) | (counts & 0xf0) << 4 | (counts & 0xf00) << 8 | (counts & 0xf000) << 12;  // a byte each
  auto inclusive = static_cast<uint32_t>(warp_inclusive_sum(static_cast<int>(counts)));  // at most 128 each
  if (lane == 31) {
#pragma unroll
    for (int i = 0; i < kChunks; ++i) chosen[i][warp] = static_cast<int>(inclusive >> 8 * i & 255);
  }
  __syncthreads();
  uint32_t own = inclusive - counts;
  int sum = 0;
#pragma unroll
  for (int i = 0; i < kChunks; ++i) {
    if (i >= chunks) break;
    int part = chosen[i][lane];
    before[i] =
        sum + __reduce_add_sync(0xffffffffu, lane < warp ? part : 0) + static_cast<int>(own >> 8 * i & 255);
    sum += __reduce_add_sync(0xffffffffu, part);
  }
}

// Calls write(place, j) for each chosen value v[j] of this thread, places in the order of the values'
// numbers.
template <class Write>
__device__ __forceinline__ void write_chosen(const Values& v, int size, Threshold t, SelectShared& s,
                                             Write write) {
  int chunks = (size + kChunk - 1) / kChunk, before[kChunks];
  uint32_t mask = 0, equal = 0;
#pragma unroll
  for (int j = 0; j < 4 * kChunks; ++j) {
    if (v[j] > t.at) mask |= 1u << j;
    if (v[j] == t.at) equal |= 1u << j;
  }
  if (t.all) {
    mask |= equal;
  } else {  // the first of those that are equal
    places_of(equal, chunks, s.chosen[0], before);
#pragma unroll
    for (int i = 0; i < kChunks; ++i) {
      if (i >= chunks) break;
      for (uint32_t left = equal >> 4 * i & 15; left != 0 && before[i] < t.ties;
           left &= left - 1, ++before[i])
        mask |= (left & -left) << 4 * i;
    }
  }
  places_of(mask, chunks, s.chosen[1], before);
#pragma unroll
  for (int i = 0; i < kChunks; ++i) {
    if (i >= chunks) break;
    for (uint32_t left = mask >> 4 * i & 15; left != 0; left &= left - 1)
      write(before[i]++, 4 * i + __ffs(static_cast<int>(left)) - 1);
  }
}

// v of chunk i from four values at `from`, of which the first `present` are there.
__device__ __forceinline__ void take_four(Values& v, int i, const float* from, int present) {
  float4 x = present > 0 ? *reinterpret_cast<const float4*>(from) : float4{};
  v[4 * i] = present > 0 ? x.x : -INFINITY;
  v[4 * i + 1] = present > 1 ? x.y : -INFINITY;
  v[4 * i + 2] = present > 2 ? x.z : -INFINITY;
  v[4 * i + 3] = present > 3 ? x.w : -INFINITY;
}

__global__ void __launch_bounds__(kThreads, 1) topk_groups_kernel(TopkRows c, const float* group_max) {
  __shared__ SelectShared s;
  // The batch was there before the kernel that wrote the scores.
  int64_t row = c.first_row + blockIdx.x;
  int n = static_cast<int>(visible_entries(c, row)), groups = (n + kGroup - 1) / kGroup,
      thread = static_cast<int>(threadIdx.x);
  const float* scores = c.scores + blockIdx.x * c.capacity;
  int32_t* out = c.selected + row * c.selected_stride;
  wait_for_previous_kernels();
  let_next_kernel_start();
  if (n <= c.topk) {
    for (int i = thread; i < c.topk; i += kThreads) out[i] = i < n ? i : -1;
    return;
  }
  Values v;
  bool whole = n <= kChunks * kChunk;  // else the k groups with the largest maxima
  if (!whole) {
    const float* maxima = group_max + blockIdx.x * (c.capacity / kGroup);
#pragma unroll
    for (int i = 0; i < kChunks; ++i)
      take_four(v, i, maxima + i * kChunk + 4 * thread, groups - i * kChunk - 4 * thread);
    Threshold t = find_threshold(v, groups, c.topk, s);
    write_chosen(v, groups, t, s,
                 [&](int place, int j) { s.groups[place] = j / 4 * kChunk + 4 * thread + j % 4; });
    __syncthreads();
  }
  int size = whole ? n : c.topk * kGroup;
  // Number of the first of this thread's four values of chunk i.
  auto first_of = [&](int i) {
    int at = i * kChunk + 4 * thread;
    return whole ? at : s.groups[at / kGroup] * kGroup + at % kGroup;
  };
#pragma unroll
  for (int i = 0; i < kChunks; ++i) {
    bool in = i * kChunk + 4 * thread < size;
    int first = in ? first_of(i) : n;
    take_four(v, i, scores + first, n - first);
  }
  Threshold t = find_threshold(v, size, c.topk, s);
  write_chosen(v, size, t, s, [&](int place, int j) { out[place] = first_of(j / 4) + j % 4; });
}

}  // namespace

bool topk_groups_serve(const IndexSelectArgs& a) {
  return a.selected.shape(1) <= kThreads && a.batch.max_length / a.place.ratio <= kChunks * kChunk * kGroup;
}

void topk_rows_of_groups(cudaStream_t stream, const TopkRows& call, const float* group_max, int64_t rows) {
  launch_early(stream, topk_groups_kernel, dim3(static_cast<unsigned>(rows)), kThreads, 0, call, group_max);
}

}  // namespace kvasir::cuda
