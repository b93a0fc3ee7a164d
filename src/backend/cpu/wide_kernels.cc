// Wide routes on AVX-512 (and the parts that AMX shares): decode 32 weight rows x a stretch of K into two
// panels, run every input past them, go on along K. The outputs are the accumulators between stretches.
//
//   kWideInt8   per group of 32 columns: exact integer sums, then f32 += sum * weight scale * input scale
//   kWideBf16   f32 sums over the whole stretch; weights carry their scale
// Compiled once per instruction set. Threading: pure functions over the caller's memory.
#include "backend/cpu/wide_kernels.h"

#include "backend/cpu/pack_kernels.h"
#include "backend/cpu/simd.h"
#include "backend/cpu/simd_wide.h"

namespace kvasir::cpu::KVASIR_ISA {

#if KVASIR_SIMD_AVX512

namespace {

constexpr int64_t kPanelRows = 32;  // two vectors of outputs
constexpr int64_t kInt8Stretch =
    1024;  // columns of a panel pair: 32 KB of codes, 4 KB of scales, within 48 KB of L1
constexpr int64_t kBf16Stretch = 512;  // 32 KB of bf16

constexpr int64_t weight_chunk(Stored f) {  // columns in 64 bytes of a row
  return f == Stored::kBf16 ? 32 : f == Stored::kE4m3 ? 64 : 128;
}
constexpr int e4m3_bias(Stored f) { return f == Stored::kE2m1 ? kE2m1Bias : 128; }

// A packed kWideInt8 row: codes, then a scale per group, then -bias times the sum of the group's codes.
struct Int8Row {
  const int8_t* code;
  const float* scale;
  const int32_t* start;
};
Int8Row int8_row(const uint8_t* packed, int64_t cols) {
  const int64_t groups = blocks_of(cols) * 4;
  return {reinterpret_cast<const int8_t*>(packed), reinterpret_cast<const float*>(packed + groups * 32),
          reinterpret_cast<const int32_t*>(packed + groups * 36)};
}

void pack_wide_int8(Stored format, const float v[kBlock], uint8_t* packed, int64_t block, int64_t cols) {
  const int64_t groups = blocks_of(cols) * 4;
  auto* codes = reinterpret_cast<int8_t*>(packed) + block * kBlock;
  auto* scales = reinterpret_cast<float*>(packed + groups * 32) + block * 4;
  auto* starts = reinterpret_cast<int32_t*>(packed + groups * 36) + block * 4;
  for (int g = 0; g < 4; ++g) {
    alignas(32) int8_t code[32];
    scales[g] = quantise_int8(v + 32 * g, code);
    int32_t total = 0;
    for (int i = 0; i < 32; ++i) total += code[i];
    starts[g] = -e4m3_bias(format) * total;
    if (format == Stored::kE2m1) {
      for (int i = 0; i < 32; ++i) codes[32 * g + i] = code[i / 8 * 8 + i % 4 * 2 + i / 4 % 2];
    } else {
      memcpy(codes + 32 * g, code, 32);
    }
  }
}

void pack_wide_bf16(Stored format, const float v[kBlock], uint8_t* packed, int64_t block) {
  uint16_t bits[kBlock], placed[kBlock];
  for (int i = 0; i < kBlock; ++i) bits[i] = bf16_of(v[i]);
  if (format == Stored::kE4m3) {  // 0 2 1 3
    for (int i = 0; i < kBlock; ++i) placed[i] = bits[i / 4 * 4 + i % 2 * 2 + i / 2 % 2];
  } else if (format == Stored::kE2m1) {  // 0 4 1 5 2 6 3 7
    for (int i = 0; i < kBlock; ++i) placed[i] = bits[i / 8 * 8 + i % 2 * 4 + i / 2 % 4];
  }
  memcpy(packed + block * 2 * kBlock, format == Stored::kBf16 ? bits : placed, 2 * kBlock);
}

// Sixteen weight rows from `first`; rows past `end` repeat the last one.
struct SixteenRows {
  const uint8_t* data[16];
  const uint8_t* scale[16];
};
SixteenRows sixteen_rows(const StoredRows& w, int64_t first, int64_t end) {
  SixteenRows r;
  for (int64_t i = 0; i < 16; ++i) {
    int64_t n = first + i < end ? first + i : end - 1;
    r.data[i] = w.data + n * w.row_bytes;
    r.scale[i] = w.format == Stored::kBf16
                     ? nullptr
                     : w.scale + (w.format == Stored::kE4m3 ? n / 128 : n) * w.scale_row_bytes;
  }
  return r;
}

// The 64 bytes of every row that hold columns from `col`, padded with zeros where the row ends.
struct Chunk {
  const uint8_t* row[16];
  int64_t offset;
  alignas(64) uint8_t padded[16][64];
};
void take_chunk(const StoredRows& w, const SixteenRows& rows, int64_t col, Chunk& chunk) {
  const int64_t offset = col * 64 / weight_chunk(w.format), left = w.row_bytes - offset;
  chunk.offset = left < 64 ? 0 : offset;
  for (int i = 0; i < 16; ++i) {
    chunk.row[i] = rows.data[i];
    if (left < 64) {
      memset(chunk.padded[i], 0, 64);
      memcpy(chunk.padded[i], rows.data[i] + offset, static_cast<size_t>(left));
      chunk.row[i] = chunk.padded[i];
    }
  }
}

// e8m0 bytes of 16 rows: one (e4m3) or four groups' (e2m1), the first in the low byte.
I32x16 scale_bytes(const StoredRows& w, const SixteenRows& rows, int64_t col) {
  alignas(64) int32_t bytes[16] = {};
  const int64_t offset = w.format == Stored::kE4m3 ? col / 128 : col / 32;
  const int64_t count = w.format == Stored::kE4m3        ? 1
                        : w.scale_row_bytes - offset < 4 ? w.scale_row_bytes - offset
                                                         : 4;
  for (int i = 0; i < 16; ++i) memcpy(bytes + i, rows.scale[i] + offset, static_cast<size_t>(count));
  return load_i32(bytes);
}

// Columns [col, col + cols) of 16 rows as int8 steps and a float per group and row.
void decode_int8(const StoredRows& w, const SixteenRows& rows, int64_t col, int64_t cols, uint8_t* panel,
                 float* scale) {
  Chunk chunk;
  const int64_t width = weight_chunk(w.format);
  for (int64_t c = 0; c < cols; c += width) {
    take_chunk(w, rows, col + c, chunk);
    const I32x16 bytes = scale_bytes(w, rows, col + c);
    if (w.format == Stored::kE2m1) {
      e2m1_int8_panel(chunk.row, chunk.offset, panel + c * 16);
      e2m1_int8_scales(bytes, scale + c / 2);
    } else {
      e4m3_int8_panel(chunk.row, chunk.offset, e8m0_of(bytes), panel + c * 16, scale + c / 2);
    }
  }
}

void decode_bf16(const StoredRows& w, const SixteenRows& rows, int64_t col, int64_t cols, uint8_t* panel) {
  Chunk chunk;
  const int64_t width = weight_chunk(w.format);
  for (int64_t c = 0; c < cols; c += width) {
    take_chunk(w, rows, col + c, chunk);
    uint8_t* at = panel + c * 32;
    if (w.format == Stored::kBf16) {
      bf16_panel(chunk.row, chunk.offset, at);
    } else if (w.format == Stored::kE4m3) {
      e4m3_bf16_panel(chunk.row, chunk.offset, scale_bytes(w, rows, col + c), at);
    } else {
      e2m1_bf16_panel(chunk.row, chunk.offset, scale_bytes(w, rows, col + c), at);
    }
  }
}

// What a tile of inputs needs besides the panels.
struct Tile {
  const uint8_t* x[16];  // packed rows
  float* out[16];        // at the panel pair's first output
  int lanes0, lanes1;    // outputs of the first and the second vector
  bool add;              // to what is there
};

inline void finish(const Tile& tile, int m, F32x16 v0, F32x16 v1) {
  if (tile.add) {
    v0 = add(v0, load_f32_part(tile.out[m], tile.lanes0));
    v1 = add(v1, load_f32_part(tile.out[m] + 16, tile.lanes1));
  }
  store_f32_part(tile.out[m], v0, tile.lanes0);
  store_f32_part(tile.out[m] + 16, v1, tile.lanes1);
}

// M inputs past a pair of int8 panels: per group 8 M x 2 byte products, then the sums go to f32.
template <int M>
void int8_tile(const uint8_t* panel, const float* scale, int64_t col, int64_t cols, int64_t row_cols,
               const Tile& tile) {
  const uint8_t* panel1 = panel + kInt8Stretch * 16;
  const float* scale1 = scale + kInt8Stretch / 2;
  Int8Row x[M];
  F32x16 total[M][2];
#pragma GCC unroll 16
  for (int m = 0; m < M; ++m) {
    x[m] = int8_row(tile.x[m], row_cols);
    total[m][0] = total[m][1] = zero_f32();
  }
  const int64_t first_group = col / 32;
  for (int64_t g = 0; g < cols / 32; ++g) {
    I32x16 acc[M][2];
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m) acc[m][0] = acc[m][1] = broadcast_i32(x[m].start + first_group + g);
#pragma GCC unroll 8
    for (int64_t step = 0; step < 8; ++step) {
      Bytes64 w0 = load_bytes(panel + 512 * g + 64 * step), w1 = load_bytes(panel1 + 512 * g + 64 * step);
#pragma GCC unroll 16
      for (int m = 0; m < M; ++m) {
        Bytes64 codes = broadcast_i32(x[m].code + col + 32 * g + 4 * step);
        acc[m][0] = dot_u8i8(acc[m][0], w0, codes);
        acc[m][1] = dot_u8i8(acc[m][1], w1, codes);
      }
    }
    F32x16 s0 = load_f32(scale + 16 * g), s1 = load_f32(scale1 + 16 * g);
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m) {
      F32x16 xs = broadcast_f32(x[m].scale + first_group + g);
      total[m][0] = fma(to_f32(acc[m][0]), mul(s0, xs), total[m][0]);
      total[m][1] = fma(to_f32(acc[m][1]), mul(s1, xs), total[m][1]);
    }
  }
#pragma GCC unroll 16
  for (int m = 0; m < M; ++m) finish(tile, m, total[m][0], total[m][1]);
}

