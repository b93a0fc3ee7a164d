// Vectors of f32 and i32 for the kernels around attention: one set of names, three widths.
//
// Included only by kernel sources, which are compiled once per instruction set; everything lives in that
// set's namespace, so no copy can serve another set's code. F32 and I32 are compiler vectors: + - * / & |
// and comparisons are the language's. All arithmetic here is deterministic: sums have one fixed tree.
#pragma once

#include <cstdint>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace kvasir::cpu::KVASIR_ISA {

#if defined(__AVX512F__)
inline constexpr int kLanes = 16;
#elif defined(__AVX2__)
inline constexpr int kLanes = 8;
#else
inline constexpr int kLanes = 4;
#endif

typedef float F32 __attribute__((vector_size(4 * kLanes)));
typedef int32_t I32 __attribute__((vector_size(4 * kLanes)));  // also the result of comparisons: 0 or -1
typedef uint32_t U32 __attribute__((vector_size(4 * kLanes)));
typedef uint8_t U8 __attribute__((vector_size(kLanes)));
typedef uint16_t U16 __attribute__((vector_size(2 * kLanes)));

template <class V, class T>
inline V load_as(const T* p) {
  V v;
  __builtin_memcpy(&v, p, sizeof(V));
  return v;
}
inline F32 load(const float* p) { return load_as<F32>(p); }
inline void store(float* p, F32 v) { __builtin_memcpy(p, &v, sizeof v); }
inline void store(int32_t* p, I32 v) { __builtin_memcpy(p, &v, sizeof v); }

inline F32 as_float(I32 v) { return (F32)v; }
inline I32 as_int(F32 v) { return (I32)v; }
inline F32 select(I32 mask, F32 yes, F32 no) { return (F32)((mask & (I32)yes) | (~mask & (I32)no)); }
inline F32 abs(F32 v) { return as_float(as_int(v) & 0x7fffffff); }

#if defined(__AVX512F__)

inline F32 splat(float x) { return (F32)_mm512_set1_ps(x); }
inline I32 splat(int32_t x) { return (I32)_mm512_set1_epi32(x); }
inline F32 fma(F32 a, F32 b, F32 c) { return (F32)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
// As the x86 instruction: the second operand when either is NaN.
inline F32 max(F32 a, F32 b) { return (F32)_mm512_max_ps((__m512)a, (__m512)b); }
inline F32 min(F32 a, F32 b) { return (F32)_mm512_min_ps((__m512)a, (__m512)b); }
inline I32 max(I32 a, I32 b) { return (I32)_mm512_max_epi32((__m512i)a, (__m512i)b); }
inline I32 min(I32 a, I32 b) { return (I32)_mm512_min_epi32((__m512i)a, (__m512i)b); }
inline I32 round_to_int(F32 v) { return (I32)_mm512_cvtps_epi32((__m512)v); }
inline F32 to_float(I32 v) { return (F32)_mm512_cvtepi32_ps((__m512i)v); }
inline F32 scale_by_power(F32 v, F32 n) { return (F32)_mm512_scalef_ps((__m512)v, (__m512)n); }
inline F32 dup_even(F32 v) { return (F32)_mm512_moveldup_ps((__m512)v); }
inline F32 dup_odd(F32 v) { return (F32)_mm512_movehdup_ps((__m512)v); }
inline F32 swap_pairs(F32 v) { return (F32)_mm512_permute_ps((__m512)v, 0xb1); }
inline I32 load_u8(const uint8_t* p) { return (I32)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)p)); }
inline void store_low_u8(uint8_t* p, I32 v) {
  _mm_storeu_si128((__m128i*)p, _mm512_cvtepi32_epi8((__m512i)v));
}
inline I32 load_u16(const uint16_t* p) {
  return (I32)_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p));
}
inline void store_low_u16(uint16_t* p, I32 v) {
  _mm256_storeu_si256((__m256i*)p, _mm512_cvtepi32_epi16((__m512i)v));
}
// Bit i: lane i of a comparison is true.
inline uint32_t mask_bits(I32 m) { return _mm512_movepi32_mask((__m512i)m); }
// The lanes of v that `bits` names, packed to the front of p; up to kLanes are written.
inline void store_packed(float* p, F32 v, uint32_t bits) {
  _mm512_storeu_ps(p, _mm512_maskz_compress_ps(static_cast<__mmask16>(bits), (__m512)v));
}
inline void store_packed(int32_t* p, I32 v, uint32_t bits) {
  _mm512_storeu_si512(p, _mm512_maskz_compress_epi32(static_cast<__mmask16>(bits), (__m512i)v));
}

