// Stored cache rows <-> vectors, and the layouts that the attention products need. For kernel sources only.
//
// Decoders and encoders give the same bits as encode_row and decode_row of ops/kv_page.h, on every
// instruction set; anything that a fast path does not cover (NaN codes, extreme scales) goes the slow way.
#pragma once

#include "backend/cpu/simd_attention.h"

namespace kvasir::cpu::KVASIR_ISA {

inline float scale_value(uint8_t byte) {  // 2^(byte - 127), as e8m0_to_float
  uint32_t bits = byte == 0 ? 0x00400000u : byte == 255 ? 0x7fc00000u : static_cast<uint32_t>(byte) << 23;
  float f;
  __builtin_memcpy(&f, &bits, 4);
  return f;
}

// The smallest power of two 2^k >= amax / max_code as its e8m0 byte (spec A.2), from the product's f32 bits.
inline uint8_t scale_byte(float amax, float max_code) {
  float x = amax * (1.0f / max_code);
  uint32_t u;
  __builtin_memcpy(&u, &x, 4);
  return static_cast<uint8_t>((u >> 23) + ((u & 0x7fffffu) != 0));
}

// e4m3 codes, one a lane, as f32. The code's exponent and mantissa go to the f32's; 2^120 mends the bias and
// turns f32 subnormals into e4m3's.
inline F32 e4m3_values(I32 codes) {
  I32 magnitude = codes & 0x7f;
  F32 v = as_float((magnitude << 20) | ((codes & 0x80) << 24)) * splat(0x1p120f);
  return select(magnitude == 0x7f, as_float(splat(0x7fc00000)), v);
}

// Nearest e4m3 codes, ties to even, saturating at 448; NaN becomes 0x7f.
inline I32 e4m3_codes(F32 x) {
  I32 bits = as_int(x);
  I32 sign = (bits >> 24) & 0x80;
  I32 a = bits & 0x7fffffff;
  I32 normal = ((a + 0x7ffff + ((a >> 20) & 1)) >> 20) - ((127 - 7) << 3);
  normal = normal > 0x7e ? splat(0x7e) : normal;
  // Below 2^-6 codes are multiples of 2^-9: adding 1.5 * 2^(23-9) rounds to one.
  I32 tiny = as_int(as_float(a) + splat(0x1.8p14f)) - splat(0x46c00000);
  I32 code = a < 0x3c800000 ? tiny : normal;
  return a > 0x7f800000 ? splat(0x7f) : (code | sign);
}

// Nearest e2m1 nibbles; ties to the even code, saturating at 6.
inline I32 e2m1_codes(F32 x) {
  F32 a = abs(x);
  I32 above = (a > splat(0.25f)) + (a >= splat(0.75f)) + (a > splat(1.25f)) + (a >= splat(1.75f)) +
              (a > splat(2.5f)) + (a >= splat(3.5f)) + (a > splat(5.f));
  I32 code = a == a ? -above : splat(7);
  return code | ((as_int(x) >> 28) & 8);
}

inline float amax_of(const float* x, int n, float floor) {
  F32 m = splat(floor);
  for (int i = 0; i < n; i += kLanes) m = max(abs(load(x + i)), m);  // a NaN is passed over, as std::max does
  return max_of(m);
}

// encode_row for quantised entries: `nope` values in blocks of 64 to e4m3, then `rope` values to bf16.
inline void encode_entry(const float* x, int64_t nope, int64_t rope, int64_t scale_bytes, uint8_t* data,
                         uint8_t* scales) {
  __builtin_memset(scales, 0, scale_bytes);
  for (int64_t b = 0; b < nope / 64; ++b) {
    uint8_t byte = scale_byte(amax_of(x + 64 * b, 64, 1e-4f), 448.f);
    scales[b] = byte;
    F32 s = splat(scale_value(byte));
    for (int i = 0; i < 64; i += kLanes)
      store_low_u8(data + 64 * b + i, e4m3_codes(load(x + 64 * b + i) / s));
  }
  for (int64_t i = 0; i < rope; ++i) {
    uint32_t u;
    __builtin_memcpy(&u, x + nope + i, 4);
    bool nan = (u & 0x7fffffffu) > 0x7f800000u;
    uint16_t r = static_cast<uint16_t>(nan ? (u >> 16) | 0x40 : (u + 0x7fffu + ((u >> 16) & 1)) >> 16);
    __builtin_memcpy(data + nope + 2 * i, &r, 2);
  }
}

// encode_row for quantised index keys: blocks of 32 to packed e2m1.
inline void encode_key(const float* x, int64_t dim, uint8_t* data, uint8_t* scales) {
  for (int64_t b = 0; b < dim / 32; ++b) {
    uint8_t byte = scale_byte(amax_of(x + 32 * b, 32, 6 * 0x1p-126f), 6.f);
    scales[b] = byte;
    F32 s = splat(scale_value(byte));
    uint8_t codes[32];
    for (int i = 0; i < 32; i += kLanes) store_low_u8(codes + i, e2m1_codes(load(x + 32 * b + i) / s));
    for (int i = 0; i < 16; ++i)
      data[16 * b + i] = static_cast<uint8_t>(codes[2 * i] | codes[2 * i + 1] << 4);
  }
}

// decode_row for quantised entries, to f32.
inline void decode_entry(const uint8_t* data, const uint8_t* scales, int64_t nope, int64_t rope, float* out) {
  for (int64_t b = 0; b < nope / 64; ++b) {
    F32 s = splat(scale_value(scales[b]));
    for (int i = 0; i < 64; i += kLanes) store(out + 64 * b + i, e4m3_values(load_u8(data + 64 * b + i)) * s);
  }
  for (int64_t i = 0; i < rope; ++i) {
    uint16_t r;
    __builtin_memcpy(&r, data + nope + 2 * i, 2);
    uint32_t u = static_cast<uint32_t>(r) << 16;
    __builtin_memcpy(out + nope + i, &u, 4);
  }
}

// decode_row for quantised index keys, to f32.
inline void decode_key(const uint8_t* data, const uint8_t* scales, int64_t dim, float* out) {
  constexpr float kValues[16] = {0.f,  .5f,  1.f,  1.5f,  2.f,  3.f,  4.f,  6.f,
                                 -0.f, -.5f, -1.f, -1.5f, -2.f, -3.f, -4.f, -6.f};
  for (int64_t i = 0; i < dim / 2; ++i) {
    float s = scale_value(scales[i / 16]);
    out[2 * i] = kValues[data[i] & 15] * s;
    out[2 * i + 1] = kValues[data[i] >> 4] * s;
  }
}

// Lanes of a and b in turn: the first half of the result's lanes, and the second.
inline I32 interleave_low(I32 a, I32 b) {
#if defined(__AVX512F__)
  return __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
#elif defined(__AVX2__)
  return __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
#else
  return __builtin_shufflevector(a, b, 0, 4, 1, 5);
#endif
}
inline I32 interleave_high(I32 a, I32 b) {
#if defined(__AVX512F__)
  return __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
#elif defined(__AVX2__)
  return __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
#else
  return __builtin_shufflevector(a, b, 2, 6, 3, 7);
#endif
}

// kLanes vectors as the rows of a square, replaced by its columns: log2(kLanes) rounds of interleaving row i
// with row i + kLanes/2.
inline void transpose(I32 (&v)[kLanes]) {
  for (int round = 1; round < kLanes; round *= 2) {
    I32 w[kLanes];
    for (int i = 0; i < kLanes / 2; ++i) {
      w[2 * i] = interleave_low(v[i], v[i + kLanes / 2]);
      w[2 * i + 1] = interleave_high(v[i], v[i + kLanes / 2]);
    }
    for (int i = 0; i < kLanes; ++i) v[i] = w[i];
  }
}

#if defined(__AVX512BF16__)

// The first n (<= 16) 32-bit units at p; the rest are zero.
inline I32 load_units(const void* p, int n) {
  return (I32)_mm512_maskz_loadu_epi32(static_cast<__mmask16>((1u << n) - 1), p);
}

// table[index] for each of 64 bytes, index < 128.
inline I32 look_up(const uint8_t* table, I32 index) {
  return (I32)_mm512_permutex2var_epi8(_mm512_loadu_si512(table), (__m512i)index,
                                       _mm512_loadu_si512(table + 64));
}

// Stores v as bf16 for products, where subnormals count as zero anyway, and returns what was stored.
inline F32 store_bf16_factor(uint16_t* p, F32 v) {
  __m256i h = (__m256i)_mm512_cvtneps_pbh((__m512)v);
  _mm256_storeu_si256((__m256i*)p, h);
  return as_float((I32)_mm512_cvtepu16_epi32(h) << 16);
}

// The bf16 bits of e4m3 magnitudes 0..127, split into low and high bytes.
struct E4m3Tables {
  alignas(64) uint8_t low[128];
  alignas(64) uint8_t high[128];
  constexpr E4m3Tables() : low(), high() {
    for (int c = 0; c < 128; ++c) {
      int exponent = c >> 3, mantissa = c & 7, bits = 0;
      if (c == 0x7f) {
        bits = 0x7fc0;
      } else if (exponent != 0) {
        bits = (exponent + 120) << 7 | mantissa << 4;
      } else if (mantissa != 0) {  // m * 2^-9: normalised
        int top = mantissa >= 4 ? 2 : mantissa >= 2 ? 1 : 0;
        bits = (127 - 9 + top) << 7 | ((mantissa << (7 - top)) & 0x7f);
      }
      low[c] = static_cast<uint8_t>(bits & 0xff);
      high[c] = static_cast<uint8_t>(bits >> 8);
    }
  }
};
inline constexpr E4m3Tables kE4m3;

struct ByteOrder {  // indices that weave two vectors of bytes into 16-bit lanes
  alignas(64) uint8_t first[64];
  alignas(64) uint8_t second[64];
  constexpr ByteOrder() : first(), second() {
    for (int i = 0; i < 32; ++i) {
      first[2 * i] = static_cast<uint8_t>(i);
      first[2 * i + 1] = static_cast<uint8_t>(64 + i);
      second[2 * i] = static_cast<uint8_t>(32 + i);
      second[2 * i + 1] = static_cast<uint8_t>(96 + i);
    }
  }
};
inline constexpr ByteOrder kWeave;

// 64 e4m3 codes times 2^(byte-127) to bf16, exactly: two table look-ups, then the scale is added to the
// exponents of what is not zero. False: a NaN code or a scale that could leave bf16's range; nothing useful
// written.
inline bool decode_block_bf16(const uint8_t* codes, uint8_t byte, uint16_t* out) {
  __m512i c = _mm512_loadu_si512(codes);
  __m512i magnitude = _mm512_and_si512(c, _mm512_set1_epi8(0x7f));
  bool plain = byte >= 32 && byte <= 220 && _mm512_cmpeq_epi8_mask(magnitude, _mm512_set1_epi8(0x7f)) == 0;
  __m512i low =
      _mm512_permutex2var_epi8(_mm512_load_si512(kE4m3.low), magnitude, _mm512_load_si512(kE4m3.low + 64));
  __m512i high =
      _mm512_permutex2var_epi8(_mm512_load_si512(kE4m3.high), magnitude, _mm512_load_si512(kE4m3.high + 64));
  high = _mm512_or_si512(high, _mm512_and_si512(c, _mm512_set1_epi8(static_cast<char>(0x80))));
  __m512i add = _mm512_set1_epi16(static_cast<int16_t>((byte - 127) * 128));
  __m512i exponent = _mm512_set1_epi16(0x7fff);
  for (int half = 0; half < 2; ++half) {
    __m512i v = _mm512_permutex2var_epi8(low, _mm512_load_si512(half ? kWeave.second : kWeave.first), high);
    v = _mm512_mask_add_epi16(v, _mm512_test_epi16_mask(v, exponent), v, add);
    _mm512_storeu_si512(out + 32 * half, v);
  }
  return plain;
}

// decode_row for quantised entries, to bf16 bits.
inline void decode_entry_bf16(const uint8_t* data, const uint8_t* scales, int64_t nope, int64_t rope,
                              uint16_t* out) {
  for (int64_t b = 0; b < nope / 64; ++b) {
    if (decode_block_bf16(data + 64 * b, scales[b], out + 64 * b)) continue;
    for (int i = 0; i < 64; i += kLanes)
      store_bf16(out + 64 * b + i, e4m3_values(load_u8(data + 64 * b + i)) * splat(scale_value(scales[b])));
  }
  __builtin_memcpy(out + nope, data + nope, 2 * rope);
}

// Rows a and b of n bf16 (n a multiple of 32) as n units (a[i], b[i]).
inline void weave_rows(const uint16_t* a, const uint16_t* b, int64_t n, uint32_t* out) {
  alignas(64) static constexpr struct Order {
    uint16_t first[32], second[32];
    constexpr Order() : first(), second() {
      for (int i = 0; i < 16; ++i) {
        first[2 * i] = static_cast<uint16_t>(i);
        first[2 * i + 1] = static_cast<uint16_t>(32 + i);
        second[2 * i] = static_cast<uint16_t>(16 + i);
        second[2 * i + 1] = static_cast<uint16_t>(48 + i);
      }
    }
  } kOrder;
  for (int64_t i = 0; i < n; i += 32) {
    __m512i x = _mm512_loadu_si512(a + i), y = _mm512_loadu_si512(b + i);
    _mm512_storeu_si512(out + i, _mm512_permutex2var_epi16(x, _mm512_loadu_si512(kOrder.first), y));
    _mm512_storeu_si512(out + i + 16, _mm512_permutex2var_epi16(x, _mm512_loadu_si512(kOrder.second), y));
  }
}

#endif

}  // namespace kvasir::cpu::KVASIR_ISA
