// index_query of kFast for heads of 128: a warp transforms a head in registers.
#include "backend/cuda/sm90/indexer_keys.cuh"
#include "backend/cuda/sm90/indexer_launch.h"
#include "backend/cuda/sm90/indexer_scan.h"

namespace kvasir::cuda {
namespace {

constexpr int kThreads = 256;

struct QueryCall {
  float* q;
  int64_t q_token, q_head;
  const float* table;
  float* weight;
  int64_t weight_token;
  float weight_scale;
  int64_t rows;  // tokens * heads
  int heads;
};

__global__ void __launch_bounds__(kThreads) index_query_rows_kernel(const __grid_constant__ QueryCall c) {
  wait_for_previous_kernels();
  let_next_kernel_start();
  int lane = threadIdx.x % 32;
  int64_t row = int64_t{blockIdx.x} * (kThreads / 32) + threadIdx.x / 32;
  if (row >= c.rows) return;
  int64_t token = row / c.heads, head = row % c.heads;
  auto* q = reinterpret_cast<float4*>(c.q + token * c.q_token + head * c.q_head) + lane;
  *q = transform_query(*q, c.table + token * 64, lane);
  if (lane == 0) c.weight[token * c.weight_token + head] *= c.weight_scale;
}

}  // namespace

bool index_query_rows_serves(const IndexQueryArgs& a) {
  return a.q.shape(2) == kIndexDim && a.table.shape(1) == 32 && a.q.stride(0) % 4 == 0 &&
         a.q.stride(1) % 4 == 0 && reinterpret_cast<uintptr_t>(a.q.data()) % 16 == 0 &&
         reinterpret_cast<uintptr_t>(a.table.data()) % 16 == 0;
}

void index_query_rows(CudaContext& context, const IndexQueryArgs& a) {
  QueryCall c{a.q.data(),
              a.q.stride(0),
              a.q.stride(1),
              a.table.data(),
              a.weight.data(),
              a.weight.stride(0),
              a.weight_scale,
              a.q.shape(0) * a.q.shape(1),
              static_cast<int>(a.q.shape(1))};
  int64_t blocks = (c.rows + kThreads / 32 - 1) / (kThreads / 32);
  launch_early(context.stream, index_query_rows_kernel, dim3(static_cast<unsigned>(blocks)), kThreads, 0, c);
}

}  // namespace kvasir::cuda
