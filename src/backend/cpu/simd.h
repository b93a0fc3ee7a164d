// Vectors of a fixed logical width, one spelling on every instruction set: 16 floats or int32, 64 bytes,
// and, where the hardware multiplies them, 32 bf16. All intrinsics of the matrix kernels live here.
//
// Included only by files that are compiled once per instruction set (CMakeLists.txt); everything is in
// that set's namespace and nothing comes from the STL (spec/dependencies.md, trap 4).
#pragma once

#include <stdint.h>
#include <string.h>

#if KVASIR_ISA_avx512 || KVASIR_ISA_amx
#define KVASIR_SIMD_AVX512 1
#include <immintrin.h>
#elif KVASIR_ISA_avx2
#define KVASIR_SIMD_AVX2 1
#include <immintrin.h>
#endif

namespace kvasir::cpu::KVASIR_ISA {

// e2m1 as bf16 words, as unsigned bytes 12 + 2 * value, and as floats; index: nibble.
inline constexpr float kE2m1Float[16] = {0.f,  .5f,  1.f,  1.5f,  2.f,  3.f,  4.f,  6.f,
                                         -0.f, -.5f, -1.f, -1.5f, -2.f, -3.f, -4.f, -6.f};
inline constexpr uint8_t kE2m1Byte[16] = {12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0};
inline constexpr int kE2m1Bias = 12;

inline float float_of_bits(uint32_t bits) {
  float f;
  memcpy(&f, &bits, 4);
  return f;
}
inline uint32_t bits_of_float(float f) {
  uint32_t bits;
  memcpy(&bits, &f, 4);
  return bits;
}
// e8m0 byte -> float. Byte 0 is the subnormal 2^-127, which is what the maximum yields.
inline float e8m0(uint8_t byte) {
  uint32_t bits = static_cast<uint32_t>(byte) << 23;
  return float_of_bits(bits > 0x00400000u ? bits : 0x00400000u);
}
inline uint16_t bf16_of(float x) {
  uint32_t u = bits_of_float(x);
  uint32_t rounded = (u + 0x7fffu + ((u >> 16) & 1)) >> 16;
  return static_cast<uint16_t>((u & 0x7fffffffu) > 0x7f800000u ? (u >> 16) | 0x40 : rounded);
}
inline float bf16_value(uint16_t bits) { return float_of_bits(static_cast<uint32_t>(bits) << 16); }

#if KVASIR_SIMD_AVX512

using F32x16 = __m512;
using I32x16 = __m512i;
using Bytes64 = __m512i;
using Bf16x32 = __m512bh;

inline void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }

inline F32x16 zero_f32() { return _mm512_setzero_ps(); }
inline F32x16 splat(float x) { return _mm512_set1_ps(x); }
inline F32x16 load_f32(const void* p) { return _mm512_loadu_ps(p); }
inline void store_f32(float* p, F32x16 v) { _mm512_storeu_ps(p, v); }
inline F32x16 add(F32x16 a, F32x16 b) { return _mm512_add_ps(a, b); }
inline F32x16 mul(F32x16 a, F32x16 b) { return _mm512_mul_ps(a, b); }
inline F32x16 fma(F32x16 a, F32x16 b, F32x16 c) { return _mm512_fmadd_ps(a, b, c); }
// Sum of the lanes, always in the same order: halves, quarters, pairs.
inline float sum(F32x16 v) {
  __m256 h = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
  __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
  q = _mm_add_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}

