// Top k in two exact selections: the k groups of 16 entries with the largest maxima (lowest group on ties),
// then the k best of their 16 k entries. Nothing outside of those groups can be among the k best: k maxima
// are at least as large, and where one is equal its entry lies before.
//
// A selection holds 16 values a thread in order of their numbers. It counts those above a sure lower bound in
// 2048 bins of their sortable bits, goes into the bin that the k-th falls in, and so on until that bin is
// wholly in, all equal, or small enough to be ranked. Everything is integer counting: the result does not
// depend on timing.
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
  int part[33];
  uint32_t warp_lo[32], warp_hi[32];
  uint32_t lo, hi;
  int need, bin_count;
  int32_t groups[kThreads];
};

// Where the k-th value lies: values above `key` are in, and the first `ties` of those equal to it.
struct Threshold {
  uint32_t key;
  int ties;
};

// The range of keys that the k-th largest is in. Empty places hold 0, which no score has.
__device__ void bound_range(const uint32_t (&key)[kEach], int k, SelectShared& s) {
  uint32_t largest = 0, smallest = 0xffffffffu;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    largest = max(largest, key[i]);
    smallest = min(smallest, key[i] == 0 ? 0xffffffffu : key[i]);
  }
  // Sets of threads, at least k of them, each with one value at least as large as the smallest of their
  // maxima.
  int set = 1;
  while (2 * set * k <= kThreads && set < 32) set *= 2;
  uint32_t lo = largest;
  for (int i = 1; i < set; i *= 2) lo = max(lo, __shfl_xor_sync(0xffffffffu, lo, i));
  lo = __reduce_min_sync(0xffffffffu, lo);
  smallest = __reduce_min_sync(0xffffffffu, smallest);
  uint32_t hi = __reduce_max_sync(0xffffffffu, largest);
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (lane == 0) {
    s.warp_lo[warp] = lo;
    s.warp_hi[warp] = hi;
    s.ranked[warp] = smallest;
  }
  __syncthreads();
  if (warp == 0) {
    lo = __reduce_min_sync(0xffffffffu, s.warp_lo[lane]);
    hi = __reduce_max_sync(0xffffffffu, s.warp_hi[lane]);
    smallest = __reduce_min_sync(0xffffffffu, s.ranked[lane]);
    if (lane == 0) {
      s.lo = max(lo, smallest);  // a set without values has no say
      s.hi = hi;
    }
  }
}

// The threshold of the k largest of more than k values.
__device__ Threshold find_threshold(const uint32_t (&key)[kEach], int k, SelectShared& s) {
  bound_range(key, k, s);
  int need = k;
  for (;;) {
    __syncthreads();
    uint32_t lo = s.lo, hi = s.hi;
    s.count[threadIdx.x] = s.count[threadIdx.x + kThreads] = 0;
    if (threadIdx.x == 0) s.num_ranked = 0;
    int shift = max(0, 21 - __clz(hi - lo));  // (hi - lo) >> shift < 2048
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kEach; ++i)
      if (key[i] >= lo && key[i] <= hi) atomicAdd(&s.count[(key[i] - lo) >> shift], 1);
    __syncthreads();
    int bin = kBins - 1 - 2 * static_cast<int>(threadIdx.x), upper = s.count[bin], lower = s.count[bin - 1],
        total;
    int before = block_exclusive_sum(upper + lower, s.part, total);
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
    if (count > kRanked) continue;
#pragma unroll
    for (int i = 0; i < kEach; ++i)
      if (key[i] >= lo && key[i] <= hi) s.ranked[atomicAdd(&s.num_ranked, 1)] = key[i];
    __syncthreads();
    if (threadIdx.x < count) {
      uint32_t mine = s.ranked[threadIdx.x];
      int above = 0, equal = 0;
      for (int i = 0; i < count; ++i) {
        above += s.ranked[i] > mine;
        equal += s.ranked[i] == mine;
      }
      if (above < need && need <= above + equal) {  // all threads with this value write the same
        s.lo = mine;
        s.need = need - above;
      }
    }
    __syncthreads();
    return {s.lo, s.need};
  }
}

