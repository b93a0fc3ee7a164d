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
// Packs columns [from, to) of rows [begin, end), row(r) being where they stand. A tile's rows go together,
// since they share its cache lines; `begin` is the first row of a tile.
template <class RowOf>
void pack_tiles(const LinearKernels& kernels, const PackedRows& packed, int64_t begin, int64_t end,
                int64_t from, int64_t to, RowOf row) {
  const int64_t tile = kernels.tile_rows(packed.route);
  for (int64_t first = begin; first < end; first += tile) {
    const float* rows[kMaxTileRows];
    const int64_t count = std::min(tile, end - first);
    for (int64_t i = 0; i < count; ++i) rows[i] = row(first + i);
    kernels.pack(packed, first, count, rows, from, to);
  }
}
// Packs `rows` rows, `x_stride` floats apart.
PackedRows pack_rows(CpuContext& context, Route route, WeightFormat format, const float* x, int64_t x_stride,
                     int64_t rows, int64_t cols);

}  // namespace kvasir::cpu