inline F32x16 load_bf16(const void* p) {
  return _mm512_castsi512_ps(
      _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(static_cast<const __m256i*>(p))), 16));
}
// 16 e4m3 codes. Exponent and mantissa become those of a float that is 2^120 too small, subnormals included.
inline F32x16 load_e4m3(const uint8_t* p) {
  __m512i b = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  __m512i magnitude = _mm512_and_si512(b, _mm512_set1_epi32(0x7f));
  __m512i sign = _mm512_slli_epi32(_mm512_srli_epi32(b, 7), 31);
  __m512 v = _mm512_mul_ps(_mm512_castsi512_ps(_mm512_slli_epi32(magnitude, 20)), _mm512_set1_ps(0x1p120f));
  __mmask16 nan = _mm512_cmpeq_epi32_mask(magnitude, _mm512_set1_epi32(0x7f));
  __m512i bits = _mm512_or_si512(_mm512_castps_si512(v), sign);
  return _mm512_castsi512_ps(_mm512_mask_mov_epi32(bits, nan, _mm512_set1_epi32(0x7fc00000)));
}
// 32 e2m1 values from 16 bytes: those of the low nibbles (even places) and of the high ones.
inline void load_e2m1(const uint8_t* p, F32x16& even, F32x16& odd) {
  __m512i b = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  __m512 table = _mm512_loadu_ps(kE2m1Float);
  even = _mm512_permutexvar_ps(b, table);
  odd = _mm512_permutexvar_ps(_mm512_srli_epi32(b, 4), table);
}
// Four e8m0 bytes, each spread over four neighbouring lanes.
inline F32x16 e8m0_lanes(const uint8_t* p) {
  int32_t four;
  memcpy(&four, p, 4);
  const __m512i pattern =
      _mm512_set_epi8(-1, -1, -1, 3, -1, -1, -1, 3, -1, -1, -1, 3, -1, -1, -1, 3, -1, -1, -1, 2, -1, -1, -1,
                      2, -1, -1, -1, 2, -1, -1, -1, 2, -1, -1, -1, 1, -1, -1, -1, 1, -1, -1, -1, 1, -1, -1,
                      -1, 1, -1, -1, -1, 0, -1, -1, -1, 0, -1, -1, -1, 0, -1, -1, -1, 0);
  __m512i bits = _mm512_slli_epi32(_mm512_shuffle_epi8(_mm512_set1_epi32(four), pattern), 23);
  return _mm512_castsi512_ps(_mm512_max_epi32(bits, _mm512_set1_epi32(0x00400000)));
}

// ---- bytes ----
inline Bytes64 load_bytes(const void* p) { return _mm512_loadu_si512(p); }
inline I32x16 load_i32(const void* p) { return _mm512_loadu_si512(p); }
inline F32x16 to_f32(I32x16 v) { return _mm512_cvtepi32_ps(v); }
// acc + the sums of four neighbouring products, unsigned times signed.
inline I32x16 dot_u8i8(I32x16 acc, Bytes64 u, Bytes64 s) { return _mm512_dpbusd_epi32(acc, u, s); }
// 128 e2m1 values from 64 bytes as 12 + 2 * value. vpermb looks at six index bits only, so the table is
// repeated and the neighbour's bits do no harm.
inline void e2m1_bytes(Bytes64 b, Bytes64& even, Bytes64& odd) {
  __m512i table = _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(kE2m1Byte)));
  even = _mm512_permutexvar_epi8(b, table);
  odd = _mm512_permutexvar_epi8(_mm512_srli_epi16(b, 4), table);
}

// ---- rounding to int8, 32 values at a time ----
// Largest magnitude as float bits; NaN counts as larger than everything.
inline uint32_t largest_bits_of_32(const float* x) {
  const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
  return _mm512_reduce_max_epu32(_mm512_max_epu32(_mm512_and_si512(_mm512_loadu_si512(x), magnitude),
                                                  _mm512_and_si512(_mm512_loadu_si512(x + 16), magnitude)));
}
// The integers nearest to x * factor, which are within -127 .. 127; ties to even.
inline void round_32(const float* x, float factor, int8_t* code) {
  const __m512 f = _mm512_set1_ps(factor);
  for (int i = 0; i < 32; i += 16)
    _mm_storeu_si128(reinterpret_cast<__m128i*>(code + i),
                     _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x + i), f))));
}
// 128 bytes -> those at even places, those at odd ones.
inline void split_even_odd(const int8_t* from, int8_t* even, int8_t* odd) {
  const __m512i a = _mm512_loadu_si512(from), b = _mm512_loadu_si512(from + 64);
  const __m512i low = _mm512_set1_epi16(0x00ff);
  const __m512i quarters = _mm512_set_epi64(7, 5, 3, 1, 6, 4, 2, 0);  // undoes what packing does to 128 bits
  const __m512i e = _mm512_packus_epi16(_mm512_and_si512(a, low), _mm512_and_si512(b, low));
  const __m512i o = _mm512_packus_epi16(_mm512_srli_epi16(a, 8), _mm512_srli_epi16(b, 8));
  _mm512_storeu_si512(even, _mm512_permutexvar_epi64(quarters, e));
  _mm512_storeu_si512(odd, _mm512_permutexvar_epi64(quarters, o));
}

