// WeightMatrix: a weight as the checkpoint stores it, with the name of its block format, so that no
// bare byte pointer travels with a convention. It borrows; the checkpoint's mapping owns.
//
// All matrices are [rows, cols] = [out, in], row-major; y = x * W^T.
// Source: spec 7.3, 7.4, 9.1.
#pragma once

#include <cstdint>

#include "tensor/dtype.h"

namespace kvasir {

enum class WeightFormat : uint8_t {
  kNone,         // absent
  kF32,          // data: float
  kBf16,         // data: bf16
  kFp8Block128,  // data: e4m3; scale: e8m0 [ceil(rows/128), ceil(cols/128)], one per 128x128 tile
  kFp4Group32,   // data: e2m1 pairs [rows, cols/2], low nibble first; scale: e8m0 [rows, cols/32]
};

struct WeightMatrix {
  WeightFormat format = WeightFormat::kNone;
  int64_t rows = 0;
  int64_t cols = 0;
  const void* data = nullptr;
  const uint8_t* scale = nullptr;  // e8m0 bytes; null for unscaled formats

  bool empty() const { return format == WeightFormat::kNone; }
  int64_t data_row_bytes() const {
    switch (format) {
      case WeightFormat::kF32: return cols * 4;
      case WeightFormat::kBf16: return cols * 2;
      case WeightFormat::kFp8Block128: return cols;
      case WeightFormat::kFp4Group32: return cols / 2;
      case WeightFormat::kNone: break;
    }
    return 0;
  }
  // Scales of one row (kFp4Group32) or of one band of 128 rows (kFp8Block128).
  int64_t scale_row_bytes() const {
    if (format == WeightFormat::kFp8Block128) return (cols + 127) / 128;
    if (format == WeightFormat::kFp4Group32) return cols / 32;
    return 0;
  }
  int64_t bytes() const {
    int64_t scale_rows = format == WeightFormat::kFp8Block128 ? (rows + 127) / 128 : rows;
    return rows * data_row_bytes() + scale_rows * scale_row_bytes();
  }
};

// Row `row` dequantised exactly to f32; `out` has `cols` elements.
void dequantise_row(const WeightMatrix& w, int64_t row, float* out);

}  // namespace kvasir
