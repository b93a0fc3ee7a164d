// One block a row. Rows of up to 8192 values stay in registers between the sum and the product; see norm.h.
#include "backend/cuda/norm.h"
#include "backend/cuda/row_math.cuh"
#include "backend/cuda/sm90/boundary_launch.cuh"
#include "base/check.h"

namespace kvasir::cuda {
namespace {

constexpr int kThreads = 256;

template <class Policy>
__global__ void __launch_bounds__(kThreads)
    norm_any(const float* x, const float* weight, float* out, int64_t n, float eps) {
  using Sum = typename Policy::Sum;
  __shared__ Sum space[33];
  const float* in = x + blockIdx.x * n;
  Sum squares = 0;
  for (int64_t i = threadIdx.x; i < n; i += kThreads) squares += static_cast<Sum>(in[i]) * in[i];
  Sum inverse = inverse_root<Sum>(block_sum(squares, space) / static_cast<Sum>(n) + static_cast<Sum>(eps));
  for (int64_t i = threadIdx.x; i < n; i += kThreads)
    out[blockIdx.x * n + i] = rounded<Policy>(weight[i] * (in[i] * inverse));
}

// f32 sums, n = 4 * kVectors * threads at most, 16 bytes a load.
template <int kVectors>
__global__ void __launch_bounds__(kThreads)
    norm_held(const float4* x, const float4* weight, float4* out, int vectors, float eps) {
  __shared__ float space[33];
  ptx::let_next_start();
  ptx::wait_for_previous();
  const float4* in = x + static_cast<int64_t>(blockIdx.x) * vectors;
  float4 held[kVectors];
  float squares = 0;
#pragma unroll
  for (int j = 0; j < kVectors; ++j) {
    int i = j * static_cast<int>(blockDim.x) + threadIdx.x;
    held[j] = i < vectors ? in[i] : float4{0, 0, 0, 0};
    squares +=
        held[j].x * held[j].x + held[j].y * held[j].y + (held[j].z * held[j].z + held[j].w * held[j].w);
  }
  float inverse = inverse_root(block_sum(squares, space) / static_cast<float>(4 * vectors) + eps);
#pragma unroll
  for (int j = 0; j < kVectors; ++j) {
    int i = j * static_cast<int>(blockDim.x) + threadIdx.x;
    if (i >= vectors) break;
    float4 w = weight[i], v = held[j];
    out[static_cast<int64_t>(blockIdx.x) * vectors + i] = {w.x * (v.x * inverse), w.y * (v.y * inverse),
                                                           w.z * (v.z * inverse), w.w * (v.w * inverse)};
  }
}

}  // namespace

void rms_norm(CudaContext& context, const RmsNormArgs& a) {
  int64_t rows = a.x.shape(0), n = a.x.shape(1);
  KVASIR_CHECK(a.weight.shape(0) == n && a.out.shape() == a.x.shape(), "norm of {} with weight {}", n,
               a.weight.shape(0));
  KVASIR_CHECK(a.x.dense() && a.out.dense() && a.weight.dense(), "norm of rows that are {} apart",
               a.x.stride(0));
  if (rows == 0) return;
  auto blocks = static_cast<unsigned>(rows);
  if (context.numerics == Numerics::kFast && n % 4 == 0 && n <= 8192) {
    auto x = reinterpret_cast<const float4*>(a.x.data());
    auto w = reinterpret_cast<const float4*>(a.weight.data());
    auto out = reinterpret_cast<float4*>(a.out.data());
    int vectors = static_cast<int>(n / 4);
    if (vectors <= 512) {
      launch_dependent(context.stream, norm_held<4>, blocks, 128, x, w, out, vectors, a.eps);
    } else {
      launch_dependent(context.stream, norm_held<8>, blocks, 256, x, w, out, vectors, a.eps);
    }
    return;
  }
  with_policy(context.numerics, [&](auto policy) {
    norm_any<decltype(policy)>
        <<<blocks, kThreads, 0, context.stream>>>(a.x.data(), a.weight.data(), a.out.data(), n, a.eps);
  });
}

}  // namespace kvasir::cuda
