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

struct MultiplyJob {
  StoredRows w;
  int64_t row_begin, row_end;  // outputs: rows of w
  const uint8_t* x;            // packed rows
  int64_t x_stride;            // packed_bytes()
  const int32_t* x_index;      // packed row of each input; null: row i is input i
  int64_t count;               // inputs
  float* out;                  // out[i * out_stride + n - row_begin]
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
  bool (*has)(Route);  // does this set implement it? kF32, kBf16, kE4m3 and kInt8 it always does
  // Bytes of one packed row; a multiple of 64. `format` is that of the weights it will meet.
  int64_t (*packed_bytes)(Route, Stored format, int64_t cols);
  // Columns [begin, end) of a row of `cols`, x[0] being column `begin`; begin is a multiple of 128, and end
  // too unless it is cols.
  void (*pack)(Route, Stored format, const float* x, int64_t begin, int64_t end, int64_t cols,
               uint8_t* packed);
  int64_t (*scratch_bytes)(Route, int64_t cols);
  void (*multiply)(Route, const MultiplyJob&);
  void (*swiglu)(const SwigluJob&);
};

const LinearKernels& linear_kernels(Isa isa);

}  // namespace kvasir::cpu
