// Decoding of stored weights into panels for products with many inputs, AVX-512.
//
// A panel holds 16 weight rows, "step" after step along K; a step is one vector with a dword per row:
//   int8   four unsigned codes a dword     bf16   two bf16 a dword
// which is what vpdpbusd and vdpbf16ps want of their second operand. Each decoder below takes 64 bytes of
// each of 16 rows and says which columns its steps hold; activations are packed to match.
#pragma once

#include "backend/cpu/simd.h"

#if KVASIR_SIMD_AVX512

namespace kvasir::cpu::KVASIR_ISA {

// Into the second cache, past the first.
inline void prefetch_far(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T1); }
inline I32x16 broadcast_i32(const void* p) {
  int32_t v;
  memcpy(&v, p, 4);
  return _mm512_set1_epi32(v);
}
inline I32x16 splat_i32(int32_t v) { return _mm512_set1_epi32(v); }
inline F32x16 broadcast_f32(const float* p) { return _mm512_set1_ps(*p); }
inline Bf16x32 broadcast_bf16x2(const void* p) { return (__m512bh)broadcast_i32(p); }
inline I32x16 low_bytes(I32x16 v) { return _mm512_and_si512(v, _mm512_set1_epi32(255)); }
inline void store_bytes(void* p, Bytes64 v) { _mm512_storeu_si512(p, v); }
// The first `count` lanes.
inline void store_f32_part(float* p, F32x16 v, int count) {
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << count) - 1), v);
}
inline F32x16 load_f32_part(const float* p, int count) {
  return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1), p);
}