// M inputs past a pair of bf16 panels.
template <int M>
void bf16_tile(const uint8_t* panel, int64_t col, int64_t cols, const Tile& tile) {
  const uint8_t* panel1 = panel + kBf16Stretch * 32;
  F32x16 total[M][2];
#pragma GCC unroll 16
  for (int m = 0; m < M; ++m) total[m][0] = total[m][1] = zero_f32();
  for (int64_t step = 0; step < cols / 2; ++step) {
    Bf16x32 w0 = load_bf16x32(panel + 64 * step), w1 = load_bf16x32(panel1 + 64 * step);
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m) {
      Bf16x32 pair = broadcast_bf16x2(tile.x[m] + 2 * col + 4 * step);
      total[m][0] = dot_bf16(total[m][0], w0, pair);
      total[m][1] = dot_bf16(total[m][1], w1, pair);
    }
  }
#pragma GCC unroll 16
  for (int m = 0; m < M; ++m) finish(tile, m, total[m][0], total[m][1]);
}

struct Panels {
  uint8_t* codes;  // two panels, one after the other
  float* scale;    // int8 only, likewise
};

void run_int8(const Panels& p, int64_t col, int64_t cols, int64_t row_cols, int count, const Tile& tile) {
  switch (count) {
    case 1:
      return int8_tile<1>(p.codes, p.scale, col, cols, row_cols, tile);
    case 2:
      return int8_tile<2>(p.codes, p.scale, col, cols, row_cols, tile);
    case 3:
      return int8_tile<3>(p.codes, p.scale, col, cols, row_cols, tile);
    case 4:
      return int8_tile<4>(p.codes, p.scale, col, cols, row_cols, tile);
    case 5:
      return int8_tile<5>(p.codes, p.scale, col, cols, row_cols, tile);
    default:
      return int8_tile<6>(p.codes, p.scale, col, cols, row_cols, tile);
  }
}
void run_bf16(const Panels& p, int64_t col, int64_t cols, int count, const Tile& tile) {
  switch (count) {
    case 12:
      return bf16_tile<12>(p.codes, col, cols, tile);
    case 8:
      return bf16_tile<8>(p.codes, col, cols, tile);
    case 4:
      return bf16_tile<4>(p.codes, col, cols, tile);
    case 2:
      return bf16_tile<2>(p.codes, col, cols, tile);
    default:
      return bf16_tile<1>(p.codes, col, cols, tile);
  }
}
// Inputs of the next tile when `left` remain.
int tile_inputs(Route route, int64_t left) {
  if (route == Route::kWideInt8) return static_cast<int>(left < 6 ? left : 6);
  return left >= 12 ? 12 : left >= 8 ? 8 : left >= 4 ? 4 : left >= 2 ? 2 : 1;
}