// ---- bf16 ----
struct E4m3Table {
  alignas(64) uint8_t low[128];
  alignas(64) uint8_t high[128];
};
constexpr E4m3Table make_e4m3_table() {
  E4m3Table t{};
  for (int c = 0; c < 128; ++c) {
    int e = c >> 3, m = c & 7, bits = (c << 4) + (120 << 7);
    if (e == 0)
      bits = m == 0   ? 0
             : m == 1 ? 118 << 7
             : m < 4  ? (119 << 7) + ((m - 2) << 6)
                      : (120 << 7) + ((m - 4) << 5);
    if (c == 127) bits = 0x7fc0;
    t.low[c] = static_cast<uint8_t>(bits & 255);
    t.high[c] = static_cast<uint8_t>(bits >> 8);
  }
  return t;
}
inline constexpr E4m3Table kE4m3Table = make_e4m3_table();
inline constexpr uint16_t kE2m1Bf16[32] = {0x0000, 0x3f00, 0x3f80, 0x3fc0, 0x4000, 0x4040, 0x4080, 0x40c0,
                                           0x8000, 0xbf00, 0xbf80, 0xbfc0, 0xc000, 0xc040, 0xc080, 0xc0c0,
                                           0x0000, 0x3f00, 0x3f80, 0x3fc0, 0x4000, 0x4040, 0x4080, 0x40c0,
                                           0x8000, 0xbf00, 0xbf80, 0xbfc0, 0xc000, 0xc040, 0xc080, 0xc0c0};

inline Bf16x32 load_bf16x32(const void* p) { return (__m512bh)_mm512_loadu_si512(p); }
// acc + the sums of two neighbouring products.
inline F32x16 dot_bf16(F32x16 acc, Bf16x32 a, Bf16x32 b) { return _mm512_dpbf16_ps(acc, a, b); }
// 64 e4m3 codes as bf16, through two tables of bytes; unpacking leaves them in the order of kE4m3Order.
inline void e4m3_bf16(const uint8_t* p, Bf16x32& first, Bf16x32& second) {
  __m512i b = _mm512_loadu_si512(p);
  __m512i low =
      _mm512_permutex2var_epi8(_mm512_load_si512(kE4m3Table.low), b, _mm512_load_si512(kE4m3Table.low + 64));
  __m512i high = _mm512_permutex2var_epi8(_mm512_load_si512(kE4m3Table.high), b,
                                          _mm512_load_si512(kE4m3Table.high + 64));
  high = _mm512_ternarylogic_epi32(high, b, _mm512_set1_epi8(-128), 0xf8);  // high | (b & 0x80)
  first = (__m512bh)_mm512_unpacklo_epi8(low, high);
  second = (__m512bh)_mm512_unpackhi_epi8(low, high);
}
// Place i of the 64 values that e4m3_bf16 writes holds element e4m3_place(i).
constexpr int e4m3_place(int i) { return i % 32 / 8 * 16 + i / 32 * 8 + i % 8; }
// 128 e2m1 values as bf16: v[j] word w is element 4 w + j. vpermw looks at five index bits.
inline void e2m1_bf16(const uint8_t* p, Bf16x32 v[4]) {
  __m512i b = _mm512_loadu_si512(p), table = _mm512_loadu_si512(kE2m1Bf16);
  v[0] = (__m512bh)_mm512_permutexvar_epi16(b, table);
  v[1] = (__m512bh)_mm512_permutexvar_epi16(_mm512_srli_epi16(b, 4), table);
  v[2] = (__m512bh)_mm512_permutexvar_epi16(_mm512_srli_epi16(b, 8), table);
  v[3] = (__m512bh)_mm512_permutexvar_epi16(_mm512_srli_epi16(b, 12), table);
}
constexpr int e2m1_place(int i) { return i % 32 * 4 + i / 32; }

#elif KVASIR_SIMD_AVX2

struct F32x16 {
  __m256 lo, hi;
};
struct I32x16 {
  __m256i lo, hi;
};
using Bytes64 = I32x16;

inline void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }

