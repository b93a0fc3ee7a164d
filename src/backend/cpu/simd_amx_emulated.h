// The tile products of simd_amx.h in plain code, so that the AMX kernels can be tested on a machine without
// AMX (cmake -DKVASIR_EMULATE_AMX=ON; far too slow for anything else). Included by simd_amx.h only. Sums may
// round elsewhere than the hardware's do.
#pragma once

#include <immintrin.h>
#include <string.h>

namespace kvasir::cpu::KVASIR_ISA {

struct EmulatedTiles {
  int rows[8];
  float sums[4][16][16];
  bool open = false;
};
inline thread_local EmulatedTiles tiles_emulated;

inline void tiles_open(int rows0 = 16, int rows1 = 16) {
  const int rows[8] = {rows0, rows0, rows1, rows1, rows0, rows1, 16, 16};
  for (int i = 0; i < 8; ++i) tiles_emulated.rows[i] = rows[i];
  tiles_emulated.open = true;
}
inline void tiles_close() { tiles_emulated.open = false; }
inline void tiles_zero() { memset(tiles_emulated.sums, 0, sizeof(tiles_emulated.sums)); }
template <int kSum>
inline void tile_load(const float* from, int64_t stride) {
  for (int r = 0; r < tiles_emulated.rows[kSum]; ++r)
    memcpy(tiles_emulated.sums[kSum][r], reinterpret_cast<const uint8_t*>(from) + r * stride, 64);
}
template <int kSum>
inline void tile_store(float* to, int64_t stride) {
  for (int r = 0; r < tiles_emulated.rows[kSum]; ++r)
    memcpy(reinterpret_cast<uint8_t*>(to) + r * stride, tiles_emulated.sums[kSum][r], 64);
}
inline void emulate_product(int sum, const void* a, int64_t a_stride, const void* b, int64_t b_stride) {
  if (!tiles_emulated.open) __builtin_trap();
  for (int r = 0; r < tiles_emulated.rows[sum]; ++r) {
    __m512 row = _mm512_loadu_ps(tiles_emulated.sums[sum][r]);
    for (int k = 0; k < 16; ++k) {
      int32_t pair;
      memcpy(&pair, static_cast<const uint8_t*>(a) + r * a_stride + 4 * k, 4);
      const __m512i factors = _mm512_loadu_si512(static_cast<const uint8_t*>(b) + k * b_stride);
      row = _mm512_dpbf16_ps(row, (__m512bh)_mm512_set1_epi32(pair), (__m512bh)factors);
    }
    _mm512_storeu_ps(tiles_emulated.sums[sum][r], row);
  }
}
inline void tiles_multiply_2x1(const void* a0, const void* a1, int64_t a_stride, const void* b0,
                               int64_t b_stride) {
  emulate_product(0, a0, a_stride, b0, b_stride);
  emulate_product(2, a1, a_stride, b0, b_stride);
}
inline void tiles_multiply_2x2(const void* a0, const void* a1, int64_t a_stride, const void* b0,
                               const void* b1, int64_t b_stride) {
  tiles_multiply_2x1(a0, a1, a_stride, b0, b_stride);
  emulate_product(1, a0, a_stride, b1, b_stride);
  emulate_product(3, a1, a_stride, b1, b_stride);
}

}  // namespace kvasir::cpu::KVASIR_ISA
