// Stored codes to numbers, exactly, in device code: what tensor/dtype.h and tensor/quant.h define. For the plain kernels; the
// tuned ones decode whole words at a time.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "tensor/quant.h"

namespace kvasir::cuda {

// The byte 0 stands for 2^-127, which is subnormal.
__device__ __forceinline__ float e8m0_value(uint32_t byte) {
  return byte == 0 ? __uint_as_float(0x00400000u) : __uint_as_float(byte << 23);
}

// The code's bits, moved to where f32 has its exponent and mantissa, are the value times 2^-120, subnormal ones included.
__device__ __forceinline__ float e4m3_value(uint32_t code) {
  float v = __uint_as_float((code & 0x80u) << 24 | (code & 0x7fu) << 20) * 0x1p120f;
  return (code & 0x7fu) == 0x7fu ? __uint_as_float(0x7fc00000u) : v;
}

__device__ __forceinline__ float e2m1_value(uint32_t nibble) {
  uint32_t e = nibble >> 1 & 3u, m = nibble & 1u;
  float v = e == 0 ? 0.5f * m : __uint_as_float((126u + e) << 23 | m << 22);
  return (nibble & 8u) ? -v : v;
}

// Element (row, k) of a weight, dequantised exactly.
__device__ __forceinline__ float weight_value(const WeightMatrix& w, int64_t row, int64_t k) {
  const auto* data = static_cast<const uint8_t*>(w.data);
  switch (w.format) {
    case WeightFormat::kF32:
      return reinterpret_cast<const float*>(data)[row * w.cols + k];
    case WeightFormat::kBf16:
      return __uint_as_float(static_cast<uint32_t>(reinterpret_cast<const uint16_t*>(data)[row * w.cols + k]) << 16);
    case WeightFormat::kFp8Block128:
      return e4m3_value(data[row * w.cols + k]) * e8m0_value(w.scale[row / 128 * ((w.cols + 127) / 128) + k / 128]);
    case WeightFormat::kFp4Group32: {
      uint32_t pair = data[row * (w.cols / 2) + k / 2];
      return e2m1_value((k & 1) ? pair >> 4 : pair & 15u) * e8m0_value(w.scale[row * (w.cols / 32) + k / 32]);
    }
    case WeightFormat::kNone:
      break;
  }
  return __uint_as_float(0x7fc00000u);
}

}  // namespace kvasir::cuda
