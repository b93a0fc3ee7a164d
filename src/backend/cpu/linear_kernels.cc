// Narrow routes: dot products along K that read weights exactly once, as stored, for up to eight inputs at a
// time. Every input has its own chain of sums, so a result does not depend on how many there are.
//
// Compiled once per instruction set. Threading: pure functions over the caller's memory.
#include "backend/cpu/linear_kernels.h"

#include "backend/cpu/pack_kernels.h"
#include "backend/cpu/simd.h"
#include "backend/cpu/wide_kernels.h"

namespace kvasir::cpu::KVASIR_ISA {
namespace {

// How far ahead weights are fetched. The hardware's own prefetcher stops at pages and reaches two thirds of
// what the memory gives; 2 KB ahead adds nothing, 8 KB all of it (measured on Zen 5, 2 cores).
constexpr int64_t kAhead = 8192;

constexpr int64_t weight_bytes(Stored f) {  // of a block of 128 columns
  return f == Stored::kF32 ? 512 : f == Stored::kBf16 ? 256 : f == Stored::kE4m3 ? 128 : 64;
}
constexpr int64_t scale_bytes(Stored f) { return f == Stored::kE4m3 ? 1 : f == Stored::kE2m1 ? 4 : 0; }

// A kernel says how to decode a block of a weight row and how to add its product with a block of one
// input to that input's lanes.

template <Stored F>
struct FloatKernel {
  static constexpr Stored kFormat = F;
  static constexpr bool kPairs = false;  // two decoded rows do not fit the registers
  static constexpr int64_t kRecord = 4 * kBlock;
  static constexpr bool kScaleBehind = true;
  struct Weights {
    F32x16 v[8];
    float scale[4];
  };
  static Weights decode(const uint8_t* w, const uint8_t* scale) {
    Weights r;
    if constexpr (F == Stored::kE2m1) {
      for (int g = 0; g < 4; ++g) {
        load_e2m1(w + 16 * g, r.v[2 * g], r.v[2 * g + 1]);
        r.scale[g] = e8m0(scale[g]);
      }
    } else {
      for (int i = 0; i < 8; ++i) {
        if constexpr (F == Stored::kF32) r.v[i] = load_f32(w + 64 * i);
        if constexpr (F == Stored::kBf16) r.v[i] = load_bf16(w + 32 * i);
        if constexpr (F == Stored::kE4m3) r.v[i] = load_e4m3(w + 16 * i);
      }
      r.scale[0] = F == Stored::kE4m3 ? e8m0(*scale) : 1.f;
    }
    return r;
  }
  static F32x16 step(F32x16 acc, const Weights& w, const uint8_t* x, float x_scale) {
    if constexpr (F == Stored::kE2m1) {
      for (int g = 0; g < 4; ++g) {
        F32x16 b = mul(w.v[2 * g], load_f32(x + 128 * g));
        b = fma(w.v[2 * g + 1], load_f32(x + 128 * g + 64), b);
        acc = fma(b, splat(w.scale[g] * x_scale), acc);
      }
      return acc;
    }
    F32x16 b = mul(w.v[0], load_f32(x));
    for (int i = 1; i < 8; ++i) b = fma(w.v[i], load_f32(x + 64 * i), b);
    return F == Stored::kE4m3 ? fma(b, splat(w.scale[0] * x_scale), acc) : add(acc, b);
  }
};

#if KVASIR_SIMD_AVX512
template <Stored F>
struct Bf16Kernel {
  static constexpr Stored kFormat = F;
  static constexpr bool kPairs = true;
  static constexpr int64_t kRecord = 2 * kBlock;
  static constexpr bool kScaleBehind = true;
  struct Weights {
    Bf16x32 v[4];
    F32x16 scale;
  };
  static Weights decode(const uint8_t* w, const uint8_t* scale) {
    Weights r;
    if constexpr (F == Stored::kBf16) {
      for (int i = 0; i < 4; ++i) r.v[i] = load_bf16x32(w + 64 * i);
      r.scale = splat(1.f);
    } else if constexpr (F == Stored::kE4m3) {
      e4m3_bf16(w, r.v[0], r.v[1]);
      e4m3_bf16(w + 64, r.v[2], r.v[3]);
      r.scale = splat(e8m0(*scale));
    } else {
      e2m1_bf16(w, r.v);
      r.scale = e8m0_lanes(scale);
    }
    return r;
  }
  static F32x16 step(F32x16 acc, const Weights& w, const uint8_t* x, float x_scale) {
    F32x16 b = zero_f32();
    for (int i = 0; i < 4; ++i) b = dot_bf16(b, w.v[i], load_bf16x32(x + 64 * i));
    return F == Stored::kBf16 ? add(acc, b) : fma(b, mul(w.scale, splat(x_scale)), acc);
  }
};
#endif

struct Int8Kernel {
  static constexpr Stored kFormat = Stored::kE2m1;
  static constexpr bool kPairs = true;
  static constexpr int64_t kRecord = sizeof(Int8Record);
  static constexpr bool kScaleBehind = false;
  struct Weights {
    Bytes64 even, odd;
    F32x16 scale;
  };
  static Weights decode(const uint8_t* w, const uint8_t* scale) {
    Weights r;
    e2m1_bytes(load_bytes(w), r.even, r.odd);
    r.scale = mul(e8m0_lanes(scale), splat(.5f));  // codes are twice the value
    return r;
  }
  static F32x16 step(F32x16 acc, const Weights& w, const uint8_t* x, float) {
    const auto& r = *reinterpret_cast<const Int8Record*>(x);
    I32x16 dot = dot_u8i8(load_i32(r.start), w.even, load_bytes(r.even));
    dot = dot_u8i8(dot, w.odd, load_bytes(r.odd));
    return fma(to_f32(dot), mul(w.scale, load_f32(r.scale)), acc);
  }
};

// The last columns of a weight row, padded with zeros to a block.
template <class K>
typename K::Weights decode_tail(const uint8_t* data, const uint8_t* scale, int64_t cols) {
  constexpr Stored F = K::kFormat;
  alignas(64) uint8_t tail[512] = {};
  uint8_t tail_scale[4] = {};
  memcpy(tail, data, static_cast<size_t>(cols * weight_bytes(F) / kBlock));
  if (scale_bytes(F) != 0)
    memcpy(tail_scale, scale, static_cast<size_t>(F == Stored::kE4m3 ? 1 : (cols + 31) / 32));
  return K::decode(tail, tail_scale);
}

// R neighbouring weight rows times T inputs: out[r][t].
template <class K, int R, int T>
void row_tile(const StoredRows& w, int64_t n, const uint8_t* const* x, float (*out)[T]) {
  const int64_t blocks = blocks_of(w.cols);
  const uint8_t *data[R], *scale[R];
  F32x16 acc[R][T];
  for (int r = 0; r < R; ++r) {
    data[r] = w.data + (n + r) * w.row_bytes;
    scale[r] = w.scale + (K::kFormat == Stored::kE4m3 ? (n + r) / 128 : n + r) * w.scale_row_bytes;
    for (int t = 0; t < T; ++t) acc[r][t] = zero_f32();
  }
  auto add_block = [&](const typename K::Weights* block, int64_t b) {
    for (int t = 0; t < T; ++t) {
      const uint8_t* record = x[t] + b * K::kRecord;
      // Scales of float and bf16 records stand behind the records.
      const float x_scale =
          K::kScaleBehind ? reinterpret_cast<const float*>(x[t] + blocks * K::kRecord)[b] : 1.f;
      for (int r = 0; r < R; ++r) acc[r][t] = K::step(acc[r][t], block[r], record, x_scale);
    }
  };
  constexpr Stored F = K::kFormat;
  const int64_t whole = w.cols / kBlock;
  typename K::Weights block[R];
  for (int64_t b = 0; b < whole; ++b) {
    for (int r = 0; r < R; ++r) {
      const uint8_t* at = data[r] + b * weight_bytes(F);
      for (int64_t line = 0; line < weight_bytes(F); line += 64) prefetch(at + kAhead + line);
      block[r] = K::decode(at, scale[r] + b * scale_bytes(F));
    }
    add_block(block, b);
  }
  if (whole < blocks) {
    for (int r = 0; r < R; ++r)
      block[r] = decode_tail<K>(data[r] + whole * weight_bytes(F), scale[r] + whole * scale_bytes(F),
                                w.cols - whole * kBlock);
    add_block(block, whole);
  }
  for (int r = 0; r < R; ++r)
    for (int t = 0; t < T; ++t) out[r][t] = sum(acc[r][t]);
}

template <class K, int R, int T>
void store_tile(const MultiplyJob& job, int64_t n, int64_t first, const uint8_t* const* x) {
  float out[R][T];
  row_tile<K, R, T>(job.w, n, x, out);
  for (int r = 0; r < R; ++r) {
    for (int64_t t = 0; t < T && first + t < job.count; ++t) {
      float v = job.round_bf16 ? bf16_value(bf16_of(out[r][t])) : out[r][t];
      job.out[(first + t) * job.out_stride + n + r - job.row_begin] = v;
    }
  }
}

// Two weight rows at a time when there are inputs enough to be worth loading once for both; one input reads
// the weights as a single stream.
template <class K, int T>
void rows(const MultiplyJob& job, int64_t first, const uint8_t* const* x) {
  constexpr int R = T >= 4 && K::kPairs ? 2 : 1;
  int64_t n = job.row_begin;
  for (; n + R <= job.row_end; n += R) store_tile<K, R, T>(job, n, first, x);
  for (; n < job.row_end; ++n) store_tile<K, 1, T>(job, n, first, x);
}

// Inputs go eight at a time; a smaller rest takes the next tile size, its last input standing in for the
// missing.
template <class K>
void multiply_with(const MultiplyJob& job) {
  for (int64_t first = 0; first < job.count; first += 8) {
    const uint8_t* x[8];
    const int64_t left = job.count - first;
    for (int64_t t = 0; t < 8; ++t) {
      int64_t i = first + (t < left ? t : left - 1);
      x[t] = job.x.data + (job.index ? job.index[i] : job.first + i) * job.x.stride;
    }
    if (left == 1) {
      rows<K, 1>(job, first, x);
    } else if (left == 2) {
      rows<K, 2>(job, first, x);
    } else if (left <= 4) {
      rows<K, 4>(job, first, x);
    } else {
      rows<K, 8>(job, first, x);
    }
  }
}

template <template <Stored> class K>
void multiply_real(const MultiplyJob& job) {
  switch (job.w.format) {
    case Stored::kF32:
      return multiply_with<FloatKernel<Stored::kF32>>(job);
    case Stored::kBf16:
      return multiply_with<K<Stored::kBf16>>(job);
    case Stored::kE4m3:
      return multiply_with<K<Stored::kE4m3>>(job);
    case Stored::kE2m1:
      return multiply_with<K<Stored::kE2m1>>(job);
  }
}

void narrow_multiply(const MultiplyJob& job) {
  if (job.x.route == Route::kInt8) return multiply_with<Int8Kernel>(job);
#if KVASIR_SIMD_AVX512
  if (bf16_records(job.x.route)) return multiply_real<Bf16Kernel>(job);
#endif
  multiply_real<FloatKernel>(job);
}

bool has(Route route) { return !is_wide(route) || has_wide(route); }
int64_t tile_rows(Route route) { return is_wide(route) ? wide_tile_rows(route) : 1; }
int64_t layout(PackedRows& x) {
  if (is_wide(x.route)) return wide_layout(x);
  x.stride = narrow_stride(x.route, x.cols);
  return x.rows * x.stride;
}
void pack(const PackedRows& x, int64_t row, int64_t count, const float* const* from, int64_t begin,
          int64_t end) {
  if (is_wide(x.route)) return wide_pack(x, row, count, from, begin, end);
  for (int64_t i = 0; i < count; ++i) narrow_pack(x, row + i, from[i], begin, end);
}
int64_t scratch_bytes(Route route) { return is_wide(route) ? wide_scratch_bytes(route) : 0; }
void multiply(const MultiplyJob& job) { is_wide(job.x.route) ? wide_multiply(job) : narrow_multiply(job); }

}  // namespace

extern const LinearKernels kLinearKernels;
const LinearKernels kLinearKernels = {has, tile_rows, layout, pack, scratch_bytes, multiply, swiglu};

}  // namespace kvasir::cpu::KVASIR_ISA