// Every input past the panels of rows [n, n + 32) and columns [col, col + cols).
void run_inputs(Route route, const MultiplyJob& job, const Panels& panels, int64_t n, int64_t col,
                int64_t cols) {
  const int64_t lanes = job.row_end - n;
  Tile tile;
  tile.lanes0 = static_cast<int>(lanes < 16 ? lanes : 16);
  tile.lanes1 = static_cast<int>(lanes < 16 ? 0 : lanes < 32 ? lanes - 16 : 16);
  tile.add = col != 0;
  for (int64_t first = 0; first < job.count;) {
    const int count = tile_inputs(route, job.count - first);
    for (int m = 0; m < count; ++m) {
      int64_t i = first + m;
      tile.x[m] = job.x + (job.x_index ? job.x_index[i] : i) * job.x_stride;
      tile.out[m] = job.out + i * job.out_stride + n - job.row_begin;
    }
    if (route == Route::kWideInt8) {
      run_int8(panels, col, cols, job.w.cols, count, tile);
    } else {
      run_bf16(panels, col, cols, count, tile);
    }
    first += count;
  }
}

}  // namespace

bool has_wide(Route) { return true; }

int64_t wide_packed_bytes(Route route, int64_t cols) {
  return route == Route::kWideInt8 ? (blocks_of(cols) * 4 * 40 + 63) / 64 * 64 : blocks_of(cols) * 2 * kBlock;
}