// v[j] lane i becomes what v[i] lane j was.
inline void transpose_dwords(I32x16 v[16]) {
  I32x16 a[16];
  for (int i = 0; i < 16; i += 2) {
    a[i] = _mm512_unpacklo_epi32(v[i], v[i + 1]);
    a[i + 1] = _mm512_unpackhi_epi32(v[i], v[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    v[i] = _mm512_unpacklo_epi64(a[i], a[i + 2]);
    v[i + 1] = _mm512_unpackhi_epi64(a[i], a[i + 2]);
    v[i + 2] = _mm512_unpacklo_epi64(a[i + 1], a[i + 3]);
    v[i + 3] = _mm512_unpackhi_epi64(a[i + 1], a[i + 3]);
  }
  for (int i = 0; i < 4; ++i) {
    a[i] = _mm512_shuffle_i32x4(v[i], v[i + 4], 0x88);
    a[i + 4] = _mm512_shuffle_i32x4(v[i], v[i + 4], 0xdd);
    a[i + 8] = _mm512_shuffle_i32x4(v[i + 8], v[i + 12], 0x88);
    a[i + 12] = _mm512_shuffle_i32x4(v[i + 8], v[i + 12], 0xdd);
  }
  for (int i = 0; i < 4; ++i) {
    v[i] = _mm512_shuffle_i32x4(a[i], a[i + 8], 0x88);
    v[i + 8] = _mm512_shuffle_i32x4(a[i], a[i + 8], 0xdd);
    v[i + 4] = _mm512_shuffle_i32x4(a[i + 4], a[i + 12], 0x88);
    v[i + 12] = _mm512_shuffle_i32x4(a[i + 4], a[i + 12], 0xdd);
  }
}
inline void load_transposed(const uint8_t* const row[16], int64_t offset, I32x16 v[16]) {
  for (int i = 0; i < 16; ++i) v[i] = _mm512_loadu_si512(row[i] + offset);
  transpose_dwords(v);
}

// ---- activations in the order of the panels below ----

// Of every eight of 32 bytes, the even ones and then the odd ones.
inline void place_even_odd(const int8_t* from, int8_t* to) {
  const __m256i order =
      _mm256_broadcastsi128_si256(_mm_set_epi8(15, 13, 11, 9, 14, 12, 10, 8, 7, 5, 3, 1, 6, 4, 2, 0));
  __m256i v = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_shuffle_epi8(v, order));
}
// The words of every four in the order 0 2 1 3; of every eight in the order 0 4 1 5 2 6 3 7.
inline Bytes64 place_0213(Bytes64 words) {
  return _mm512_shuffle_epi8(
      words, _mm512_broadcast_i32x4(_mm_set_epi8(15, 14, 11, 10, 13, 12, 9, 8, 7, 6, 3, 2, 5, 4, 1, 0)));
}
inline Bytes64 place_04152637(Bytes64 words) {
  return _mm512_shuffle_epi8(
      words, _mm512_broadcast_i32x4(_mm_set_epi8(15, 14, 7, 6, 13, 12, 5, 4, 11, 10, 3, 2, 9, 8, 1, 0)));
}

// ---- int8 panels ----

// 128 columns of e2m1 -> 32 steps of 12 + 2 * value. Of columns 8j .. 8j+7, step 2j has the even ones, 2j+1
// the odd.
inline void e2m1_int8_panel(const uint8_t* const row[16], int64_t offset, uint8_t* panel) {
  I32x16 v[16];
  load_transposed(row, offset, v);
  for (int j = 0; j < 16; ++j) {
    Bytes64 even, odd;
    e2m1_bytes(v[j], even, odd);
    store_bytes(panel + 128 * j, even);
    store_bytes(panel + 128 * j + 64, odd);
  }
}
// Weight scales of int8 panels are powers of two, kept as what they add to a float's bits: (k << 23) for 2^k.
// Adding is right while nothing leaves the range of exponents, which holds when weights and activations are
// both tame: |k| <= 60, and scales of activations within 2^-60 .. 2^60.
inline constexpr int kTame = 60;
inline bool tame_steps(I32x16 k) {
  return _mm512_cmpgt_epi32_mask(_mm512_abs_epi32(k), _mm512_set1_epi32(kTame)) == 0;
}
// Lanes among the first `count` whose float is none of 2^-60 .. 2^60.
inline uint32_t wild_scales(const float* scale, int count) {
  const auto here = static_cast<__mmask16>((1u << count) - 1);
  I32x16 above =
      _mm512_sub_epi32(_mm512_maskz_loadu_epi32(here, scale), _mm512_set1_epi32((127 - kTame) << 23));
  return _mm512_mask_cmpgt_epu32_mask(here, above, _mm512_set1_epi32(2 * kTame << 23));
}
inline I32x16 subtract(I32x16 a, int32_t b) { return _mm512_sub_epi32(a, _mm512_set1_epi32(b)); }
inline void store_steps(int32_t* p, I32x16 k) { _mm512_storeu_si512(p, _mm512_slli_epi32(k, 23)); }
inline F32x16 scale_tame(F32x16 x, I32x16 steps) {
  return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(x), steps));
}
inline F32x16 scale_any(F32x16 x, I32x16 steps) {
  return _mm512_scalef_ps(x, to_f32(_mm512_srai_epi32(steps, 23)));
}
// Steps of four groups of 32 columns of 16 rows: steps[16 * g + row]. Codes are twice the value. `bytes` has
// a row's four e8m0 scales, the first group's in the low byte. True if all steps are tame.
inline bool e2m1_int8_steps(I32x16 bytes, int32_t* steps) {
  bool tame = true;
  for (int g = 0; g < 4; ++g) {
    I32x16 k = subtract(low_bytes(bytes), 128);
    tame = tame && tame_steps(k);
    store_steps(steps + 16 * g, k);
    bytes = _mm512_srli_epi32(bytes, 8);
  }
  return tame;
}

// ---- bf16 panels; weights times their scale, which is exact ----

// Scales (e8m0 bytes) with which every e4m3 and e2m1 value stays a normal bf16 number.
inline constexpr int kLeastTameByte = 10, kMostTameByte = 240;
inline bool tame_scales(Bytes64 bytes) {
  return (_mm512_cmplt_epu8_mask(bytes, _mm512_set1_epi8(kLeastTameByte)) |
          _mm512_cmpgt_epu8_mask(bytes, _mm512_set1_epi8(static_cast<char>(kMostTameByte)))) == 0;
}

