// Activations in the form a route wants, and the element-wise part of the experts. Plain loops that the
// compiler vectorises for the instruction set this copy is built for; included by linear_kernels.cc only.
//
// A packed row is cut into records of 128 columns, the last one padded with zeros:
//   float record   128 floats                                 then, behind all records, a float scale per
//   record bf16 record    128 bf16                                   likewise int8 record    64 even + 64 odd
//   codes, 16 int32, 16 floats: see Int8Record
#pragma once

#include "backend/cpu/linear_kernels.h"
#include "backend/cpu/simd.h"

namespace kvasir::cpu::KVASIR_ISA {

inline constexpr int kBlock = 128;

// Lane l of a block holds columns 8l .. 8l+7, so a group of 32 columns is four lanes.
struct Int8Record {
  int8_t even[64];    // columns 0, 2, 4 ...
  int8_t odd[64];     // columns 1, 3, 5 ...
  int32_t start[16];  // -kE2m1Bias times the sum of the lane's codes: undoes the bias of e2m1_bytes
  float scale[16];    // of the lane's group
};

inline int64_t blocks_of(int64_t cols) { return (cols + kBlock - 1) / kBlock; }

// Largest magnitude as float bits; NaN counts as larger than everything.
inline uint32_t largest_bits(const float* x, int count) {
  uint32_t m = 0;
  for (int i = 0; i < count; i += 32) {
    const uint32_t u = largest_bits_of_32(x + i);
    m = u > m ? u : m;
  }
  return m;
}

inline float round_e4m3(float x) {
  uint32_t u = bits_of_float(x);
  float magnitude = float_of_bits(u & 0x7fffffffu);
  float normal = float_of_bits((u + 0x7ffffu + ((u >> 20) & 1)) & 0x7ff00000u);
  float tiny = (magnitude + 0x1.8p14f) - 0x1.8p14f;  // multiples of 2^-9, ties to even
  float r = magnitude < 0x1p-6f ? tiny : normal;
  r = r > 448.f ? 448.f : r;
  return float_of_bits(bits_of_float(r) | (u & 0x80000000u));
}

// v becomes its e4m3 codes' values; returns the power-of-two scale (spec A.2).
inline float quantise_e4m3(float v[kBlock]) {
  constexpr uint32_t kFloor = 0x38d1b717;  // 1e-4f
  uint32_t largest = largest_bits(v, kBlock);
  if (largest < kFloor) largest = kFloor;
  uint32_t u = bits_of_float(float_of_bits(largest) * (1.0f / 448.0f));
  uint32_t byte = (u >> 23) + ((u & 0x7fffffu) != 0);
  if (byte > 254) byte = 254;  // infinities and NaN: 0 * x below is NaN, as it should be
  float inverse = float_of_bits((254 - byte) << 23);
  for (int i = 0; i < kBlock; ++i) v[i] = round_e4m3(v[i] * inverse);
  return float_of_bits(byte << 23);
}

// 32 values to int8 codes; returns the scale, 1 when all codes are zero. Values that are not finite make it
// NaN.
inline float quantise_int8(const float* x, int8_t* code) {
  const uint32_t largest = largest_bits_of_32(x);
  const float amax = float_of_bits(largest);
  const bool usable = largest < 0x7f800000u && amax > 0x1p-100f;
  if (usable) {
    round_32(x, 127.f / amax, code);
    return amax * (1.f / 127.f);
  }
  memset(code, 0, 32);
  return largest >= 0x7f800000u ? float_of_bits(0x7fc00000u) : 1.f;
}

// Column of place i of a float record: e2m1 rows come apart into even and odd columns, 32 at a time.
constexpr int float_place(Stored format, int i) {
  return format == Stored::kE2m1 ? i / 32 * 32 + (i % 32 < 16 ? i % 32 * 2 : i % 32 * 2 - 31) : i;
}

struct Order {
  uint8_t column[kBlock];
};
constexpr Order make_float_order(Stored format) {
  Order o{};
  for (int i = 0; i < kBlock; ++i) o.column[i] = static_cast<uint8_t>(float_place(format, i));
  return o;
}
inline constexpr Order kFloatE2m1 = make_float_order(Stored::kE2m1);
#if KVASIR_SIMD_AVX512
constexpr Order make_bf16_order(Stored format) {
  Order o{};
  for (int i = 0; i < kBlock; ++i)
    o.column[i] = static_cast<uint8_t>(format == Stored::kE2m1   ? e2m1_place(i)
                                       : format == Stored::kE4m3 ? i / 64 * 64 + e4m3_place(i % 64)
                                                                 : i);
  return o;
}
inline constexpr Order kBf16E4m3 = make_bf16_order(Stored::kE4m3), kBf16E2m1 = make_bf16_order(Stored::kE2m1);
#endif

inline bool bf16_records(Route route) {
#if KVASIR_SIMD_AVX512
  return route == Route::kBf16 || route == Route::kE4m3;
#else
  (void)route;
  return false;  // the same values, held as floats
#endif
}

inline int64_t narrow_stride(Route route, int64_t cols) {
  int64_t blocks = blocks_of(cols);
  if (route == Route::kInt8) return blocks * static_cast<int64_t>(sizeof(Int8Record));
  int64_t record = bf16_records(route) ? 2 * kBlock : 4 * kBlock;
  return blocks * record + (blocks * 4 + 63) / 64 * 64;
}

inline void pack_int8_block(const float v[kBlock], Int8Record& r) {
  alignas(64) int8_t code[kBlock];
  for (int g = 0; g < 4; ++g) {
    float scale = quantise_int8(v + 32 * g, code + 32 * g);
    for (int l = 0; l < 4; ++l) r.scale[4 * g + l] = scale;
  }
  split_even_odd(code, r.even, r.odd);
  for (int l = 0; l < 16; ++l) {
    int32_t total = 0;
    for (int i = 0; i < 4; ++i) total += r.even[4 * l + i] + r.odd[4 * l + i];
    r.start[l] = -kE2m1Bias * total;
  }
}

// One block of a float or bf16 record; `v` is the block in column order and may be overwritten.
inline void pack_real_block(Route route, Stored format, float v[kBlock], uint8_t* record, float* scale) {
  *scale = route == Route::kE4m3 ? quantise_e4m3(v) : 1.f;
#if KVASIR_SIMD_AVX512
  if (bf16_records(route)) {
    uint16_t bits[kBlock];
    for (int i = 0; i < kBlock; ++i) bits[i] = bf16_of(v[i]);
    if (format == Stored::kBf16) {
      memcpy(record, bits, sizeof(bits));
      return;
    }
    const Order& order = format == Stored::kE2m1 ? kBf16E2m1 : kBf16E4m3;
    uint16_t placed[kBlock];
    for (int i = 0; i < kBlock; ++i) placed[i] = bits[order.column[i]];
    memcpy(record, placed, sizeof(placed));
    return;
  }
#else
  if (route == Route::kBf16)
    for (int i = 0; i < kBlock; ++i) v[i] = bf16_value(bf16_of(v[i]));
#endif
  if (format != Stored::kE2m1) {
    memcpy(record, v, 4 * kBlock);
    return;
  }
  float placed[kBlock];
  for (int i = 0; i < kBlock; ++i) placed[i] = v[kFloatE2m1.column[i]];
  memcpy(record, placed, sizeof(placed));
}

// Block b of a row of which columns [begin, end) are at `from`: where it stands, or `padded`, where it was
// copied to with zeros behind the end.
inline const float* take_block(const float* from, int64_t begin, int64_t end, int64_t b,
                               float padded[kBlock]) {
  const int64_t left = end - b * kBlock;
  if (left >= kBlock) return from + b * kBlock - begin;
  memset(padded, 0, kBlock * 4);
  memcpy(padded, from + b * kBlock - begin, static_cast<size_t>(left) * 4);
  return padded;
}

inline void narrow_pack(const PackedRows& x, int64_t row, const float* from, int64_t begin, int64_t end) {
  const int64_t record = bf16_records(x.route) ? 2 * kBlock : 4 * kBlock;
  uint8_t* packed = x.data + row * x.stride;
  auto* scales = reinterpret_cast<float*>(packed + blocks_of(x.cols) * record);
  for (int64_t b = begin / kBlock; b < blocks_of(end); ++b) {
    alignas(64) float v[kBlock];
    const float* block = take_block(from, begin, end, b, v);
    if (x.route == Route::kInt8) {
      pack_int8_block(block,
                      *reinterpret_cast<Int8Record*>(packed + b * static_cast<int64_t>(sizeof(Int8Record))));
    } else {
      if (block != v) memcpy(v, block, sizeof(v));  // which quantising writes to
      pack_real_block(x.route, x.format, v, packed + b * record, scales + b);
    }
  }
}

// e^x to about one unit in the last place, for |x| < 87; further out it saturates.
inline float exp_f32(float x) {
  x = x < -87.f ? -87.f : x > 87.f ? 87.f : x;
  float n = (x * 1.44269504f + 0x1.8p23f) - 0x1.8p23f;
  float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;  // ln 2 in two parts; the first times n is exact
  float p = 1.f / 5040;
  p = p * r + 1.f / 720;
  p = p * r + 1.f / 120;
  p = p * r + 1.f / 24;
  p = p * r + 1.f / 6;
  p = p * r + .5f;
  p = p * r + 1.f;
  p = p * r + 1.f;
  return p * float_of_bits(static_cast<uint32_t>(static_cast<int32_t>(n) + 127) << 23);
}

inline void swiglu(const SwigluJob& job) {
  const float limit = job.limit, weight = job.weight;
  auto value = [limit, weight](float g, float u) {
    g = g > limit ? limit : g;
    u = u > limit ? limit : u < -limit ? -limit : u;
    return g / (1.f + exp_f32(-g)) * u * weight;
  };
  if (job.round_bf16) {
    for (int64_t i = 0; i < job.count; ++i) {
      float g = bf16_value(bf16_of(job.gate[i])), u = bf16_value(bf16_of(job.up[i]));
      job.out[i] = bf16_value(bf16_of(value(g, u)));
    }
  } else {
    for (int64_t i = 0; i < job.count; ++i) job.out[i] = value(job.gate[i], job.up[i]);
  }
}

}  // namespace kvasir::cpu::KVASIR_ISA
