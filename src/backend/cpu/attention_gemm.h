// The matrix product inside attention: C[m][n] = c0 + sum_k A[m][k] . B[k][n], for kernel sources only.
//
// A and B hold 32-bit units: one f32, or two neighbours of the summed dimension in bf16 (AVX-512), so one
// loop serves q.K and p.V in both. Each element of C is a single chain over k in ascending order: its bits do
// not depend on M, N or where the tiles fall. AMX takes the bf16 products.
#pragma once

#include "backend/cpu/simd_amx.h"
#include "backend/cpu/simd_attention.h"

namespace kvasir::cpu::KVASIR_ISA {

struct UnitF32 {
  static constexpr int kValues = 1;
  static F32 dot(F32 c, const uint32_t* a, F32 b) {
    float x;
    __builtin_memcpy(&x, a, 4);
    return fma(splat(x), b, c);
  }
};

#if defined(__AVX512BF16__)
struct UnitBf16 {
  static constexpr int kValues = 2;
  static F32 dot(F32 c, const uint32_t* a, F32 b) {
    return (F32)_mm512_dpbf16_ps((__m512)c, (__m512bh)_mm512_set1_epi32(static_cast<int>(*a)), (__m512bh)b);
  }
};
inline constexpr int kTileRows = 6, kTileVectors = 4;  // 24 sums, 4 of B and one broadcast in 32 registers
#else
inline constexpr int kTileRows = 6, kTileVectors = 2;  // 12 sums in 16 registers
#endif

enum class From { kZero, kC, kScaledC };  // what the sums start from: 0, C, or C[m][:] * rescale[m]

struct Product {
  const uint32_t* a = nullptr;
  int64_t lda = 0;
  const uint32_t* b = nullptr;
  int64_t ldb = 0;
  float* c = nullptr;
  int64_t ldc = 0;
  const float* rescale = nullptr;
};

template <class Unit, int kRows, int kVectors>
inline void product_tile(const Product& p, int64_t m, int64_t n, int64_t steps, From from) {
  F32 acc[kRows][kVectors];
  float* c = p.c + m * p.ldc + n;
  if (from == From::kZero) {
    for (auto& row : acc)
      for (F32& x : row) x = splat(0.f);
  } else if (from == From::kC) {
    for (int i = 0; i < kRows; ++i)
      for (int j = 0; j < kVectors; ++j) acc[i][j] = load(c + i * p.ldc + j * kLanes);
  } else {
    for (int i = 0; i < kRows; ++i)
      for (int j = 0; j < kVectors; ++j)
        acc[i][j] = load(c + i * p.ldc + j * kLanes) * splat(p.rescale[m + i]);
  }
  const uint32_t* a = p.a + m * p.lda;
  const uint32_t* b = p.b + n;
  for (int64_t k = 0; k < steps; ++k, b += p.ldb) {
    F32 row[kVectors];
    for (int j = 0; j < kVectors; ++j) row[j] = load_as<F32>(b + j * kLanes);
    for (int i = 0; i < kRows; ++i)
      for (int j = 0; j < kVectors; ++j) acc[i][j] = Unit::dot(acc[i][j], a + i * p.lda + k, row[j]);
  }
  for (int i = 0; i < kRows; ++i)
    for (int j = 0; j < kVectors; ++j) store(c + i * p.ldc + j * kLanes, acc[i][j]);
}

template <class Unit, int kVectors>
inline void product_panel(const Product& p, int64_t rows, int64_t n, int64_t steps, From from) {
  int64_t m = 0;
  for (; m + kTileRows <= rows; m += kTileRows) product_tile<Unit, kTileRows, kVectors>(p, m, n, steps, from);
  for (; m + 4 <= rows; m += 4) product_tile<Unit, 4, kVectors>(p, m, n, steps, from);
  for (; m + 2 <= rows; m += 2) product_tile<Unit, 2, kVectors>(p, m, n, steps, from);
  for (; m < rows; ++m) product_tile<Unit, 1, kVectors>(p, m, n, steps, from);
}

#if KVASIR_ISA_amx

// Keys of a tile are padded with zeros to whole tile registers: 16 pairs.
inline constexpr int64_t kKeyEdge = 32;

inline void scale_rows(const Product& p, int64_t rows, int64_t columns) {
  for (int64_t m = 0; m < rows; ++m) {
    if (p.rescale[m] == 1.f) continue;
    float* c = p.c + m * p.ldc;
    for (int64_t n = 0; n < columns; n += kLanes) store(c + n, load(c + n) * splat(p.rescale[m]));
  }
}

// C in squares of 32. Where the second rows of a square are missing, the first are computed twice.
inline void tile_product(const Product& p, int64_t rows, int64_t columns, int64_t steps, From from) {
  if (from == From::kScaledC) scale_rows(p, rows, columns);
  const int64_t a_bytes = 4 * p.lda, b_bytes = 4 * p.ldb, c_bytes = 4 * p.ldc;
  for (int64_t m = 0; m < rows; m += 32) {
    const int64_t left = rows - m, first = left < 16 ? left : 16, second = left < 32 ? left - first : 16;
    tiles_open(static_cast<int>(first), static_cast<int>(second > 0 ? second : first));
    const uint32_t* a0 = p.a + m * p.lda;
    const uint32_t* a1 = second > 0 ? a0 + 16 * p.lda : a0;
    for (int64_t n = 0; n < columns; n += 32) {
      const bool two = n + 16 < columns;
      float* c0 = p.c + m * p.ldc + n;
      float* c2 = c0 + 16 * p.ldc;
      if (from == From::kZero) {
        tiles_zero();
      } else {
        tile_load<0>(c0, c_bytes);
        if (two) tile_load<1>(c0 + 16, c_bytes);
        if (second > 0) tile_load<2>(c2, c_bytes);
        if (two && second > 0) tile_load<3>(c2 + 16, c_bytes);
      }
      for (int64_t k = 0; k < steps; k += 16) {
        const uint32_t* b = p.b + k * p.ldb + n;
        two ? tiles_multiply_2x2(a0 + k, a1 + k, a_bytes, b, b + 16, b_bytes)
            : tiles_multiply_2x1(a0 + k, a1 + k, a_bytes, b, b_bytes);
      }
      tile_store<0>(c0, c_bytes);
      if (two) tile_store<1>(c0 + 16, c_bytes);
      if (second > 0) tile_store<2>(c2, c_bytes);
      if (two && second > 0) tile_store<3>(c2 + 16, c_bytes);
    }
  }
  tiles_close();
}

#else
inline constexpr int64_t kKeyEdge = kLanes;
#endif

// `columns` is a multiple of kLanes. Panels of B outside, rows inside: a panel stays in the first cache.
template <class Unit>
inline void product(const Product& p, int64_t rows, int64_t columns, int64_t steps, From from) {
#if KVASIR_ISA_amx
  if constexpr (Unit::kValues == 2) return tile_product(p, rows, columns, steps, from);
#endif
  int64_t n = 0;
  for (; n + kTileVectors * kLanes <= columns; n += kTileVectors * kLanes)
    product_panel<Unit, kTileVectors>(p, rows, n, steps, from);
  for (; n + 2 * kLanes <= columns; n += 2 * kLanes) product_panel<Unit, 2>(p, rows, n, steps, from);
  for (; n < columns; n += kLanes) product_panel<Unit, 1>(p, rows, n, steps, from);
}

}  // namespace kvasir::cpu::KVASIR_ISA
