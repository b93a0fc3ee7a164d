// Stored e4m3 values with power-of-two scales to bf16, by bits; copies from global to shared memory that do
// not wait.
//
// sign << 15 | low7 << 4, read as bf16, is the e4m3 value times 2^-120, subnormals included. One product by
// 2^(120 + s) finishes exactly: e4m3 has fewer bits than bf16.
#pragma once

#include <cstdint>

namespace kvasir::cuda::sm90 {

__device__ __forceinline__ uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

__device__ __forceinline__ void copy_16(uint32_t to, const void* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}
__device__ __forceinline__ void copy_8(uint32_t to, const void* from) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" ::"r"(to), "l"(from) : "memory");
}
__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Until no more than `kLeft` groups of this thread are under way.
template <int kLeft>
__device__ __forceinline__ void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kLeft) : "memory");
}

__device__ __forceinline__ uint32_t multiply_bf16x2(uint32_t a, uint32_t b) {
  uint32_t d;
  asm("mul.rn.bf16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
  return d;
}
__device__ __forceinline__ uint32_t pack_bf16x2(float low, float high) {
  uint32_t d;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(d) : "f"(high), "f"(low));
  return d;
}

// What finishes the product, twice over: 2^(120 + s), or the largest power that bf16 has (scales above 2^7,
// see lacking()).
__device__ __forceinline__ uint32_t scale_factor(uint32_t code) {  // e8m0, of 2^(code - 127)
  return min(code + 120, 254u) * 0x00800080u;
}
// Whether any of four scales is above 2^7, and what then is left to multiply by.
__device__ __forceinline__ bool any_lacking(uint32_t codes) { return __vcmpgtu4(codes, 0x86868686u) != 0; }
__device__ __forceinline__ uint32_t lacking(uint32_t code) {
  return (max(code, 134u) - 134 + 127) * 0x00800080u;
}

// Values 2 * kPair and 2 * kPair + 1 of the four in `word`.
template <int kPair>
__device__ __forceinline__ uint32_t bf16_pair(uint32_t word, uint32_t factor) {
  uint32_t high =
      __byte_perm(word, 0, kPair == 0 ? 0x1404 : 0x3424);  // each value in the upper byte of its half
  return multiply_bf16x2((high & 0x80008000u) | ((high >> 4) & 0x07f007f0u), factor);
}

// Eight values.
__device__ __forceinline__ uint4 bf16_values(uint2 codes, uint32_t factor) {
  return {bf16_pair<0>(codes.x, factor), bf16_pair<1>(codes.x, factor), bf16_pair<0>(codes.y, factor),
          bf16_pair<1>(codes.y, factor)};
}
__device__ __forceinline__ uint4 multiply_values(uint4 v, uint32_t factor) {
  return {multiply_bf16x2(v.x, factor), multiply_bf16x2(v.y, factor), multiply_bf16x2(v.z, factor),
          multiply_bf16x2(v.w, factor)};
}

__device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

}  // namespace kvasir::cuda::sm90
