// Stretches of 16 stored weight rows -> panels for the AVX-512 kernels: addresses, scales, padding. Included
// by wide_kernels.cc only.
#pragma once

#include "backend/cpu/linear_kernels.h"
#include "backend/cpu/pack_kernels.h"
#include "backend/cpu/simd_wide.h"

#if KVASIR_ISA_avx512

namespace kvasir::cpu::KVASIR_ISA {

// Columns of a panel pair: 24 KB each, which with the passing inputs stays in an L1 of 48 KB.
inline constexpr int64_t kInt8Stretch = 768, kBf16Stretch = 384;

constexpr int64_t weight_chunk(Stored f) {  // columns in 64 bytes of a row
  return f == Stored::kBf16 ? 32 : f == Stored::kE4m3 ? 64 : 128;
}

// Sixteen weight rows from `first`; rows past `end` repeat the last one.
struct SixteenRows {
  const uint8_t* data[16];
  const uint8_t* scale[16];
};
inline SixteenRows sixteen_rows(const StoredRows& w, int64_t first, int64_t end) {
  SixteenRows r;
  for (int64_t i = 0; i < 16; ++i) {
    int64_t n = first + i < end ? first + i : end - 1;
    r.data[i] = w.data + n * w.row_bytes;
    r.scale[i] = w.format == Stored::kBf16
                     ? nullptr
                     : w.scale + (w.format == Stored::kE4m3 ? n / 128 : n) * w.scale_row_bytes;
  }
  return r;
}

// The 64 bytes of every row that hold columns from `col` on, at row[i] + offset; padded with zeros where rows
// end.
struct Chunk {
  const uint8_t* const* row;
  int64_t offset;
};
struct Padding {
  const uint8_t* row[16];
  alignas(64) uint8_t bytes[16][64];
};
inline Chunk take_chunk(const StoredRows& w, const SixteenRows& rows, int64_t col, Padding& padding) {
  const int64_t offset = col * 64 / weight_chunk(w.format), left = w.row_bytes - offset;
  if (left >= 64) return {rows.data, offset};
  for (int i = 0; i < 16; ++i) {
    memset(padding.bytes[i], 0, 64);
    memcpy(padding.bytes[i], rows.data[i] + offset, static_cast<size_t>(left));
    padding.row[i] = padding.bytes[i];
  }
  return {padding.row, 0};
}

inline constexpr int32_t kUnitScales = 0x7f7f7f7f;  // four times 2^0

// e8m0 bytes of 16 rows for a stretch of columns, gathered before they are needed as vectors: at(col) has in
// every lane one byte (e4m3) or four groups' (e2m1), the first in the low byte.
class Scales {
 public:
  Scales(const StoredRows& w, const SixteenRows& rows, int64_t col, int64_t cols) : col_(col / kBlock) {
    if (w.format == Stored::kBf16) return;
    const int64_t per_block = w.format == Stored::kE4m3 ? 1 : 4;
    for (int64_t b = col_; b * kBlock < col + cols; ++b) {
      const int64_t left = w.scale_row_bytes - b * per_block;
      const auto count = static_cast<size_t>(left < per_block ? left : per_block);
      for (int i = 0; i < 16; ++i) {
        int32_t bytes = kUnitScales;  // past the last group: 1, times codes that are zero
        if (count == 4) {
          memcpy(&bytes, rows.scale[i] + b * per_block, 4);
        } else {
          memcpy(&bytes, rows.scale[i] + b * per_block, count);
        }
        bytes_[b - col_][i] = bytes;
      }
    }
  }
  I32x16 at(int64_t col) const { return load_i32(bytes_[col / kBlock - col_]); }
  // True if bf16 weights can carry those of the first `cols` columns.
  bool tame(int64_t cols) const {
    bool tame = true;
    for (int64_t b = 0; b * kBlock < cols; ++b) tame = tame_scales(load_bytes(bytes_[b])) && tame;
    return tame;
  }
  // As floats, of columns from `col` on; `group` of the block's four (e2m1).
  void values(int64_t col, int64_t group, float* out) const {
    for (int i = 0; i < 16; ++i)
      out[i] = e8m0(static_cast<uint8_t>(bytes_[col / kBlock - col_][i] >> (8 * group)));
  }

 private:
  int64_t col_;
  alignas(64) int32_t bytes_[(kInt8Stretch > kBf16Stretch ? kInt8Stretch : kBf16Stretch) / kBlock][16];
};

// Columns [col, col + cols) of 16 FP4 rows as int8 codes and, per group and row, what the scale adds to a
// float's bits. True if all of that is tame.
inline bool decode_int8(const StoredRows& w, const SixteenRows& rows, int64_t col, int64_t cols,
                        uint8_t* panel, int32_t* steps) {
  const Scales scales(w, rows, col, cols);
  Padding padding;
  bool tame = true;
  for (int64_t c = 0; c < cols; c += weight_chunk(Stored::kE2m1)) {
    const Chunk chunk = take_chunk(w, rows, col + c, padding);
    e2m1_int8_panel(chunk.row, chunk.offset, panel + c * 16);
    tame = e2m1_int8_steps(scales.at(col + c), steps + c / 2) && tame;
  }
  return tame;
}

// Columns [col, col + cols) of 16 rows as bf16, times their scale. False, and nothing decoded, where bf16 has
// no room for one of the scales.
inline bool decode_bf16(const StoredRows& w, const SixteenRows& rows, int64_t col, int64_t cols,
                        uint8_t* panel) {
  const Scales scales(w, rows, col, cols);
  if (w.format != Stored::kBf16 && !scales.tame(cols)) return false;
  Padding padding;
  const int64_t width = weight_chunk(w.format);
  for (int64_t c = 0; c < cols; c += width) {
    const Chunk chunk = take_chunk(w, rows, col + c, padding);
    uint8_t* at = panel + c * 32;
    if (w.format == Stored::kBf16) {
      bf16_panel(chunk.row, chunk.offset, at);
    } else if (w.format == Stored::kE4m3) {
      e4m3_bf16_panel(chunk.row, chunk.offset, low_bytes(scales.at(col + c)), at);
    } else {
      e2m1_bf16_panel(chunk.row, chunk.offset, scales.at(col + c), at);
    }
  }
  return true;
}

// One block of 128 columns without the scales.
inline void decode_unscaled(const StoredRows& w, const SixteenRows& rows, int64_t col, int64_t cols,
                            uint8_t* panel) {
  const I32x16 ones = splat_i32(kUnitScales);
  Padding padding;
  const int64_t width = weight_chunk(w.format);
  for (int64_t c = 0; c < cols; c += width) {
    const Chunk chunk = take_chunk(w, rows, col + c, padding);
    w.format == Stored::kE4m3 ? e4m3_bf16_panel(chunk.row, chunk.offset, low_bytes(ones), panel + c * 32)
                              : e2m1_bf16_panel(chunk.row, chunk.offset, ones, panel + c * 32);
  }
}

}  // namespace kvasir::cpu::KVASIR_ISA

#endif
