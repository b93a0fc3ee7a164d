// Top k in two exact selections: the k groups of 16 entries with the largest maxima (lowest group on
// ties), then the k best of their 16 k entries. Nothing outside of those groups can be among the k best: k
// maxima are at least as large, and where one is equal its entry lies before.
//
// A selection holds up to 16 values a thread, four from each of up to four chunks of 4096, so that loads are
// wide; chunk, thread and place give the order of their numbers. The k-th value is found by counting those
// above a sure lower bound in 2048 bins of their sortable bits, then those in the bin that it falls in, and
// so on until that bin is wholly in, all equal, or small enough to be ranked. Everything is integer counting:
// the result does not depend on timing.
//
// Most of the time goes to fetching instructions that run once: values lie in shared memory and loops are not
// unrolled, and both selections run the same code.
#include <cfloat>

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
  float4 value[kChunks][kThreads];  // -inf where there is none
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

__device__ __forceinline__ float value_of(uint32_t key) {
  return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

// Clears the bins between uses; its writes are seen after the next barrier.
__device__ __forceinline__ void clear(SelectShared& s) {
  reinterpret_cast<int2*>(s.count)[threadIdx.x] = {0, 0};
  if (threadIdx.x < kRanked) s.ranked[threadIdx.x] = 0;
  if (threadIdx.x == 0) s.num_ranked = 0;
}

__device__ __forceinline__ int chunks_of(int size) { return (size + kChunk - 1) / kChunk; }

// Calls use(value) for each of this thread's values between bottom and top.
template <class Use>
__device__ __forceinline__ void for_values(const SelectShared& s, int size, float bottom, float top,
                                           Use use) {
#pragma unroll 1
  for (int i = 0; i < chunks_of(size); ++i) {
    float4 x = s.value[i][threadIdx.x];
    if (x.x >= bottom && x.x <= top) use(x.x);
    if (x.y >= bottom && x.y <= top) use(x.y);
    if (x.z >= bottom && x.z <= top) use(x.z);
    if (x.w >= bottom && x.w <= top) use(x.w);
  }
}

// The range of keys that the k-th of `size` values is in; `most` is this thread's largest, k are not below
// `floor`. Ends behind a barrier.
__device__ __forceinline__ void bound_range(float most, float floor, int size, int k, SelectShared& s,
                                            uint32_t& lo, uint32_t& hi) {
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, held = min((size + 3) / 4, kThreads);
  // Sets of neighbouring threads, at least k of them, have each a value as large as the smallest of their
  // maxima.
  int set = 0;
  if (held >= k) {
    set = 1;
    while (set < 32 && held / (2 * set) >= k) set *= 2;
  }
  float least = INFINITY;
  if (set == 0) {
    for_values(s, size, -FLT_MAX, INFINITY, [&](float x) { least = fminf(least, x); });
  } else if (static_cast<int>(threadIdx.x) < held / set * set) {
    least = most;
  }
  uint32_t bottom = sortable(least);
  hi = __reduce_max_sync(0xffffffffu, sortable(most));
#pragma unroll 1
  for (int i = 1; i < set; i *= 2) bottom = max(bottom, __shfl_xor_sync(0xffffffffu, bottom, i));
  bottom = __reduce_min_sync(0xffffffffu, bottom);
  if (lane == 0) {
    s.warp_lo[warp] = bottom;
    s.warp_hi[warp] = hi;
  }
  clear(s);
  __syncthreads();
  lo = max(sortable(floor), __reduce_min_sync(0xffffffffu, s.warp_lo[lane]));
  hi = __reduce_max_sync(0xffffffffu, s.warp_hi[lane]);
}

// The threshold of the k largest of `size` >= k values. All threads get the same.
__device__ __forceinline__ Threshold find_threshold(float most, float floor, int size, int k,
                                                    SelectShared& s) {
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, need = k;
  uint32_t lo, hi;
  bound_range(most, floor, size, k, s, lo, hi);
#pragma unroll 1
  for (;;) {
    int shift = max(0, 21 - __clz(hi - lo));  // (hi - lo) >> shift < 2048
    for_values(s, size, value_of(lo), value_of(hi),
               [&](float x) { atomicAdd(&s.count[(sortable(x) - lo) >> shift], 1); });
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
  for_values(s, size, value_of(lo), value_of(hi),
             [&](float x) { s.ranked[atomicAdd(&s.num_ranked, 1)] = sortable(x); });
  __syncthreads();
  if (warp == 0) {  // places that stayed 0 rank last
    uint32_t mine = s.ranked[lane];
    int above = 0, equal = 0;
#pragma unroll 2
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

// For chunk i in byte i: how many bits of this thread's mask; four bits of a mask belong to a chunk.
__device__ __forceinline__ uint32_t count_chunks(uint32_t mask) {
  uint32_t counts = (mask & 0x5555u) + (mask >> 1 & 0x5555u);
  counts = (counts & 0x3333u) + (counts >> 2 & 0x3333u);  // a nibble each
  return (counts & 0xf) | (counts & 0xf0) << 4 | (counts & 0xf00) << 8 | (counts & 0xf000) << 12;
}

// Calls visit(i, before) for each chunk: how many bits of all masks lie before this thread's bits of the
// chunk.
template <class Visit>
__device__ __forceinline__ void for_chunks(uint32_t mask, int size, int (&chosen)[kChunks][kWarps],
                                           Visit visit) {
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, sum = 0;
  uint32_t counts = count_chunks(mask);
  auto inclusive = static_cast<uint32_t>(warp_inclusive_sum(static_cast<int>(counts)));  // at most 128 each
  if (lane == 31) {
#pragma unroll
    for (int i = 0; i < kChunks; ++i) chosen[i][warp] = static_cast<int>(inclusive >> 8 * i & 255);
  }
  __syncthreads();
#pragma unroll 1
  for (int i = 0; i < chunks_of(size); ++i) {
    int part = chosen[i][lane];
    int before = sum + __reduce_add_sync(0xffffffffu, lane < warp ? part : 0);
    visit(i, before + static_cast<int>((inclusive - counts) >> 8 * i & 255));
    sum += __reduce_add_sync(0xffffffffu, part);
  }
}

// Calls write(place, i, j) for each chosen value j of this thread's chunk i, places in the order of the
// values' numbers.
template <class Write>
__device__ __forceinline__ void write_chosen(int size, Threshold t, SelectShared& s, Write write) {
  uint32_t mask = 0, equal = 0;
#pragma unroll 1
  for (int i = 0; i < chunks_of(size); ++i) {
    float4 x = s.value[i][threadIdx.x];
    mask |= ((x.x > t.at) | (x.y > t.at) << 1 | (x.z > t.at) << 2 | (x.w > t.at) << 3) << 4 * i;
    equal |= ((x.x == t.at) | (x.y == t.at) << 1 | (x.z == t.at) << 2 | (x.w == t.at) << 3) << 4 * i;
  }
  if (t.all) {
    mask |= equal;
  } else {  // the first of those that are equal
    for_chunks(equal, size, s.chosen[0], [&](int i, int before) {
      for (uint32_t left = equal >> 4 * i & 15; left != 0 && before < t.ties; left &= left - 1, ++before)
        mask |= (left & -left) << 4 * i;
    });
  }
  for_chunks(mask, size, s.chosen[1], [&](int i, int before) {
    for (uint32_t left = mask >> 4 * i & 15; left != 0; left &= left - 1)
      write(before++, i, __ffs(static_cast<int>(left)) - 1);
  });
}

// Values from, ... from + 3 of a row of n; -inf behind its end.
__device__ __forceinline__ float4 four_values(const float* row, int from, int n) {
  int left = n - from;
  if (left <= 0) return {-INFINITY, -INFINITY, -INFINITY, -INFINITY};
  float4 x = *reinterpret_cast<const float4*>(row + from);
  return {x.x, left > 1 ? x.y : -INFINITY, left > 2 ? x.z : -INFINITY, left > 3 ? x.w : -INFINITY};
}
__global__ void __launch_bounds__(kThreads, 1) topk_groups_kernel(TopkRows c, const float* group_max) {
  extern __shared__ __align__(16) uint8_t memory[];
  SelectShared& s = *reinterpret_cast<SelectShared*>(memory);
  // The batch was there before the kernel that wrote the scores.
  int64_t row = c.first_row + blockIdx.x;
  int n = static_cast<int>(visible_entries(c, row)), thread = static_cast<int>(threadIdx.x);
  const float* scores = c.scores + blockIdx.x * c.capacity;
  const float* maxima = group_max + blockIdx.x * (c.capacity / kGroup);
  int32_t* out = c.selected + row * c.selected_stride;
  wait_for_previous_kernels();
  let_next_kernel_start();
  if (n <= c.topk) {
    for (int i = thread; i < c.topk; i += kThreads) out[i] = i < n ? i : -1;
    return;
  }
  // All scores, or the maxima and then the scores of the groups chosen.
  bool by_groups = n > kChunks * kChunk;
  float floor = -INFINITY;
#pragma unroll 1
  for (bool last = !by_groups;; last = true) {
    int limit = last ? n : (n + kGroup - 1) / kGroup;  // of the numbers
    int size = last && by_groups ? c.topk * kGroup : limit;
    const float* from = last ? scores : maxima;
    // Number of the first of this thread's four values of chunk i.
    auto number = [&](int i) {
      int at = i * kChunk + 4 * thread;
      return last && by_groups ? s.groups[at / kGroup] * kGroup + at % kGroup : at;
    };
    float most = -INFINITY;
#pragma unroll
    for (int i = 0; i < kChunks; ++i) {
      if (i >= chunks_of(size)) break;
      bool in = i * kChunk + 4 * thread < size;
      float4 x = four_values(from, in ? number(i) : limit, limit);
      s.value[i][thread] = x;
      most = fmaxf(most, fmaxf(fmaxf(x.x, x.y), fmaxf(x.z, x.w)));
    }
    Threshold t = find_threshold(most, floor, size, c.topk, s);
    int32_t* to = last ? out : s.groups;
    write_chosen(size, t, s, [&](int place, int i, int j) { to[place] = number(i) + j; });
    if (last) return;
    floor = t.at;  // each of the chosen groups has a score as large as this
    __syncthreads();
  }
}

}  // namespace

bool topk_groups_serve(const IndexSelectArgs& a) {
  return a.selected.shape(1) <= kThreads && a.batch.max_length / a.place.ratio <= kChunks * kChunk * kGroup;
}

void topk_rows_of_groups(cudaStream_t stream, const TopkRows& call, const float* group_max, int64_t rows) {
  int shared = static_cast<int>(sizeof(SelectShared));
  cudaFuncSetAttribute(topk_groups_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared);
  launch_early(stream, topk_groups_kernel, dim3(static_cast<unsigned>(rows)), kThreads, shared, call,
               group_max);
}

}  // namespace kvasir::cuda
