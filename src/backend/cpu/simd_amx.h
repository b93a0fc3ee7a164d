// AMX tile products of bf16, by own assembly: g++ 12 declares neither the memory that its tile intrinsics
// read nor all of a configuration, and removes stores to both (spec/dependencies.md, trap 1).
//
// Registers: 0..3 sums (input tile, panel), 4 and 5 inputs, 6 and 7 weights; all 16 rows of 64 bytes.
#pragma once

#include <stdint.h>

namespace kvasir::cpu::KVASIR_ISA {

#if KVASIR_ISA_amx
#define KVASIR_ISA_IS_AMX true

inline void tiles_open() {
  struct {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
  } config;
  static_assert(sizeof(config) == 64);
  __asm__ volatile("ldtilecfg %0" : : "m"(config));
}
// Also tells the kernel that there is no tile state to save at the next switch of threads.
inline void tiles_close() { __asm__ volatile("tilerelease" : : : "memory"); }

inline void tiles_zero() {
  __asm__ volatile("tilezero %%tmm0\n\ttilezero %%tmm1\n\ttilezero %%tmm2\n\ttilezero %%tmm3" : : : "memory");
}
inline void tiles_multiply_2x2(const uint8_t* x0, const uint8_t* x1, const uint8_t* w0, const uint8_t* w1) {
  __asm__ volatile(
      "tileloadd (%2,%4,1), %%tmm6\n\t"
      "tileloadd (%0,%4,1), %%tmm4\n\t"
      "tileloadd (%3,%4,1), %%tmm7\n\t"
      "tileloadd (%1,%4,1), %%tmm5\n\t"
      "tdpbf16ps %%tmm6, %%tmm4, %%tmm0\n\t"
      "tdpbf16ps %%tmm7, %%tmm4, %%tmm1\n\t"
      "tdpbf16ps %%tmm6, %%tmm5, %%tmm2\n\t"
      "tdpbf16ps %%tmm7, %%tmm5, %%tmm3"
      :
      : "r"(x0), "r"(x1), "r"(w0), "r"(w1), "r"(int64_t{64})
      : "memory");
}
inline void tiles_multiply_1x2(const uint8_t* x0, const uint8_t* w0, const uint8_t* w1) {
  __asm__ volatile(
      "tileloadd (%1,%3,1), %%tmm6\n\t"
      "tileloadd (%0,%3,1), %%tmm4\n\t"
      "tileloadd (%2,%3,1), %%tmm7\n\t"
      "tdpbf16ps %%tmm6, %%tmm4, %%tmm0\n\t"
      "tdpbf16ps %%tmm7, %%tmm4, %%tmm1"
      :
      : "r"(x0), "r"(w0), "r"(w1), "r"(int64_t{64})
      : "memory");
}
inline void tiles_store(float (*sums)[16][16]) {
  __asm__ volatile(
      "tilestored %%tmm0, (%0,%4,1)\n\t"
      "tilestored %%tmm1, (%1,%4,1)\n\t"
      "tilestored %%tmm2, (%2,%4,1)\n\t"
      "tilestored %%tmm3, (%3,%4,1)"
      :
      : "r"(sums[0]), "r"(sums[1]), "r"(sums[2]), "r"(sums[3]), "r"(int64_t{64})
      : "memory");
}

#else
#define KVASIR_ISA_IS_AMX false

inline void tiles_open() {}
inline void tiles_close() {}

#endif

}  // namespace kvasir::cpu::KVASIR_ISA
