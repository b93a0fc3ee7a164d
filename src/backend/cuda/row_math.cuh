// Arithmetic that the row kernels share: bf16 rounding, sums over a warp and over a block, and the two
// policies under which every generic kernel is compiled.
//
// exact and native add in f64, as the reference does: these kernels are read by parity tests, and an f64 sum
// puts native's bf16 roundings on the same side. fast adds in f32.
#pragma once

#include <cstdint>
#include <type_traits>

#include "backend/cuda/context.h"
#include "ops/numerics.h"

namespace kvasir::cuda {

// Sum: the type sums are held in. kRound: results go to the bf16 grid, the module boundary of kNative.
template <class SumType, bool kRoundResults>
struct RowPolicy {
  using Sum = SumType;
  static constexpr bool kRound = kRoundResults;
};

// Calls `f` with the policy of these numerics.
template <class F>
void with_policy(Numerics numerics, F&& f) {
  switch (numerics) {
    case Numerics::kExact:
      return f(RowPolicy<double, false>{});
    case Numerics::kNative:
      return f(RowPolicy<double, true>{});
    case Numerics::kFast:
      return f(RowPolicy<float, false>{});
  }
}

// tensor/dtype.h's round_bf16, bit for bit.
__device__ inline float bf16_grid(float x) {
  uint32_t u = __float_as_uint(x);
  if ((u & 0x7fffffffu) > 0x7f800000u) return __uint_as_float((u & 0xffff0000u) | 0x400000u);
  return __uint_as_float((u + 0x7fffu + ((u >> 16) & 1)) & 0xffff0000u);
}

template <class Policy>
__device__ inline float rounded(typename Policy::Sum x) {
  float f = static_cast<float>(x);
  return Policy::kRound ? bf16_grid(f) : f;
}

// Sum over the warp, the same bits in every lane.
template <class T>
__device__ inline T warp_sum(T x) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) x += __shfl_xor_sync(~0u, x, distance);
  return x;
}

// Sum over a block of whole warps, the same bits in every thread. `space` holds 33 values; two barriers.
template <class T>
__device__ inline T block_sum(T x, T* space) {
  int warps = static_cast<int>(blockDim.x + 31) / 32, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  x = warp_sum(x);
  if (lane == 0) space[warp] = x;
  __syncthreads();
  if (warp == 0) {
    T all = warp_sum(lane < warps ? space[lane] : T(0));
    if (lane == 0) space[32] = all;
  }
  __syncthreads();
  return space[32];
}

template <class T>
__device__ inline T inverse_root(T x) {
  if constexpr (std::is_same_v<T, double>)
    return 1.0 / sqrt(x);
  else
    return 1.0f / sqrtf(x);
}

template <class T>
__device__ inline T sigmoid(T x) {
  if constexpr (std::is_same_v<T, double>)
    return 1.0 / (1.0 + exp(-x));
  else
    return 1.0f / (1.0f + expf(-x));
}

}  // namespace kvasir::cuda
