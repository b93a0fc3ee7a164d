// Top k in two exact selections: the k groups of 16 entries with the largest maxima (lowest group on ties),
// then the k best of their 16 k entries. Nothing outside of those groups can be among the k best: k maxima
// are at least as large, and where one is equal its entry lies before.
#include "backend/cuda/sm90/indexer_launch.h"
#include "backend/cuda/sm90/indexer_ptx.cuh"
#include "backend/cuda/sm90/topk_select.cuh"

namespace kvasir::cuda {
namespace {

constexpr int kThreads = 1024;
constexpr int kEach = 16;
using Select = Selection<kThreads, kEach>;

struct SelectShared {
  Select::Shared select;
  int32_t groups[kThreads];
};

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
    Select::Threshold t = Select::find_threshold(key, c.topk, (groups + each - 1) / each, s.select);
    Select::write_chosen(key, t, s.select, [&](int place, int i) { s.groups[place] = thread * each + i; });
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
  Select::Threshold t = Select::find_threshold(key, c.topk, held, s.select);
  Select::write_chosen(key, t, s.select, [&](int place, int i) { out[place] = first + i; });
}

}  // namespace

bool topk_groups_serve(const IndexSelectArgs& a) {
  return a.selected.shape(1) <= kThreads && a.batch.max_length / a.place.ratio <= kThreads * kEach * kEach;
}

void topk_rows_of_groups(cudaStream_t stream, const TopkRows& call, const float* group_max, int64_t rows) {
  launch_early(stream, topk_groups_kernel, dim3(static_cast<unsigned>(rows)), kThreads, 0, call, group_max);
}

}  // namespace kvasir::cuda
