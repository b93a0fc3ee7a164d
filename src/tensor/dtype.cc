// Tables and roundings of dtype.h. Encoders work on exact arithmetic in f32: every candidate value
// and every midpoint of e4m3 and e2m1 is representable, so comparing is exact.
#include "tensor/dtype.h"

#include <array>
#include <limits>

namespace kvasir {
namespace {

struct Name {
  DType type;
  std::string_view name;
  int bits;
};
constexpr std::array<Name, 13> kNames = {{
    {DType::kF64, "F64", 64}, {DType::kF32, "F32", 32}, {DType::kF16, "F16", 16}, {DType::kBF16, "BF16", 16},
    {DType::kF8E4M3, "F8_E4M3", 8}, {DType::kF8E8M0, "F8_E8M0", 8}, {DType::kF4, "F4", 4}, {DType::kI8, "I8", 8},
    {DType::kU8, "U8", 8}, {DType::kI16, "I16", 16}, {DType::kI32, "I32", 32}, {DType::kI64, "I64", 64},
    {DType::kBool, "BOOL", 8},
}};

constexpr std::array<float, 256> make_e4m3_values() {
  std::array<float, 256> t{};
  for (int c = 0; c < 256; ++c) {
    int exponent = (c >> 3) & 15, mantissa = c & 7;
    float v = exponent == 0 ? static_cast<float>(mantissa) : static_cast<float>(8 + mantissa);
    for (int e = exponent == 0 ? -9 : exponent - 10; e != 0; e += e < 0 ? 1 : -1) v = e < 0 ? v / 2 : v * 2;
    if ((c & 0x7f) == 0x7f) v = std::numeric_limits<float>::quiet_NaN();
    t[c] = (c & 0x80) ? -v : v;
  }
  return t;
}

}  // namespace

// constinit, so that no static initialiser can read it too early.
constinit const std::array<float, 256> kE4m3Values = make_e4m3_values();

int dtype_bits(DType t) {
  for (const Name& n : kNames)
    if (n.type == t) return n.bits;
  return 0;
}

std::string_view dtype_name(DType t) {
  for (const Name& n : kNames)
    if (n.type == t) return n.name;
  return "?";
}

bool parse_dtype(std::string_view name, DType& out) {
  for (const Name& n : kNames) {
    if (n.name == name) {
      out = n.type;
      return true;
    }
  }
  return false;
}

uint8_t float_to_e4m3(float x) {
  uint32_t u = std::bit_cast<uint32_t>(x);
  uint8_t sign = static_cast<uint8_t>((u >> 24) & 0x80);
  float a = std::fabs(x);
  if (std::isnan(x)) return 0x7f;
  if (a >= 448.f) return sign | 0x7e;
  if (a < 0x1p-6f) {  // subnormal: multiples of 2^-9; rint rounds ties to even
    return sign | static_cast<uint8_t>(std::nearbyintf(a * 0x1p9f));  // 8 rolls over into the first normal code
  }
  uint32_t b = std::bit_cast<uint32_t>(a);
  b += 0x7ffffu + ((b >> 20) & 1);  // round to 3 mantissa bits, ties to even; may carry into the exponent
  uint32_t code = ((b >> 20) - ((127 - 7) << 3));
  return sign | static_cast<uint8_t>(code > 0x7e ? 0x7e : code);
}

uint8_t float_to_e2m1(float x) {
  float a = std::fabs(x);
  uint8_t sign = std::signbit(x) ? 8 : 0;
  // Midpoints between neighbours; a tie goes to the even code.
  uint8_t c;
  if (a <= 0.25f) c = 0;
  else if (a < 0.75f) c = 1;
  else if (a <= 1.25f) c = 2;
  else if (a < 1.75f) c = 3;
  else if (a <= 2.5f) c = 4;
  else if (a < 3.5f) c = 5;
  else if (a <= 5.f) c = 6;
  else c = 7;
  return sign | c;
}

}  // namespace kvasir
