// Rotation of adjacent pairs, forth and back, alone and after the norm of a head; contract in ops/rope.h.
#include <cmath>

#include "backend/reference/arithmetic.h"
#include "backend/reference/reference_ops.h"
#include "tensor/dtype.h"

namespace kvasir {
namespace {

// rsqrt(mean(x^2) + eps) as the official code has it: bf16 after the square, the mean, the sum and the rsqrt.
double official_inverse(const float* x, int64_t n, float eps) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += round_bf16(x[i] * x[i]);
  float mean = round_bf16(static_cast<float>(sum / static_cast<double>(n)));
  return round_bf16(1.0f / std::sqrt(round_bf16(mean + eps)));
}

}  // namespace

void ReferenceOps::rope_table(const RopeTableArgs& a) {
  for (int64_t t = 0; t < a.positions.shape(0); ++t) reference::rotation(a.positions(t), a.inv_freq, &a.table(t, 0, 0));
}

void ReferenceOps::rope(const RopeArgs& a) {
  int64_t pairs = a.table.shape(1), first = a.x.shape(2) - 2 * pairs;
  for (int64_t t = 0; t < a.x.shape(0); ++t) {
    for (int64_t h = 0; h < a.x.shape(1); ++h) {
      float* x = &a.x(t, h, first);
      reference::rotate(x, &a.table(t, 0, 0), pairs, a.inverse ? -1.f : 1.f);
      for (int64_t i = 0; i < 2 * pairs; ++i) x[i] = round(x[i]);
    }
  }
}

void ReferenceOps::head_norm_rope(const HeadNormRopeArgs& a) {
  int64_t d = a.x.shape(2);
  for (int64_t t = 0; t < a.x.shape(0); ++t) {
    for (int64_t h = 0; h < a.x.shape(1); ++h) {
      float* x = &a.x(t, h, 0);
      double inverse = native() ? official_inverse(x, d, a.eps) : 1.0 / std::sqrt(reference::dot(x, x, d) / static_cast<double>(d) + a.eps);
      for (int64_t i = 0; i < d; ++i) x[i] = round(x[i] * inverse);
    }
  }
  rope({a.x, a.table, false});
}

}  // namespace kvasir
