// Weights and activations for the tests of the CPU backend's matrix code: random codes at pointers that no
// vector load would like, and the roundings of the official code in scalar steps.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "backend/cpu/isa.h"
#include "ops/linear.h"

namespace kvasir::cpu {

inline std::vector<Isa> available() {
  std::vector<Isa> isas;
  for (Isa isa : {Isa::kPortable, Isa::kAvx2, Isa::kAvx512, Isa::kAmx})
    if (isa_available(isa)) isas.push_back(isa);
  return isas;
}

inline std::string test_name(const testing::TestParamInfo<Isa>& info) {
  return std::string(isa_name(info.param));
}

// A weight of random codes at a pointer that no vector load would like.
struct Weight {
  Weight(WeightFormat format, int64_t rows, int64_t cols, std::mt19937& rng) {
    m.format = format;
    m.rows = rows;
    m.cols = cols;
    int64_t scale_rows = format == WeightFormat::kFp8Block128 ? (rows + 127) / 128 : rows;
    data.resize(static_cast<size_t>(rows * m.data_row_bytes() + 3));
    scale.resize(static_cast<size_t>(scale_rows * m.scale_row_bytes() + 1));
    std::normal_distribution<float> normal(0.f, 1.f);
    uint8_t* at = data.data() + 3;
    for (int64_t i = 0; i < rows * cols; ++i) {
      float v = normal(rng);
      if (format == WeightFormat::kF32) std::memcpy(at + 4 * i, &v, 4);
      if (format == WeightFormat::kBf16) {
        bf16 b = to_bf16(v * .02f);
        std::memcpy(at + 2 * i, &b, 2);
      }
      if (format == WeightFormat::kFp8Block128) at[i] = float_to_e4m3(v * 100.f);
      if (format == WeightFormat::kFp4Group32) {
        uint8_t nibble = float_to_e2m1(v * 2.5f);
        at[i / 2] = static_cast<uint8_t>(i % 2 == 0 ? nibble : at[i / 2] | nibble << 4);
      }
    }
    for (uint8_t& s : scale) s = static_cast<uint8_t>(118 + rng() % 6);
    m.data = at;
    m.scale = m.scale_row_bytes() != 0 ? scale.data() + 1 : nullptr;
  }
  std::vector<float> row(int64_t n) const {
    std::vector<float> r(static_cast<size_t>(m.cols));
    dequantise_row(m, n, r.data());
    return r;
  }
  WeightMatrix m;
  std::vector<uint8_t> data, scale;
};

inline constexpr WeightFormat kFormats[] = {WeightFormat::kF32, WeightFormat::kBf16,
                                            WeightFormat::kFp8Block128, WeightFormat::kFp4Group32};
inline const char* format_name(WeightFormat f) {
  switch (f) {
    case WeightFormat::kF32:
      return "f32";
    case WeightFormat::kBf16:
      return "bf16";
    case WeightFormat::kFp8Block128:
      return "fp8";
    case WeightFormat::kFp4Group32:
      return "fp4";
    case WeightFormat::kNone:
      break;
  }
  return "none";
}
inline const char* kind_name(LinearKind k) {
  return k == LinearKind::kQuantised ? "quantised" : k == LinearKind::kBf16 ? "bf16" : "float";
}
inline bool scaled(WeightFormat f) {
  return f == WeightFormat::kFp8Block128 || f == WeightFormat::kFp4Group32;
}

inline std::vector<float> random_rows(int64_t count, std::mt19937& rng, bool bf16_values) {
  std::normal_distribution<float> normal(0.f, 1.f);
  std::vector<float> x(static_cast<size_t>(count));
  for (float& v : x) {
    v = normal(rng);
    if (rng() % 64 == 0) v *= 30.f;  // outliers
    if (bf16_values) v = round_bf16(v);
  }
  return x;
}

// Activations as the official code quantises them (spec A.2), dequantised: scalar, from the format's
// definition.
inline void quantise_by_the_book(std::vector<float>& x, int64_t cols) {
  for (size_t row = 0; row < x.size(); row += static_cast<size_t>(cols)) {
    for (int64_t b = 0; b < cols; b += 128) {
      int64_t end = std::min(cols, b + 128);
      float amax = 1e-4f;
      for (int64_t k = b; k < end; ++k) amax = std::max(amax, std::fabs(x[row + static_cast<size_t>(k)]));
      float scale = e8m0_to_float(e8m0_scale_for(amax, 448.f));
      for (int64_t k = b; k < end; ++k) {
        float& v = x[row + static_cast<size_t>(k)];
        v = e4m3_to_float(float_to_e4m3(std::min(448.f, std::max(-448.f, v / scale)))) * scale;
      }
    }
  }
}

inline double relative_l2(const std::vector<float>& a, const std::vector<float>& b) {
  double d = 0, s = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    d += (static_cast<double>(a[i]) - b[i]) * (static_cast<double>(a[i]) - b[i]);
    s += static_cast<double>(b[i]) * b[i];
  }
  return std::sqrt(d / s);
}

}  // namespace kvasir::cpu