// Calls write(place, i) for each of this thread's chosen values, places ascending with thread and i.
template <class Write>
__device__ void write_chosen(const uint32_t (&key)[kEach], Threshold t, SelectShared& s, Write write) {
  int above = 0, equal = 0, total;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    above += key[i] > t.key;
    equal += key[i] == t.key;
  }
  int before = block_exclusive_sum(above | equal << 16, s.part, total);
  int place = before & 0xffff, ties = before >> 16;
  place += min(ties, t.ties);
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    bool tie = key[i] == t.key;
    if (key[i] > t.key || (tie && ties < t.ties)) write(place++, i);
    ties += tie;
  }
}

__global__ void __launch_bounds__(kThreads, 1) topk_groups_kernel(TopkRows c, const float* group_max) {
  __shared__ SelectShared s;
  wait_for_previous_kernels();
  let_next_kernel_start();
  int64_t row = c.first_row + blockIdx.x;
  int n = static_cast<int>(visible_entries(c, row)), groups = (n + kEach - 1) / kEach;
  const float* scores = c.scores + blockIdx.x * c.capacity;
  int32_t* out = c.selected + row * c.selected_stride;
  if (n <= c.topk) {
    for (int i = threadIdx.x; i < c.topk; i += kThreads) out[i] = i < n ? i : -1;
    return;
  }
  uint32_t key[kEach];
  int group = threadIdx.x;
  if (groups > kThreads) {
    const auto* maxima = reinterpret_cast<const float4*>(group_max + blockIdx.x * (c.capacity / kEach)) +
                         threadIdx.x * (kEach / 4);
#pragma unroll
    for (int i = 0; i < kEach / 4; ++i) {
      int first = static_cast<int>(threadIdx.x) * kEach + 4 * i;
      float4 m = first < groups ? maxima[i] : float4{};
      key[4 * i] = first < groups ? sortable(m.x) : 0;
      key[4 * i + 1] = first + 1 < groups ? sortable(m.y) : 0;
      key[4 * i + 2] = first + 2 < groups ? sortable(m.z) : 0;
      key[4 * i + 3] = first + 3 < groups ? sortable(m.w) : 0;
    }
    Threshold t = find_threshold(key, c.topk, s);
    write_chosen(key, t, s,
                 [&](int place, int i) { s.groups[place] = static_cast<int>(threadIdx.x) * kEach + i; });
    __syncthreads();
    groups = c.topk;
    if (threadIdx.x < groups) group = s.groups[threadIdx.x];
  }
#pragma unroll
  for (int i = 0; i < kEach / 4; ++i) {
    int first = group * kEach + 4 * i;
    bool held = threadIdx.x < groups;
    float4 m = held && first < n ? reinterpret_cast<const float4*>(scores + group * kEach)[i] : float4{};
    key[4 * i] = held && first < n ? sortable(m.x) : 0;
    key[4 * i + 1] = held && first + 1 < n ? sortable(m.y) : 0;
    key[4 * i + 2] = held && first + 2 < n ? sortable(m.z) : 0;
    key[4 * i + 3] = held && first + 3 < n ? sortable(m.w) : 0;
  }
  Threshold t = find_threshold(key, c.topk, s);
  write_chosen(key, t, s, [&](int place, int i) { out[place] = group * kEach + i; });
}

}  // namespace

bool topk_groups_serve(const IndexSelectArgs& a) {
  return a.selected.shape(1) <= kThreads && a.batch.max_length / a.place.ratio <= kThreads * kEach * kEach;
}

void topk_rows_of_groups(cudaStream_t stream, const TopkRows& call, const float* group_max, int64_t rows) {
  cudaLaunchAttribute early{};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(rows));
  config.blockDim = dim3(kThreads);
  config.stream = stream;
  config.attrs = &early;
  config.numAttrs = 1;
  cudaLaunchKernelEx(&config, topk_groups_kernel, call, group_max);
}

}  // namespace kvasir::cuda