inline F32x16 zero_f32() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
inline F32x16 splat(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline F32x16 load_f32(const void* p) {
  const auto* f = static_cast<const uint8_t*>(p);
  return {_mm256_loadu_ps(reinterpret_cast<const float*>(f)),
          _mm256_loadu_ps(reinterpret_cast<const float*>(f + 32))};
}
inline void store_f32(float* p, F32x16 v) {
  _mm256_storeu_ps(p, v.lo);
  _mm256_storeu_ps(p + 8, v.hi);
}
inline F32x16 add(F32x16 a, F32x16 b) { return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
inline F32x16 mul(F32x16 a, F32x16 b) { return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
inline F32x16 fma(F32x16 a, F32x16 b, F32x16 c) {
  return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
inline float sum(F32x16 v) {
  __m256 h = _mm256_add_ps(v.lo, v.hi);
  __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
  q = _mm_add_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}

inline F32x16 load_bf16(const void* p) {
  const auto* w = static_cast<const uint8_t*>(p);
  auto half = [](const uint8_t* q) {
    return _mm256_castsi256_ps(
        _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(q))), 16));
  };
  return {half(w), half(w + 16)};
}
inline __m256 e4m3_half(const uint8_t* p) {
  __m256i b = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
  __m256i magnitude = _mm256_and_si256(b, _mm256_set1_epi32(0x7f));
  __m256i sign = _mm256_slli_epi32(_mm256_srli_epi32(b, 7), 31);
  __m256 v = _mm256_mul_ps(_mm256_castsi256_ps(_mm256_slli_epi32(magnitude, 20)), _mm256_set1_ps(0x1p120f));
  __m256i nan = _mm256_cmpeq_epi32(magnitude, _mm256_set1_epi32(0x7f));
  return _mm256_or_ps(_mm256_or_ps(v, _mm256_castsi256_ps(sign)), _mm256_castsi256_ps(nan));
}
inline F32x16 load_e4m3(const uint8_t* p) { return {e4m3_half(p), e4m3_half(p + 8)}; }
inline void load_e2m1(const uint8_t* p, F32x16& even, F32x16& odd) {
  __m256 table = _mm256_loadu_ps(kE2m1Float);  // the eight magnitudes; bit 3 of a nibble is the sign
  auto values = [table](__m256i nibble) {
    __m256i sign = _mm256_slli_epi32(_mm256_srli_epi32(nibble, 3), 31);
    return _mm256_xor_ps(_mm256_permutevar8x32_ps(table, nibble), _mm256_castsi256_ps(sign));
  };
  __m256i lo = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
  __m256i hi = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p + 8)));
  even = {values(lo), values(hi)};
  odd = {values(_mm256_srli_epi32(lo, 4)), values(_mm256_srli_epi32(hi, 4))};
}
inline F32x16 e8m0_lanes(const uint8_t* p) {
  auto half = [](float a, float b) { return _mm256_set_m128(_mm_set1_ps(b), _mm_set1_ps(a)); };
  return {half(e8m0(p[0]), e8m0(p[1])), half(e8m0(p[2]), e8m0(p[3]))};
}

inline I32x16 load_i32(const void* p) {
  const auto* b = static_cast<const uint8_t*>(p);
  return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(b)),
          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(b + 32))};
}
inline Bytes64 load_bytes(const void* p) { return load_i32(p); }
inline F32x16 to_f32(I32x16 v) { return {_mm256_cvtepi32_ps(v.lo), _mm256_cvtepi32_ps(v.hi)}; }
// No VNNI: pairs meet in 16 bits, which 2 * 24 * 127 does not overflow (u is an e2m1 byte).
inline I32x16 dot_u8i8(I32x16 acc, Bytes64 u, Bytes64 s) {
  auto half = [](__m256i a, __m256i x, __m256i y) {
    return _mm256_add_epi32(a, _mm256_madd_epi16(_mm256_maddubs_epi16(x, y), _mm256_set1_epi16(1)));
  };
  return {half(acc.lo, u.lo, s.lo), half(acc.hi, u.hi, s.hi)};
}
inline void e2m1_bytes(Bytes64 b, Bytes64& even, Bytes64& odd) {
  __m256i table = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(kE2m1Byte)));
  __m256i nibble = _mm256_set1_epi8(15);
  auto low = [&](__m256i v) { return _mm256_shuffle_epi8(table, _mm256_and_si256(v, nibble)); };
  even = {low(b.lo), low(b.hi)};
  odd = {low(_mm256_srli_epi16(b.lo, 4)), low(_mm256_srli_epi16(b.hi, 4))};
}

#else  // plain C++

struct F32x16 {
  float v[16];
};
struct I32x16 {
  int32_t v[16];
};
struct Bytes64 {
  uint8_t v[64];
};

inline void prefetch(const void*) {}