#elif defined(__AVX2__)

inline F32 splat(float x) { return (F32)_mm256_set1_ps(x); }
inline I32 splat(int32_t x) { return (I32)_mm256_set1_epi32(x); }
inline F32 fma(F32 a, F32 b, F32 c) { return (F32)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }
inline F32 max(F32 a, F32 b) { return (F32)_mm256_max_ps((__m256)a, (__m256)b); }
inline F32 min(F32 a, F32 b) { return (F32)_mm256_min_ps((__m256)a, (__m256)b); }
inline I32 max(I32 a, I32 b) { return (I32)_mm256_max_epi32((__m256i)a, (__m256i)b); }
inline I32 min(I32 a, I32 b) { return (I32)_mm256_min_epi32((__m256i)a, (__m256i)b); }
inline I32 round_to_int(F32 v) { return (I32)_mm256_cvtps_epi32((__m256)v); }
inline F32 to_float(I32 v) { return (F32)_mm256_cvtepi32_ps((__m256i)v); }
inline F32 dup_even(F32 v) { return (F32)_mm256_moveldup_ps((__m256)v); }
inline F32 dup_odd(F32 v) { return (F32)_mm256_movehdup_ps((__m256)v); }
inline F32 swap_pairs(F32 v) { return (F32)_mm256_permute_ps((__m256)v, 0xb1); }
inline I32 load_u8(const uint8_t* p) { return (I32)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)p)); }
inline I32 load_u16(const uint16_t* p) {
  return (I32)_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p));
}
inline uint32_t mask_bits(I32 m) { return static_cast<uint32_t>(_mm256_movemask_ps((__m256)m)); }

#else

inline F32 splat(float x) { return F32{x, x, x, x}; }
inline I32 splat(int32_t x) { return I32{x, x, x, x}; }
inline F32 fma(F32 a, F32 b, F32 c) { return a * b + c; }
inline F32 max(F32 a, F32 b) { return select(a > b, a, b); }
inline F32 min(F32 a, F32 b) { return select(a < b, a, b); }
inline I32 max(I32 a, I32 b) { return a > b ? a : b; }
inline I32 min(I32 a, I32 b) { return a < b ? a : b; }
inline F32 to_float(I32 v) { return __builtin_convertvector(v, F32); }
// |v| < 2^22: adding 1.5 * 2^23 rounds to an integer, ties to even, and leaves it in the low bits.
inline I32 round_to_int(F32 v) { return as_int(v + splat(0x1.8p23f)) - splat(0x4b400000); }
inline F32 dup_even(F32 v) { return __builtin_shufflevector(v, v, 0, 0, 2, 2); }
inline F32 dup_odd(F32 v) { return __builtin_shufflevector(v, v, 1, 1, 3, 3); }
inline F32 swap_pairs(F32 v) { return __builtin_shufflevector(v, v, 1, 0, 3, 2); }
inline I32 load_u8(const uint8_t* p) { return I32{p[0], p[1], p[2], p[3]}; }
inline I32 load_u16(const uint16_t* p) { return I32{p[0], p[1], p[2], p[3]}; }
inline uint32_t mask_bits(I32 m) {
  return static_cast<uint32_t>((m[0] & 1) | (m[1] & 2) | (m[2] & 4) | (m[3] & 8));
}

#endif

#if !defined(__AVX512F__)

inline void store_packed(float* p, F32 v, uint32_t bits) {
  for (; bits != 0; bits &= bits - 1) *p++ = v[__builtin_ctz(bits)];
}
inline void store_packed(int32_t* p, I32 v, uint32_t bits) {
  for (; bits != 0; bits &= bits - 1) *p++ = v[__builtin_ctz(bits)];
}
// v * 2^n for whole n in [-252, 254]: two exact powers, so that the product rounds once.
inline F32 scale_by_power(F32 v, F32 n) {
  I32 whole = round_to_int(n), half = whole >> 1;
  return v * as_float((half + 127) << 23) * as_float((whole - half + 127) << 23);
}
inline void store_low_u8(uint8_t* p, I32 v) {
  U8 bytes = __builtin_convertvector((U32)v, U8);
  __builtin_memcpy(p, &bytes, sizeof bytes);
}
inline void store_low_u16(uint16_t* p, I32 v) {
  U16 words = __builtin_convertvector((U32)v, U16);
  __builtin_memcpy(p, &words, sizeof words);
}

