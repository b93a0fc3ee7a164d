// Blocks of stored weights back to f32; formats in quant.h.
#include "tensor/quant.h"

#include <cstring>

#include "base/check.h"

namespace kvasir {

void dequantise_row(const WeightMatrix& w, int64_t row, float* out) {
  const auto* data = static_cast<const uint8_t*>(w.data) + row * w.data_row_bytes();
  switch (w.format) {
    case WeightFormat::kF32:
      std::memcpy(out, data, static_cast<size_t>(w.cols) * 4);
      return;
    case WeightFormat::kBf16:
      for (int64_t k = 0; k < w.cols; ++k) {
        bf16 b;
        std::memcpy(&b, data + 2 * k, 2);
        out[k] = to_float(b);
      }
      return;
    case WeightFormat::kFp8Block128: {
      const uint8_t* scale = w.scale + row / 128 * w.scale_row_bytes();
      for (int64_t k = 0; k < w.cols; ++k) out[k] = e4m3_to_float(data[k]) * e8m0_to_float(scale[k / 128]);
      return;
    }
    case WeightFormat::kFp4Group32: {
      const uint8_t* scale = w.scale + row * w.scale_row_bytes();
      for (int64_t k = 0; k < w.cols; ++k) {
        uint8_t nibble = (k & 1) ? data[k / 2] >> 4 : data[k / 2] & 15;
        out[k] = e2m1_to_float(nibble) * e8m0_to_float(scale[k / 32]);
      }
      return;
    }
    case WeightFormat::kNone:
      KVASIR_CHECK(false, "an absent weight was used");
  }
}

}  // namespace kvasir
