// Sums and small transforms shared by the reference ops.
#pragma once

#include <cstdint>
#include <vector>

#include "tensor/view.h"

namespace kvasir::reference {

// sum a[i]*b[i] in f64. Eight partial sums, so that the compiler may use vector registers; the order
// is fixed all the same.
double dot(const float* a, const float* b, int64_t n);

// x * rsqrt(mean(x^2) + eps) * weight, in f64, unrounded. `weight` may be null (all ones).
void normalise(const float* x, const float* weight, int64_t n, double eps, double* out);

// cos and sin of position * inv_freq[i] (product in f32, spec A.5) for i < n, interleaved.
void rotation(int64_t position, View<const float, 1> inv_freq, float* cos_sin);

// Rotates the pairs of x[0, 2n) by cos_sin[0, 2n); `sign` -1 is the inverse. Unrounded f32 results.
void rotate(float* x, const float* cos_sin, int64_t n, float sign);

// x <- x * H * n^-0.5, Sylvester order; n is a power of two (spec A.4).
void hadamard(float* x, int64_t n);

// e4m3 round trip of one row in blocks of 128 with e8m0 scales (spec A.2): codes as floats, one scale a block.
void quantise_e4m3(const float* x, int64_t n, std::vector<float>& codes, std::vector<float>& scales);

}  // namespace kvasir::reference
