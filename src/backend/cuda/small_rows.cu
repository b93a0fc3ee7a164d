// A warp a row at the real shapes, with the row in its registers; a block a row for everything else. See
// small_rows.h.
#include "backend/cuda/small_rows.h"

#include "backend/cuda/kv_row.cuh"
#include "backend/cuda/row_math.cuh"
#include "backend/cuda/sm90/boundary_launch.cuh"
#include "base/check.h"

namespace kvasir::cuda {
namespace {

constexpr int kThreads = 128;

struct Params {
  float* qa;
  const float *q_norm, *kv, *kv_norm, *table;
  std::byte *data, *scale;
  KvRowFormat format;
  int64_t tokens, qa_stride, kv_stride;
  int q_rank, dim, pairs;
  float eps;
};

__device__ float sum_of_squares(float4 v) { return v.x * v.x + v.y * v.y + (v.z * v.z + v.w * v.w); }

__device__ float4 scaled(float4 v, float4 w, float by) {
  return {w.x * (v.x * by), w.y * (v.y * by), w.z * (v.z * by), w.w * (v.w * by)};
}

// q_rank = 128 kVectors; cache rows of 512 with 64 rotated.
template <int kVectors>
__global__ void __launch_bounds__(kThreads) rows_by_warp(Params p) {
  int64_t job = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) / 32;
  int lane = threadIdx.x % 32;
  ptx::let_next_start();
  ptx::wait_for_previous();
  if (job >= 2 * p.tokens) return;
  if (job >= p.tokens) {
    auto* row = reinterpret_cast<float4*>(p.qa + (job - p.tokens) * p.qa_stride);
    auto* weight = reinterpret_cast<const float4*>(p.q_norm);
    float4 v[kVectors], w[kVectors];
    float squares = 0;
#pragma unroll
    for (int i = 0; i < kVectors; ++i) v[i] = row[32 * i + lane];
#pragma unroll
    for (int i = 0; i < kVectors; ++i) w[i] = weight[32 * i + lane];
#pragma unroll
    for (int i = 0; i < kVectors; ++i) squares += sum_of_squares(v[i]);
    float inverse = inverse_root(warp_sum(squares) / static_cast<float>(128 * kVectors) + p.eps);
#pragma unroll
    for (int i = 0; i < kVectors; ++i) row[32 * i + lane] = scaled(v[i], w[i], inverse);
    return;
  }
  auto* row = reinterpret_cast<const float4*>(p.kv + job * p.kv_stride);
  auto* weight = reinterpret_cast<const float4*>(p.kv_norm);
  float4 v[4], w[4];
  float squares = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) v[i] = row[32 * i + lane];
  float4 turn =
      lane >= 16 ? reinterpret_cast<const float4*>(p.table)[job * 16 + lane - 16] : float4{1, 0, 1, 0};
#pragma unroll
  for (int i = 0; i < 4; ++i) w[i] = weight[32 * i + lane];
#pragma unroll
  for (int i = 0; i < 4; ++i) squares += sum_of_squares(v[i]);
  float inverse = inverse_root(warp_sum(squares) / 512.f + p.eps);
#pragma unroll
  for (int i = 0; i < 4; ++i) v[i] = scaled(v[i], w[i], inverse);
  v[3] = {v[3].x * turn.x - v[3].y * turn.y, v[3].x * turn.y + v[3].y * turn.x,
          v[3].z * turn.z - v[3].w * turn.w, v[3].z * turn.w + v[3].w * turn.z};
  encode_entry_512(v, p.data + job * p.format.data_bytes, p.scale + job * p.format.scale_bytes);
}

template <class Policy>
__device__ void norm_row(const float* x, const float* weight, float* out, int n, float eps,
                         typename Policy::Sum* space) {
  using Sum = typename Policy::Sum;
  Sum squares = 0;
  for (int i = threadIdx.x; i < n; i += kThreads) squares += static_cast<Sum>(x[i]) * x[i];
  Sum inverse = inverse_root<Sum>(block_sum(squares, space) / static_cast<Sum>(n) + static_cast<Sum>(eps));
  for (int i = threadIdx.x; i < n; i += kThreads) out[i] = rounded<Policy>(weight[i] * (x[i] * inverse));
}

template <class Policy>
__global__ void __launch_bounds__(kThreads) rows_by_block(Params p) {
  using Sum = typename Policy::Sum;
  extern __shared__ float row[];
  __shared__ Sum space[33];
  int64_t t = blockIdx.x / 2;
  if (blockIdx.x % 2)
    return norm_row<Policy>(p.qa + t * p.qa_stride, p.q_norm, p.qa + t * p.qa_stride, p.q_rank, p.eps, space);
  norm_row<Policy>(p.kv + t * p.kv_stride, p.kv_norm, row, p.dim, p.eps, space);
  __syncthreads();
  for (int i = threadIdx.x; i < p.pairs; i += kThreads) {
    float* at = row + p.dim - 2 * p.pairs + 2 * i;
    Sum a = at[0], b = at[1], c = p.table[(t * p.pairs + i) * 2], s = p.table[(t * p.pairs + i) * 2 + 1];
    at[0] = rounded<Policy>(a * c - b * s);
    at[1] = rounded<Policy>(a * s + b * c);
  }
  __syncthreads();
  encode_entry_by_block(p.format, row, p.data + t * p.format.data_bytes, p.scale + t * p.format.scale_bytes);
}

bool aligned(const void* p, int64_t stride) {
  return reinterpret_cast<uintptr_t>(p) % 16 == 0 && stride % 4 == 0;
}

}  // namespace

void small_rows(CudaContext& context, const SmallRowsArgs& a) {
  int64_t tokens = a.qa.shape(0), q_rank = a.qa.shape(1), dim = a.kv.shape(1), pairs = a.table.shape(1);
  KVASIR_CHECK(a.kv.shape(0) == tokens && a.table.shape(0) == tokens && a.q_norm.shape(0) == q_rank &&
                   a.kv_norm.shape(0) == dim && a.format.dim == dim && 2 * pairs <= dim && a.table.dense() &&
                   a.qa.stride(1) == 1 && a.kv.stride(1) == 1,
               "qa [{}, {}], kv [{}, {}], rows of {}", tokens, q_rank, a.kv.shape(0), dim, a.format.dim);
  if (tokens == 0) return;
  Params p{a.qa.data(),
           a.q_norm.data(),
           a.kv.data(),
           a.kv_norm.data(),
           a.table.data(),
           a.rows.data,
           a.rows.scale,
           a.format,
           tokens,
           a.qa.stride(0),
           a.kv.stride(0),
           static_cast<int>(q_rank),
           static_cast<int>(dim),
           static_cast<int>(pairs),
           a.eps};
  bool real = dim == 512 && pairs == 32 && a.format.rope_dim == 64 && a.format.quantised &&
              aligned(p.qa, p.qa_stride) && aligned(p.kv, p.kv_stride) && aligned(p.data, 16) &&
              aligned(p.scale, 16);
  if (context.numerics == Numerics::kFast && real && (q_rank == 1024 || q_rank == 1536)) {
    auto blocks = static_cast<unsigned>((2 * tokens * 32 + kThreads - 1) / kThreads);
    launch_dependent(context.stream, q_rank == 1024 ? rows_by_warp<8> : rows_by_warp<12>, blocks, kThreads,
                     p);
    return;
  }
  with_policy(context.numerics, [&](auto policy) {
    rows_by_block<decltype(policy)>
        <<<static_cast<unsigned>(2 * tokens), kThreads, sizeof(float) * dim, context.stream>>>(p);
  });
}

}  // namespace kvasir::cuda
