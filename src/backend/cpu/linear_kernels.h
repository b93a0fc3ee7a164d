// The kernels behind linear layers and experts, one table per instruction set.
//
// Plain structs and function pointers only: this header is seen by baseline code and by every kernel
// copy, so it must bring nothing that could be instantiated twice (spec/dependencies.md, trap 4).
//
// A product runs in two halves. `pack` turns rows of activations into the form that one route wants,
// once per call; `multiply` makes a tile of outputs from packed rows and weights as stored. An output is one
// sum over K, cut into blocks of 128 that are summed alone and then added in ascending order; which other
// rows and outputs are computed beside it, and by how many threads, never touches that order.
#pragma once

#include <stdint.h>

#include "backend/cpu/isa.h"

namespace kvasir::cpu {

// How a product is computed: what the activations become and what they meet.
enum class Route : uint8_t {
  kF32,       // f32 as they are x weights dequantised to f32
  kBf16,      // rounded to bf16 x weights as bf16, f32 sums
  kE4m3,      // e4m3 per 128 with a power-of-two scale (spec A.2) x weight codes, f32 sums per block
  kInt8,      // int8 per 32 x e2m1 codes, exact integer sums per 32
  kWideInt8,  // as kInt8, and e4m3 weights as int8 per 32 too; many rows, weights decoded into panels
  kWideBf16,  // as kBf16; many rows, weights decoded into panels
};
inline constexpr int kRouteCount = 6;

// tensor/quant.h WeightFormat without its header.
enum class Stored : uint8_t { kF32, kBf16, kE4m3, kE2m1 };

struct StoredRows {
  Stored format;
  const uint8_t* data;   // any alignment
  const uint8_t* scale;  // e8m0; null for kF32 and kBf16
  int64_t cols;
  int64_t row_bytes;
  int64_t scale_row_bytes;  // per row (kE2m1) or per 128 rows (kE4m3)
};

// Rows of activations after packing. On narrow routes row r starts at data + r * stride. On wide routes rows
// stand in tiles of tile_rows(), and block b (128 columns) of all tiles starts at data + b * stride.
struct PackedRows {
  Route route;
  Stored format;  // of the weights they will meet
  uint8_t* data;
  int64_t rows, cols;
  int64_t stride;  // bytes
};

constexpr bool is_wide(Route route) { return route == Route::kWideInt8 || route == Route::kWideBf16; }

// At most so many inputs has a job on a wide route, and its first is a multiple of kWideTile, which is one of
// every tile_rows() and of what a kernel takes at a time.
inline constexpr int64_t kWideInputs = 576, kWideTile = 96;
// No tile has more rows.
inline constexpr int64_t kMaxTileRows = 16;
// More weight rows than this gain nothing in one job.
inline constexpr int64_t kWideRows = 256;

struct MultiplyJob {
  StoredRows w;
  int64_t row_begin, row_end;  // outputs: rows of w
  PackedRows x;
  int64_t first;         // of the inputs: packed row; on wide routes a multiple of kWideTile
  const int32_t* index;  // instead of `first`: packed row of each input; null on wide routes
  int64_t count;         // inputs; at most kWideInputs on wide routes
  float* out;            // out[i * out_stride + n - row_begin]
  int64_t out_stride;
  bool round_bf16;   // round the outputs
  uint8_t* scratch;  // scratch_bytes(), this worker's own
};

// a[i] = silu(min(gate[i], limit)) * clamp(up[i], -limit, limit) * weight
struct SwigluJob {
  const float* gate;
  const float* up;
  float* out;
  int64_t count;
  float limit, weight;
  bool round_bf16;  // gate and up before, a after
};

struct LinearKernels {
  bool (*has)(Route);           // does this set implement it? kF32, kBf16, kE4m3 and kInt8 it always does
  int64_t (*tile_rows)(Route);  // 1 on narrow routes
  // Sets x.stride from the other fields and returns the bytes that x.data must have.
  int64_t (*layout)(PackedRows& x);
  // Columns [begin, end) of `count` rows of one tile from row `row` on, from[i][0] being column `begin`;
  // begin is a multiple of 128, and end too unless it is the number of columns.
  void (*pack)(const PackedRows& x, int64_t row, int64_t count, const float* const* from, int64_t begin,
               int64_t end);
  int64_t (*scratch_bytes)(Route);
  void (*multiply)(const MultiplyJob&);
  void (*swiglu)(const SwigluJob&);
};

const LinearKernels& linear_kernels(Isa isa);

}  // namespace kvasir::cpu