void wide_pack(Route route, Stored format, const float* x, int64_t begin, int64_t end, int64_t cols,
               uint8_t* packed) {
  for (int64_t b = begin / kBlock; b < blocks_of(end); ++b) {
    alignas(64) float v[kBlock];
    const int64_t left = end - b * kBlock;
    if (left < kBlock) memset(v, 0, sizeof(v));
    memcpy(v, x + b * kBlock - begin, static_cast<size_t>(left < kBlock ? left : kBlock) * 4);
    if (route == Route::kWideInt8) {
      pack_wide_int8(format, v, packed, b, cols);
    } else {
      pack_wide_bf16(format, v, packed, b);
    }
  }
}

int64_t wide_scratch_bytes(Route route) {
  return route == Route::kWideInt8 ? 2 * kInt8Stretch * 16 + kInt8Stretch / 2 * 2 * 4 : 2 * kBf16Stretch * 32;
}

void wide_multiply(Route route, const MultiplyJob& job) {
  const int64_t stretch = route == Route::kWideInt8 ? kInt8Stretch : kBf16Stretch,
                width = weight_chunk(job.w.format);
  Panels panels{job.scratch, reinterpret_cast<float*>(job.scratch + 2 * kInt8Stretch * 16)};
  for (int64_t col = 0; col < job.w.cols; col += stretch) {
    const int64_t left = job.w.cols - col,
                  cols = (left < stretch ? left + width - 1 : stretch) / width * width;
    for (int64_t n = job.row_begin; n < job.row_end; n += kPanelRows) {
      for (int64_t half = 0; half < 2 && n + 16 * half < job.row_end; ++half) {
        const SixteenRows rows = sixteen_rows(job.w, n + 16 * half, job.row_end);
        if (route == Route::kWideInt8) {
          decode_int8(job.w, rows, col, cols, panels.codes + half * kInt8Stretch * 16,
                      panels.scale + half * kInt8Stretch / 2);
        } else {
          decode_bf16(job.w, rows, col, cols, panels.codes + half * kBf16Stretch * 32);
        }
      }
      run_inputs(route, job, panels, n, col, cols);
    }
  }
}

#else

bool has_wide(Route) { return false; }
int64_t wide_packed_bytes(Route, int64_t) { return 0; }
void wide_pack(Route, Stored, const float*, int64_t, int64_t, int64_t, uint8_t*) {}
int64_t wide_scratch_bytes(Route) { return 0; }
void wide_multiply(Route, const MultiplyJob&) {}

#endif

}  // namespace kvasir::cpu::KVASIR_ISA
