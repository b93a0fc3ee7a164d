// The roundings that the scalar operations share; see arithmetic.h.
#include "backend/reference/arithmetic.h"

#include <algorithm>
#include <cmath>

#include "tensor/dtype.h"

namespace kvasir::reference {

double dot(const float* a, const float* b, int64_t n) {
  double s[8] = {};
  int64_t i = 0;
  for (; i + 8 <= n; i += 8)
    for (int j = 0; j < 8; ++j) s[j] += static_cast<double>(a[i + j]) * b[i + j];
  for (; i < n; ++i) s[0] += static_cast<double>(a[i]) * b[i];
  return ((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7]));
}

void normalise(const float* x, const float* weight, int64_t n, double eps, double* out) {
  double inverse = 1.0 / std::sqrt(dot(x, x, n) / static_cast<double>(n) + eps);
  for (int64_t i = 0; i < n; ++i) out[i] = (weight ? weight[i] : 1.0) * (x[i] * inverse);
}

void rotation(int64_t position, View<const float, 1> inv_freq, float* cos_sin) {
  for (int64_t i = 0; i < inv_freq.shape(0); ++i) {
    float angle = static_cast<float>(position) * inv_freq(i);
    cos_sin[2 * i] = static_cast<float>(std::cos(static_cast<double>(angle)));
    cos_sin[2 * i + 1] = static_cast<float>(std::sin(static_cast<double>(angle)));
  }
}

void rotate(float* x, const float* cos_sin, int64_t n, float sign) {
  for (int64_t i = 0; i < n; ++i) {
    double a = x[2 * i], b = x[2 * i + 1], c = cos_sin[2 * i], s = sign * cos_sin[2 * i + 1];
    x[2 * i] = static_cast<float>(a * c - b * s);
    x[2 * i + 1] = static_cast<float>(a * s + b * c);
  }
}

void hadamard(float* x, int64_t n) {
  std::vector<double> v(x, x + n);
  for (int64_t half = 1; half < n; half *= 2) {
    for (int64_t i = 0; i < n; i += 2 * half) {
      for (int64_t j = i; j < i + half; ++j) {
        double a = v[j], b = v[j + half];
        v[j] = a + b;
        v[j + half] = a - b;
      }
    }
  }
  double scale = 1.0 / std::sqrt(static_cast<double>(n));
  for (int64_t i = 0; i < n; ++i) x[i] = static_cast<float>(v[i] * scale);
}

void quantise_e4m3(const float* x, int64_t n, std::vector<float>& codes, std::vector<float>& scales) {
  codes.resize(n);
  scales.resize((n + 127) / 128);
  for (int64_t begin = 0; begin < n; begin += 128) {
    int64_t end = std::min(n, begin + 128);
    float amax = 1e-4f;
    for (int64_t i = begin; i < end; ++i) amax = std::max(amax, std::fabs(x[i]));
    float scale = e8m0_to_float(e8m0_scale_for(amax, 448.f));
    scales[begin / 128] = scale;
    for (int64_t i = begin; i < end; ++i) codes[i] = e4m3_to_float(float_to_e4m3(x[i] / scale));
  }
}

}  // namespace kvasir::reference
