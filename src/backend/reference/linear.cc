// Matrix products as sums in f64 over dequantised rows; contract in ops/linear.h.
#include <vector>

#include "backend/reference/arithmetic.h"
#include "backend/reference/reference_ops.h"
#include "tensor/dtype.h"

namespace kvasir {
namespace {

// One output of the official FP8/FP4 GEMM: per block of K, a dot of raw codes, times both scales.
double block_dot(const WeightMatrix& w, int64_t row, const float* codes, const float* act_scale, const float* weight_codes) {
  int64_t block = w.format == WeightFormat::kFp4Group32 ? 32 : 128;
  const uint8_t* scale = w.scale + (w.format == WeightFormat::kFp4Group32 ? row : row / 128) * w.scale_row_bytes();
  double sum = 0;
  for (int64_t k = 0; k < w.cols; k += block) {
    int64_t n = std::min(block, w.cols - k);
    sum += reference::dot(codes + k, weight_codes + k, n) * act_scale[k / 128] * e8m0_to_float(scale[k / block]);
  }
  return sum;
}

// The stored codes of a row as floats, without their scales.
void raw_row(const WeightMatrix& w, int64_t row, float* out) {
  const auto* data = static_cast<const uint8_t*>(w.data) + row * w.data_row_bytes();
  for (int64_t k = 0; k < w.cols; ++k) {
    out[k] = w.format == WeightFormat::kFp8Block128 ? e4m3_to_float(data[k])
                                                    : e2m1_to_float((k & 1) ? data[k / 2] >> 4 : data[k / 2] & 15);
  }
}

}  // namespace

void ReferenceOps::linear(const LinearArgs& a) {
  int64_t tokens = a.x.shape(0), k = a.w.cols;
  KVASIR_CHECK(a.x.shape(1) == k && a.out.shape(0) == tokens && a.out.shape(1) == a.w.rows, "x [{}, {}], w [{}, {}], out [{}, {}]",
               tokens, a.x.shape(1), a.w.rows, k, a.out.shape(0), a.out.shape(1));
  bool scaled = a.w.format == WeightFormat::kFp8Block128 || a.w.format == WeightFormat::kFp4Group32;
  bool quantise = native() && a.kind == LinearKind::kQuantised && scaled;
  std::vector<std::vector<float>> codes(quantise ? tokens : 0), scales(quantise ? tokens : 0);
  for (int64_t t = 0; t < static_cast<int64_t>(codes.size()); ++t) reference::quantise_e4m3(a.x.row(t), k, codes[t], scales[t]);

  std::vector<float> weight(k);
  for (int64_t n = 0; n < a.w.rows; ++n) {
    quantise ? raw_row(a.w, n, weight.data()) : dequantise_row(a.w, n, weight.data());
    for (int64_t t = 0; t < tokens; ++t) {
      double y = quantise ? block_dot(a.w, n, codes[t].data(), scales[t].data(), weight.data())
                          : reference::dot(a.x.row(t), weight.data(), k);
      a.out(t, n) = a.kind == LinearKind::kFloat ? static_cast<float>(y) : round(y);
    }
  }
}

void ReferenceOps::grouped_linear(const GroupedLinearArgs& a) {
  int64_t tokens = a.x.shape(0), groups = a.x.shape(1), n = a.out.shape(2);
  KVASIR_CHECK(a.w.rows == groups * n && a.w.cols == a.x.shape(2), "w [{}, {}] for {} groups of {} x {}", a.w.rows, a.w.cols, groups, n,
               a.x.shape(2));
  std::vector<float> weight(a.w.cols);
  for (int64_t g = 0; g < groups; ++g) {
    for (int64_t i = 0; i < n; ++i) {
      dequantise_row(a.w, g * n + i, weight.data());
      for (int64_t t = 0; t < tokens; ++t) a.out(t, g, i) = round(reference::dot(&a.x(t, g, 0), weight.data(), a.w.cols));
    }
  }
}

}  // namespace kvasir