inline F32x16 zero_f32() { return {}; }
inline F32x16 splat(float x) {
  F32x16 r;
  for (float& f : r.v) f = x;
  return r;
}
inline F32x16 load_f32(const void* p) {
  F32x16 r;
  memcpy(r.v, p, 64);
  return r;
}
inline void store_f32(float* p, F32x16 v) { memcpy(p, v.v, 64); }
inline F32x16 add(F32x16 a, F32x16 b) {
  for (int i = 0; i < 16; ++i) a.v[i] += b.v[i];
  return a;
}
inline F32x16 mul(F32x16 a, F32x16 b) {
  for (int i = 0; i < 16; ++i) a.v[i] *= b.v[i];
  return a;
}
// Two roundings: the baseline has no fused instruction and the library's emulation is a hundred times slower.
inline F32x16 fma(F32x16 a, F32x16 b, F32x16 c) { return add(mul(a, b), c); }
inline float sum(F32x16 v) {
  for (int width = 8; width >= 1; width /= 2)
    for (int i = 0; i < width; ++i) v.v[i] += v.v[i + width];
  return v.v[0];
}

inline F32x16 load_bf16(const void* p) {
  uint16_t w[16];
  memcpy(w, p, 32);
  F32x16 r;
  for (int i = 0; i < 16; ++i) r.v[i] = bf16_value(w[i]);
  return r;
}
inline F32x16 load_e4m3(const uint8_t* p) {
  F32x16 r;
  for (int i = 0; i < 16; ++i) {
    uint32_t magnitude = p[i] & 0x7f, sign = static_cast<uint32_t>(p[i] >> 7) << 31;
    uint32_t bits = bits_of_float(float_of_bits(magnitude << 20) * 0x1p120f) | sign;
    r.v[i] = float_of_bits(magnitude == 0x7f ? 0x7fc00000u : bits);
  }
  return r;
}
inline void load_e2m1(const uint8_t* p, F32x16& even, F32x16& odd) {
  for (int i = 0; i < 16; ++i) {
    even.v[i] = kE2m1Float[p[i] & 15];
    odd.v[i] = kE2m1Float[p[i] >> 4];
  }
}
inline F32x16 e8m0_lanes(const uint8_t* p) {
  F32x16 r;
  for (int i = 0; i < 16; ++i) r.v[i] = e8m0(p[i / 4]);
  return r;
}

inline Bytes64 load_bytes(const void* p) {
  Bytes64 r;
  memcpy(r.v, p, 64);
  return r;
}
inline I32x16 load_i32(const void* p) {
  I32x16 r;
  memcpy(r.v, p, 64);
  return r;
}
inline F32x16 to_f32(I32x16 v) {
  F32x16 r;
  for (int i = 0; i < 16; ++i) r.v[i] = static_cast<float>(v.v[i]);
  return r;
}
inline I32x16 dot_u8i8(I32x16 acc, Bytes64 u, Bytes64 s) {
  for (int i = 0; i < 16; ++i)
    for (int j = 0; j < 4; ++j)
      acc.v[i] += static_cast<int32_t>(u.v[4 * i + j]) * static_cast<int8_t>(s.v[4 * i + j]);
  return acc;
}
inline void e2m1_bytes(Bytes64 b, Bytes64& even, Bytes64& odd) {
  for (int i = 0; i < 64; ++i) {
    even.v[i] = kE2m1Byte[b.v[i] & 15];
    odd.v[i] = kE2m1Byte[b.v[i] >> 4];
  }
}

#endif

#if !KVASIR_SIMD_AVX512
inline uint32_t largest_bits_of_32(const float* x) {
  uint32_t m = 0;
  for (int i = 0; i < 32; ++i) {
    uint32_t u = bits_of_float(x[i]) & 0x7fffffffu;
    m = u > m ? u : m;
  }
  return m;
}
inline void round_32(const float* x, float factor, int8_t* code) {
  for (int i = 0; i < 32; ++i)
    code[i] = static_cast<int8_t>(static_cast<int32_t>((x[i] * factor + 0x1.8p23f) - 0x1.8p23f));
}
inline void split_even_odd(const int8_t* from, int8_t* even, int8_t* odd) {
  for (int i = 0; i < 64; ++i) {
    even[i] = from[2 * i];
    odd[i] = from[2 * i + 1];
  }
}
#endif

}  // namespace kvasir::cpu::KVASIR_ISA
