// Element types of checkpoints and caches, and their exact conversions.
//
// Names and bit layouts follow the safetensors dtypes that V4 checkpoints use. All conversions
// round to nearest, ties to even, and saturate where the format has no infinity.
// Source: spec A.1 (E4M3, E2M1, E8M0), OCP Microscaling formats v1.0.
#pragma once

#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <string_view>

namespace kvasir {

enum class DType : uint8_t {
  kF64, kF32, kF16, kBF16,
  kF8E4M3,  // 1 sign, 4 exponent (bias 7), 3 mantissa; max 448, 0x7F/0xFF are NaN, no infinity
  kF8E8M0,  // a power of two: 2^(byte-127); 255 is NaN
  kF4,      // packed e2m1, two values a byte, low nibble first (safetensors "F4")
  kI8,      // in V4 expert weights: a byte of two packed e2m1 values, low nibble first
  kU8, kI16, kI32, kI64, kBool,
};

// Bits of one element as stored; kF4 is 4, everything else a multiple of 8.
int dtype_bits(DType t);
// The safetensors spelling: "F32", "F8_E4M3", ...
std::string_view dtype_name(DType t);
// False when the name is unknown.
bool parse_dtype(std::string_view name, DType& out);

// bfloat16 as stored. Arithmetic happens in float.
struct bf16 {
  uint16_t bits = 0;
};

inline float to_float(bf16 x) { return std::bit_cast<float>(static_cast<uint32_t>(x.bits) << 16); }

inline bf16 to_bf16(float x) {
  uint32_t u = std::bit_cast<uint32_t>(x);
  if ((u & 0x7fffffffu) > 0x7f800000u) return {static_cast<uint16_t>((u >> 16) | 0x40)};  // NaN stays NaN
  return {static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1)) >> 16)};
}

// x rounded to the bf16 grid, as a float.
inline float round_bf16(float x) { return to_float(to_bf16(x)); }

// e4m3 code -> value, all 256 of them. Codes 0x7F and 0xFF are NaN.
extern const std::array<float, 256> kE4m3Values;
inline float e4m3_to_float(uint8_t code) { return kE4m3Values[code]; }
// Nearest e4m3 code; |x| above 448 saturates, NaN becomes 0x7F.
uint8_t float_to_e4m3(float x);

// e2m1 (FP4): nibble -> {0, .5, 1, 1.5, 2, 3, 4, 6}, bit 3 is the sign.
inline float e2m1_to_float(uint8_t nibble) {
  constexpr float kTable[8] = {0.f, .5f, 1.f, 1.5f, 2.f, 3.f, 4.f, 6.f};
  float v = kTable[nibble & 7];
  return (nibble & 8) ? -v : v;
}
// Nearest nibble; ties go to the even code (0.25 -> 0, 0.75 -> 1, 1.25 -> 1, ..., 5 -> 4), saturates at 6.
uint8_t float_to_e2m1(float x);

// e8m0 byte -> 2^(byte-127). Byte 255 is NaN; loaders reject it.
inline float e8m0_to_float(uint8_t byte) {
  if (byte == 0) return std::bit_cast<float>(0x00400000u);  // 2^-127 is subnormal in f32
  if (byte == 255) return std::bit_cast<float>(0x7fc00000u);
  return std::bit_cast<float>(static_cast<uint32_t>(byte) << 23);
}

// The dynamic activation scale of spec A.2: the smallest power of two 2^k with amax/2^k <= max_code,
// computed as k = ceil(log2(amax * (1/max_code))) from the f32 bits. `amax` must be > 0.
// Returned as the e8m0 byte k + 127.
inline uint8_t e8m0_scale_for(float amax, float max_code) {
  uint32_t u = std::bit_cast<uint32_t>(amax * (1.0f / max_code));
  return static_cast<uint8_t>((u >> 23) + ((u & 0x7fffffu) != 0));
}

}  // namespace kvasir
