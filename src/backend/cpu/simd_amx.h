// AMX tile products of bf16, by own assembly: g++ 12 declares neither the memory that its tile intrinsics
// read nor all of a configuration, and removes stores to both (spec/dependencies.md, trap 1).
//
// Registers: 0..3 sums, 4 and 5 first factors, 6 and 7 second factors. A first factor holds 16 rows of 32
// neighbours of the summed dimension, a second factor 16 pairs of neighbours times 16 columns.
#pragma once

#include <stdint.h>

#if KVASIR_ISA_amx
#define KVASIR_ISA_IS_AMX true
#else
#define KVASIR_ISA_IS_AMX false
#endif

#if KVASIR_ISA_amx && KVASIR_EMULATE_AMX

#include "backend/cpu/simd_amx_emulated.h"

#elif KVASIR_ISA_amx

namespace kvasir::cpu::KVASIR_ISA {

// All tiles have 16 rows of 64 bytes, but for the first factors and sums that have fewer: `rows0` in factor 4
// and sums 0 and 1, `rows1` in factor 5 and sums 2 and 3.
inline void tiles_open(int rows0 = 16, int rows1 = 16) {
  struct {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {};
  } config;
  static_assert(sizeof(config) == 64);
  const auto r0 = static_cast<uint8_t>(rows0), r1 = static_cast<uint8_t>(rows1);
  const uint8_t rows[8] = {r0, r0, r1, r1, r0, r1, 16, 16};
  for (int i = 0; i < 8; ++i) config.rows[i] = rows[i];
  __asm__ volatile("ldtilecfg %0" : : "m"(config));
}
// Also tells the kernel that there is no tile state to save at the next switch of threads.
inline void tiles_close() { __asm__ volatile("tilerelease" : : : "memory"); }

// Sums (first factor, second factor): 0 = (0, 0), 1 = (0, 1), 2 = (1, 0), 3 = (1, 1).
inline void tiles_zero() {
  __asm__ volatile("tilezero %%tmm0\n\ttilezero %%tmm1\n\ttilezero %%tmm2\n\ttilezero %%tmm3" : : : "memory");
}
// Sum kSum from and to 16 rows of 16 floats, `stride` bytes apart.
template <int kSum>
inline void tile_load(const float* from, int64_t stride) {
  if constexpr (kSum == 0)
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm0" : : "r"(from), "r"(stride) : "memory");
  if constexpr (kSum == 1)
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm1" : : "r"(from), "r"(stride) : "memory");
  if constexpr (kSum == 2)
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm2" : : "r"(from), "r"(stride) : "memory");
  if constexpr (kSum == 3)
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm3" : : "r"(from), "r"(stride) : "memory");
}
template <int kSum>
inline void tile_store(float* to, int64_t stride) {
  if constexpr (kSum == 0)
    __asm__ volatile("tilestored %%tmm0, (%0,%1,1)" : : "r"(to), "r"(stride) : "memory");
  if constexpr (kSum == 1)
    __asm__ volatile("tilestored %%tmm1, (%0,%1,1)" : : "r"(to), "r"(stride) : "memory");
  if constexpr (kSum == 2)
    __asm__ volatile("tilestored %%tmm2, (%0,%1,1)" : : "r"(to), "r"(stride) : "memory");
  if constexpr (kSum == 3)
    __asm__ volatile("tilestored %%tmm3, (%0,%1,1)" : : "r"(to), "r"(stride) : "memory");
}
// Two first factors (rows `a_stride` bytes apart) times two second factors (`b_stride`).
inline void tiles_multiply_2x2(const void* a0, const void* a1, int64_t a_stride, const void* b0,
                               const void* b1, int64_t b_stride) {
  __asm__ volatile(
      "tileloadd (%2,%5,1), %%tmm6\n\t"
      "tileloadd (%0,%4,1), %%tmm4\n\t"
      "tileloadd (%3,%5,1), %%tmm7\n\t"
      "tileloadd (%1,%4,1), %%tmm5\n\t"
      "tdpbf16ps %%tmm6, %%tmm4, %%tmm0\n\t"
      "tdpbf16ps %%tmm7, %%tmm4, %%tmm1\n\t"
      "tdpbf16ps %%tmm6, %%tmm5, %%tmm2\n\t"
      "tdpbf16ps %%tmm7, %%tmm5, %%tmm3"
      :
      : "r"(a0), "r"(a1), "r"(b0), "r"(b1), "r"(a_stride), "r"(b_stride)
      : "memory");
}
// Two first factors times one second factor: sums 0 and 2.
inline void tiles_multiply_2x1(const void* a0, const void* a1, int64_t a_stride, const void* b0,
                               int64_t b_stride) {
  __asm__ volatile(
      "tileloadd (%2,%4,1), %%tmm6\n\t"
      "tileloadd (%0,%3,1), %%tmm4\n\t"
      "tileloadd (%1,%3,1), %%tmm5\n\t"
      "tdpbf16ps %%tmm6, %%tmm4, %%tmm0\n\t"
      "tdpbf16ps %%tmm6, %%tmm5, %%tmm2"
      :
      : "r"(a0), "r"(a1), "r"(b0), "r"(a_stride), "r"(b_stride)
      : "memory");
}
}  // namespace kvasir::cpu::KVASIR_ISA

#endif

#if KVASIR_ISA_amx

namespace kvasir::cpu::KVASIR_ISA {

inline void tiles_load(const float* s0, const float* s1, const float* s2, const float* s3, int64_t stride) {
  tile_load<0>(s0, stride);
  tile_load<1>(s1, stride);
  tile_load<2>(s2, stride);
  tile_load<3>(s3, stride);
}
inline void tiles_store(float* s0, float* s1, float* s2, float* s3, int64_t stride) {
  tile_store<0>(s0, stride);
  tile_store<1>(s1, stride);
  tile_store<2>(s2, stride);
  tile_store<3>(s3, stride);
}

}  // namespace kvasir::cpu::KVASIR_ISA

#endif
