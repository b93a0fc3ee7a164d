// Rotations of adjacent pairs, alone and after the norm of a head; contract in ops/rope.h.
#include "backend/cuda/rope.h"
#include "backend/cuda/row_math.cuh"
#include "backend/cuda/sm90/boundary_launch.cuh"
#include "base/check.h"

namespace kvasir::cuda {
namespace {

constexpr int kThreads = 256;

unsigned blocks_for(int64_t items) { return static_cast<unsigned>((items + kThreads - 1) / kThreads); }

// The f32 angle is the definition; cos and sin of it are taken in f64, so that rounding to f32 gives what the
// host gets.
__global__ void __launch_bounds__(kThreads)
    fill_table(const float* inv_freq, const int32_t* positions, float2* table, int pairs, int64_t count) {
  int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= count) return;
  float angle = __fmul_rn(static_cast<float>(positions[i / pairs]), inv_freq[i % pairs]);
  double s, c;
  sincos(static_cast<double>(angle), &s, &c);
  table[i] = {static_cast<float>(c), static_cast<float>(s)};
}

template <class Policy>
__device__ float2 rotated(float2 v, float2 cos_sin, float sign) {
  typename Policy::Sum a = v.x, b = v.y, c = cos_sin.x, s = sign * cos_sin.y;
  return {rounded<Policy>(a * c - b * s), rounded<Policy>(a * s + b * c)};
}

template <class Policy>
__global__ void __launch_bounds__(kThreads) rotate_pairs(float* x, const float2* table, int64_t heads,
                                                         int64_t dim, int pairs, float sign, int64_t count) {
  ptx::let_next_start();
  ptx::wait_for_previous();
  int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= count) return;
  int64_t row = i / pairs, pair = i % pairs;
  float* at = x + row * dim + dim - 2 * pairs + 2 * pair;
  float2 v = rotated<Policy>({at[0], at[1]}, table[row / heads * pairs + pair], sign);
  at[0] = v.x;
  at[1] = v.y;
}

// rsqrt(mean(x^2) + eps) as the official code has it: bf16 after the square, the mean, the sum and the root.
__device__ float official_inverse(double sum_of_rounded_squares, int64_t n, float eps) {
  float mean = bf16_grid(static_cast<float>(sum_of_rounded_squares / static_cast<double>(n)));
  return bf16_grid(__fdiv_rn(1.0f, __fsqrt_rn(bf16_grid(__fadd_rn(mean, eps)))));
}

// A warp a head.
template <class Policy>
__global__ void __launch_bounds__(kThreads) norm_rotate(float* x, const float2* table, int64_t heads,
                                                        int64_t dim, int pairs, float eps, int64_t rows) {
  using Sum = typename Policy::Sum;
  int64_t row = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) / 32;
  int lane = threadIdx.x % 32;
  if (row >= rows) return;
  float* head = x + row * dim;
  Sum squares = 0;
  for (int64_t i = lane; i < dim; i += 32)
    squares += Policy::kRound ? static_cast<Sum>(bf16_grid(__fmul_rn(head[i], head[i])))
                              : static_cast<Sum>(head[i]) * head[i];
  squares = warp_sum(squares);
  Sum inverse;
  if constexpr (Policy::kRound)
    inverse = official_inverse(squares, dim, eps);
  else
    inverse = inverse_root<Sum>(squares / static_cast<Sum>(dim) + static_cast<Sum>(eps));
  int64_t plain = dim - 2 * pairs;
  for (int64_t i = lane; i < plain; i += 32) head[i] = rounded<Policy>(head[i] * inverse);
  const float2* angles = table + row / heads * pairs;
  for (int pair = lane; pair < pairs; pair += 32) {
    float* at = head + plain + 2 * pair;
    float2 v = rotated<Policy>({rounded<Policy>(at[0] * inverse), rounded<Policy>(at[1] * inverse)},
                               angles[pair], 1.f);
    at[0] = v.x;
    at[1] = v.y;
  }
}