#endif

// c + the dot of four bytes a lane: `u` unsigned, `s` signed and the same for every lane. Exact while no pair
// of neighbouring products exceeds 2^15 in sum (AVX2 adds pairs in 16 bits): u <= 96 does for any s.
inline I32 dot_bytes(I32 c, I32 u, int32_t s) {
#if defined(__AVX512VNNI__)
  return (I32)_mm512_dpbusd_epi32((__m512i)c, (__m512i)u, _mm512_set1_epi32(s));
#elif defined(__AVX2__)
  __m256i pairs = _mm256_maddubs_epi16((__m256i)u, _mm256_set1_epi32(s));
  return c + (I32)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
#else
  for (int i = 0; i < 4; ++i)
    c += ((u >> (8 * i)) & 0xff) * static_cast<int32_t>(static_cast<int8_t>(s >> (8 * i)));
  return c;
#endif
}

// Sum and maximum over the lanes, by halving.
inline float sum(F32 v) {
#if defined(__AVX512F__)
  __m512 w = (__m512)v;
  __m256 h = _mm256_add_ps(_mm512_castps512_ps256(w), _mm512_extractf32x8_ps(w, 1));
  __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
  q = _mm_add_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
#elif defined(__AVX2__)
  __m256 h = (__m256)v;
  __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
  q = _mm_add_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
#else
  return (v[0] + v[2]) + (v[1] + v[3]);
#endif
}
inline float max_of(F32 v) {
#if defined(__AVX512F__)
  return _mm512_reduce_max_ps((__m512)v);
#else
  float m = v[0];
  for (int i = 1; i < kLanes; ++i) m = v[i] > m ? v[i] : m;
  return m;
#endif
}

inline I32 lane_numbers() {
  I32 v;
  for (int i = 0; i < kLanes; ++i) v[i] = i;
  return v;
}

// x rounded to the bf16 grid, ties to even; NaN stays NaN. The same as round_bf16 of tensor/dtype.h.
inline F32 round_bf16(F32 x) {
  I32 u = as_int(x);
  I32 rounded = (u + 0x7fff + ((u >> 16) & 1)) & static_cast<int32_t>(0xffff0000);
  return select(x == x, as_float(rounded), as_float(u | 0x00400000));
}
inline F32 load_bf16(const uint16_t* p) { return as_float(load_u16(p) << 16); }
inline void store_bf16(uint16_t* p, F32 v) { store_low_u16(p, as_int(round_bf16(v)) >> 16); }

// e^x: error <= 2 ulp of the result for x in [-87.3, 88.7], 0 below about -104, infinity above, NaN stays
// NaN. x = n ln 2 + r with |r| <= ln2/2; the Taylor sum to r^7 is off by r^8/8! < 0.1 ulp.
inline F32 exp(F32 x) {
  F32 c = max(splat(-110.f), min(splat(100.f), x));  // second operands, so that NaN passes
  I32 whole = round_to_int(c * splat(0x1.715476p+0f));
  F32 n = to_float(whole);
  F32 r = fma(n, splat(-0x1.62ep-1f), c);  // ln 2 in 12 bits: the product is exact for |n| < 2^11
  r = fma(n, splat(-0x1.0bfbe8p-15f), r);  // the rest of ln 2
  F32 p = splat(1.f / 5040);
  p = fma(p, r, splat(1.f / 720));
  p = fma(p, r, splat(1.f / 120));
  p = fma(p, r, splat(1.f / 24));
  p = fma(p, r, splat(1.f / 6));
  p = fma(p, r, splat(0.5f));
  p = fma(p * r, r, r) + splat(1.f);
  return select(x == x, scale_by_power(p, n), x);
}

}  // namespace kvasir::cpu::KVASIR_ISA
