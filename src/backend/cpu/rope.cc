// Rotation: tables once per step, then rows over threads.
#include "backend/cpu/rope.h"

#include <algorithm>
#include <cmath>

#include "backend/cpu/row_kernels.h"
#include "base/check.h"

namespace kvasir::cpu {
namespace {

constexpr int64_t kHeads = 64;  // of one task

void check(View<const float, 3> x, View<const float, 3> table) {
  KVASIR_CHECK(x.stride(2) == 1, "rows must be dense");
  KVASIR_CHECK(table.shape(0) == x.shape(0) && table.shape(2) == 2 && 2 * table.shape(1) <= x.shape(2) &&
                   table.dense(),
               "table [{}, {}, {}] for x [{}, {}, {}]", table.shape(0), table.shape(1), table.shape(2),
               x.shape(0), x.shape(1), x.shape(2));
}

// fn(row pointer, token) for every (token, head).
template <class Fn>
void for_heads(CpuContext& context, View<float, 3> x, Fn fn) {
  int64_t heads = x.shape(1), rows = x.shape(0) * heads;
  context.pool.run((rows + kHeads - 1) / kHeads, [&](int64_t task, int) {
    for (int64_t r = task * kHeads; r < std::min(rows, (task + 1) * kHeads); ++r)
      fn(x.data() + r / heads * x.stride(0) + r % heads * x.stride(1), r / heads);
  });
}

}  // namespace

void rope_row(View<const float, 1> inv_freq, int64_t position, float* out) {
  for (int64_t i = 0; i < inv_freq.shape(0); ++i) {
    double angle = static_cast<float>(position) * inv_freq(i);
    out[2 * i] = static_cast<float>(std::cos(angle));
    out[2 * i + 1] = static_cast<float>(std::sin(angle));
  }
}

void rope_table(CpuContext& context, const RopeTableArgs& args) {
  int64_t tokens = args.positions.shape(0);
  KVASIR_CHECK(args.table.shape(0) == tokens && args.table.shape(1) == args.inv_freq.shape(0) &&
                   args.table.shape(2) == 2,
               "table [{}, {}, {}] for {} positions and {} frequencies", args.table.shape(0),
               args.table.shape(1), args.table.shape(2), tokens, args.inv_freq.shape(0));
  KVASIR_CHECK(args.table.dense(), "the table must be dense");
  constexpr int64_t kRows = 16;  // a task
  context.pool.run((tokens + kRows - 1) / kRows, [&](int64_t task, int) {
    for (int64_t t = task * kRows; t < std::min(tokens, (task + 1) * kRows); ++t)
      rope_row(args.inv_freq, args.positions(t), args.table.row(t));
  });
}

void rope(CpuContext& context, const RopeArgs& args) {
  if (args.x.shape(0) == 0) return;
  check(args.x, args.table);
  const RowKernels& kernels = row_kernels(context.isa);
  int64_t n = 2 * args.table.shape(1), skip = args.x.shape(2) - n;
  float sign = args.inverse ? -1.f : 1.f;
  for_heads(context, args.x, [&](float* x, int64_t token) {
    kernels.rope(x + skip, args.table.row(token), n, sign, context.numerics == Numerics::kNative);
  });
}

void head_norm_rope(CpuContext& context, const HeadNormRopeArgs& args) {
  if (args.x.shape(0) == 0) return;
  check(args.x, args.table);
  const RowKernels& kernels = row_kernels(context.isa);
  int64_t dim = args.x.shape(2), n = 2 * args.table.shape(1);
  bool round = context.numerics == Numerics::kNative;
  for_heads(context, args.x, [&](float* x, int64_t token) {
    round ? kernels.bf16_norm(x, args.eps, dim) : kernels.rms_norm(x, nullptr, args.eps, dim, false, x);
    kernels.rope(x + dim - n, args.table.row(token), n, 1.f, round);
  });
}

}  // namespace kvasir::cpu
