// Linear layers of the CPU backend, and the choices that experts share with them.
//
// A result does not depend on the number of threads in any numerics. In kExact and kNative it does not depend
// on the other rows of the call either; in kFast not while the call has at most kNarrowRows rows.
#pragma once

#include <algorithm>

#include "backend/cpu/context.h"
#include "backend/cpu/linear_kernels.h"
#include "ops/linear.h"

namespace kvasir::cpu {

void linear(CpuContext& context, const LinearArgs& args);
void grouped_linear(CpuContext& context, const GroupedLinearArgs& args);

// Calls of up to this many rows use the kernels that share one decoding of the weights among eight rows.
inline constexpr int64_t kNarrowRows = 8;

// How a product of `rows` inputs is computed.
Route choose_route(const CpuContext& context, LinearKind kind, WeightFormat format, int64_t rows);
Stored stored_format(WeightFormat format);
StoredRows stored_rows(const WeightMatrix& w);

// Room for packed rows in the context's scratch.
PackedRows take_packed(CpuContext& context, Route route, WeightFormat format, int64_t rows, int64_t cols);
// Packs rows [begin, end), row(r) being the start of row r. Rows of a tile take turns block by block, since
// they share its cache lines.
template <class RowOf>
void pack_tile(const LinearKernels& kernels, const PackedRows& packed, int64_t begin, int64_t end,
               RowOf row) {
  constexpr int64_t kColumns = 128;
  const int64_t step = kernels.tile_rows(packed.route) > 1 ? kColumns : packed.cols;
  for (int64_t col = 0; col < packed.cols; col += step)
    for (int64_t r = begin; r < end; ++r)
      kernels.pack(packed, r, row(r) + col, col, std::min(packed.cols, col + step));
}
// Packs `rows` rows, `x_stride` floats apart.
PackedRows pack_rows(CpuContext& context, Route route, WeightFormat format, const float* x, int64_t x_stride,
                     int64_t rows, int64_t cols);

}  // namespace kvasir::cpu