// Heads of 512 with 64 rotated, f32: a warp holds its head in registers, 16 bytes a load.
__global__ void __launch_bounds__(kThreads)
    norm_rotate_512(float4* x, const float4* table, int heads, float eps, int64_t rows) {
  ptx::let_next_start();
  ptx::wait_for_previous();
  int64_t row = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) / 32;
  int lane = threadIdx.x % 32;
  if (row >= rows) return;
  float4* head = x + row * 128;
  float4 v[4];
  float squares = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) v[i] = head[32 * i + lane];
  float4 turn = lane >= 16 ? table[row / heads * 16 + lane - 16] : float4{1, 0, 1, 0};
#pragma unroll
  for (int i = 0; i < 4; ++i)
    squares += v[i].x * v[i].x + v[i].y * v[i].y + (v[i].z * v[i].z + v[i].w * v[i].w);
  float inverse = inverse_root(warp_sum(squares) / 512.f + eps);
#pragma unroll
  for (int i = 0; i < 4; ++i) v[i] = {v[i].x * inverse, v[i].y * inverse, v[i].z * inverse, v[i].w * inverse};
  v[3] = {v[3].x * turn.x - v[3].y * turn.y, v[3].x * turn.y + v[3].y * turn.x,
          v[3].z * turn.z - v[3].w * turn.w, v[3].z * turn.w + v[3].w * turn.z};
#pragma unroll
  for (int i = 0; i < 4; ++i) head[32 * i + lane] = v[i];
}

void check_rope(const View<float, 3>& x, const View<const float, 3>& table) {
  KVASIR_CHECK(table.shape(0) == x.shape(0) && 2 * table.shape(1) <= x.shape(2) && table.shape(2) == 2,
               "x [{}, {}, {}], rope table [{}, {}, {}]", x.shape(0), x.shape(1), x.shape(2), table.shape(0),
               table.shape(1), table.shape(2));
  KVASIR_CHECK(x.dense() && table.dense(), "rope of rows that are {} apart", x.stride(0));
}

}  // namespace

void rope_table(CudaContext& context, const RopeTableArgs& a) {
  int64_t pairs = a.inv_freq.shape(0), count = a.positions.shape(0) * pairs;
  KVASIR_CHECK(a.table.shape(0) == a.positions.shape(0) && a.table.shape(1) == pairs && a.table.dense() &&
                   a.positions.dense(),
               "table [{}, {}] for {} positions and {} pairs", a.table.shape(0), a.table.shape(1),
               a.positions.shape(0), pairs);
  if (count == 0) return;
  fill_table<<<blocks_for(count), kThreads, 0, context.stream>>>(a.inv_freq.data(), a.positions.data(),
                                                                 reinterpret_cast<float2*>(a.table.data()),
                                                                 static_cast<int>(pairs), count);
}

void rope(CudaContext& context, const RopeArgs& a) {
  check_rope(a.x, a.table);
  int64_t pairs = a.table.shape(1), count = a.x.shape(0) * a.x.shape(1) * pairs;
  if (count == 0) return;
  with_policy(context.numerics, [&](auto policy) {
    launch_dependent(context.stream, rotate_pairs<decltype(policy)>, blocks_for(count), kThreads, a.x.data(),
                     reinterpret_cast<const float2*>(a.table.data()), a.x.shape(1), a.x.shape(2),
                     static_cast<int>(pairs), a.inverse ? -1.f : 1.f, count);
  });
}

void head_norm_rope(CudaContext& context, const HeadNormRopeArgs& a) {
  check_rope(a.x, a.table);
  int64_t rows = a.x.shape(0) * a.x.shape(1);
  if (rows == 0) return;
  if (context.numerics == Numerics::kFast && a.x.shape(2) == 512 && a.table.shape(1) == 32) {
    launch_dependent(context.stream, norm_rotate_512, blocks_for(32 * rows), kThreads,
                     reinterpret_cast<float4*>(a.x.data()), reinterpret_cast<const float4*>(a.table.data()),
                     static_cast<int>(a.x.shape(1)), a.eps, rows);
    return;
  }
  with_policy(context.numerics, [&](auto policy) {
    norm_rotate<decltype(policy)><<<blocks_for(32 * rows), kThreads, 0, context.stream>>>(
        a.x.data(), reinterpret_cast<const float2*>(a.table.data()), a.x.shape(1), a.x.shape(2),
        static_cast<int>(a.table.shape(1)), a.eps, rows);
  });
}

}  // namespace kvasir::cuda