// Words times the power of two of their dword's tame e8m0 byte. Zeros stay.
template <bool kMayBeNan>
inline Bytes64 scale_words(Bytes64 words, I32x16 byte) {
  I32x16 steps = _mm512_slli_epi32(_mm512_sub_epi32(byte, _mm512_set1_epi32(127)), 7);
  steps = _mm512_or_si512(_mm512_and_si512(steps, _mm512_set1_epi32(0xffff)), _mm512_slli_epi32(steps, 16));
  __mmask32 nonzero = _mm512_test_epi16_mask(words, _mm512_set1_epi16(0x7fff));
  if (kMayBeNan) {
    const Bytes64 nan = _mm512_set1_epi16(0x7fc0);
    nonzero = _mm512_mask_cmpneq_epi16_mask(nonzero, _mm512_and_si512(words, nan), nan);
  }
  return _mm512_mask_add_epi16(words, nonzero, words, steps);
}

// 32 columns of bf16 -> 16 steps; step j has columns 2j, 2j+1.
inline void bf16_panel(const uint8_t* const row[16], int64_t offset, uint8_t* panel) {
  I32x16 v[16];
  load_transposed(row, offset, v);
  for (int j = 0; j < 16; ++j) store_bytes(panel + 64 * j, v[j]);
}
// 64 columns of e4m3 -> 32 steps; of columns 4j .. 4j+3, step 2j has the first and third, 2j+1 the others.
inline void e4m3_bf16_panel(const uint8_t* const row[16], int64_t offset, I32x16 scale_byte, uint8_t* panel) {
  I32x16 v[16];
  load_transposed(row, offset, v);
  const Bytes64 low0 = _mm512_load_si512(kE4m3Table.low), low1 = _mm512_load_si512(kE4m3Table.low + 64);
  const Bytes64 high0 = _mm512_load_si512(kE4m3Table.high), high1 = _mm512_load_si512(kE4m3Table.high + 64);
  for (int j = 0; j < 16; ++j) {
    Bytes64 low = _mm512_permutex2var_epi8(low0, v[j], low1),
            high = _mm512_permutex2var_epi8(high0, v[j], high1);
    high = _mm512_ternarylogic_epi32(high, v[j], _mm512_set1_epi8(-128), 0xf8);  // high | (v & 0x80)
    const Bytes64 byte0 = _mm512_set1_epi16(0x00ff);
    Bytes64 even = _mm512_or_si512(_mm512_and_si512(low, byte0), _mm512_slli_epi16(high, 8));
    Bytes64 odd = _mm512_or_si512(_mm512_srli_epi16(low, 8), _mm512_andnot_si512(byte0, high));
    store_bytes(panel + 128 * j, scale_words<true>(even, scale_byte));
    store_bytes(panel + 128 * j + 64, scale_words<true>(odd, scale_byte));
  }
}
// 128 columns of e2m1 -> 64 steps; of columns 8j .. 8j+7, step 4j + i has columns i and 4 + i. `scale_bytes`
// holds the four group scales of each row, first group in the low byte.
inline void e2m1_bf16_panel(const uint8_t* const row[16], int64_t offset, I32x16 scale_bytes,
                            uint8_t* panel) {
  I32x16 v[16];
  load_transposed(row, offset, v);
  const Bytes64 table = _mm512_loadu_si512(kE2m1Bf16);
  for (int j = 0; j < 16; ++j) {
    I32x16 byte =
        _mm512_and_si512(_mm512_srl_epi32(scale_bytes, _mm_cvtsi32_si128(j / 4 * 8)), _mm512_set1_epi32(255));
    for (int i = 0; i < 4; ++i) {
      Bytes64 index = _mm512_srl_epi16(v[j], _mm_cvtsi32_si128(4 * i));
      store_bytes(panel + 256 * j + 64 * i, scale_words<false>(_mm512_permutexvar_epi16(index, table), byte));
    }
  }
}

}  // namespace kvasir::cpu::KVASIR_ISA

#endif
