// Encoding and decoding of cache rows; formats in kv_page.h.
#include "ops/kv_page.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/check.h"
#include "tensor/dtype.h"

namespace kvasir {

std::string_view numerics_name(Numerics n) {
  switch (n) {
    case Numerics::kExact: return "exact";
    case Numerics::kNative: return "native";
    case Numerics::kFast: return "fast";
  }
  return "?";
}

bool parse_numerics(std::string_view text, Numerics& out) {
  for (Numerics n : {Numerics::kExact, Numerics::kNative, Numerics::kFast}) {
    if (numerics_name(n) == text) {
      out = n;
      return true;
    }
  }
  return false;
}

KvRowFormat KvRowFormat::entry(Numerics numerics, int head_dim, int rope_dim) {
  KvRowFormat f;
  f.quantised = numerics != Numerics::kExact;
  f.dim = head_dim;
  f.rope_dim = rope_dim;
  int nope = head_dim - rope_dim;
  KVASIR_CHECK(nope > 0 && nope % 64 == 0, "head_dim {} less rope_dim {} is not a multiple of 64", head_dim, rope_dim);
  f.data_bytes = f.quantised ? nope + 2 * rope_dim : 4 * head_dim;
  f.scale_bytes = f.quantised ? (nope / 64 + 7) / 8 * 8 : 0;
  return f;
}

KvRowFormat KvRowFormat::index_key(Numerics numerics, int index_dim) {
  KvRowFormat f;
  f.quantised = numerics != Numerics::kExact;
  f.dim = index_dim;
  KVASIR_CHECK(index_dim % 32 == 0, "index_head_dim {} is not a multiple of 32", index_dim);
  f.data_bytes = f.quantised ? index_dim / 2 : 4 * index_dim;
  f.scale_bytes = f.quantised ? index_dim / 32 : 0;
  return f;
}

void encode_row(const KvRowFormat& f, const float* values, std::byte* data, std::byte* scale) {
  if (!f.quantised) {
    std::memcpy(data, values, sizeof(float) * f.dim);
    return;
  }
  auto* bytes = reinterpret_cast<uint8_t*>(data);
  auto* scales = reinterpret_cast<uint8_t*>(scale);
  if (f.rope_dim == 0) {  // index key: e2m1 per 32, amax floor 6 * 2^-126 (spec A.3)
    for (int b = 0; b < f.dim / 32; ++b) {
      float amax = 6 * 0x1p-126f;
      for (int i = 0; i < 32; ++i) amax = std::max(amax, std::fabs(values[32 * b + i]));
      scales[b] = e8m0_scale_for(amax, 6.f);
      float s = e8m0_to_float(scales[b]);
      for (int i = 0; i < 32; i += 2) {
        uint8_t lo = float_to_e2m1(values[32 * b + i] / s), hi = float_to_e2m1(values[32 * b + i + 1] / s);
        bytes[16 * b + i / 2] = static_cast<uint8_t>(lo | hi << 4);
      }
    }
    return;
  }
  int nope = f.dim - f.rope_dim;
  std::memset(scales, 0, f.scale_bytes);
  for (int b = 0; b < nope / 64; ++b) {
    float amax = 1e-4f;
    for (int i = 0; i < 64; ++i) amax = std::max(amax, std::fabs(values[64 * b + i]));
    scales[b] = e8m0_scale_for(amax, 448.f);
    float s = e8m0_to_float(scales[b]);
    for (int i = 0; i < 64; ++i) bytes[64 * b + i] = float_to_e4m3(values[64 * b + i] / s);
  }
  for (int i = 0; i < f.rope_dim; ++i) {
    bf16 r = to_bf16(values[nope + i]);
    std::memcpy(bytes + nope + 2 * i, &r, 2);
  }
}

void decode_row(const KvRowFormat& f, const std::byte* data, const std::byte* scale, float* values) {
  if (!f.quantised) {
    std::memcpy(values, data, sizeof(float) * f.dim);
    return;
  }
  const auto* bytes = reinterpret_cast<const uint8_t*>(data);
  const auto* scales = reinterpret_cast<const uint8_t*>(scale);
  if (f.rope_dim == 0) {
    for (int i = 0; i < f.dim; ++i) {
      uint8_t nibble = (i & 1) ? bytes[i / 2] >> 4 : bytes[i / 2] & 15;
      values[i] = e2m1_to_float(nibble) * e8m0_to_float(scales[i / 32]);
    }
    return;
  }
  int nope = f.dim - f.rope_dim;
  for (int i = 0; i < nope; ++i) values[i] = e4m3_to_float(bytes[i]) * e8m0_to_float(scales[i / 64]);
  for (int i = 0; i < f.rope_dim; ++i) {
    bf16 r;
    std::memcpy(&r, bytes + nope + 2 * i, 2);
    values[nope + i] = to_float(r);
  }
}

}  // namespace kvasir
