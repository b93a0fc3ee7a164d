// Shapes are checked and work is split here; kernels do the arithmetic. Weights stream from memory once per
// call, so a task is a range of weight rows, large enough to stream and small enough to balance.
#include "backend/cpu/linear.h"

#include <algorithm>

#include "base/check.h"

namespace kvasir::cpu {

namespace portable {
extern const LinearKernels kLinearKernels;
}
#if defined(__x86_64__)
namespace avx2 {
extern const LinearKernels kLinearKernels;
}
namespace avx512 {
extern const LinearKernels kLinearKernels;
}
namespace amx {
extern const LinearKernels kLinearKernels;
}
#endif

const LinearKernels& linear_kernels(Isa isa) {
  switch (isa) {
#if defined(__x86_64__)
    case Isa::kAvx2:
      return avx2::kLinearKernels;
    case Isa::kAvx512:
      return avx512::kLinearKernels;
    case Isa::kAmx:
      return amx::kLinearKernels;
#endif
    default:
      return portable::kLinearKernels;
  }
}

Route choose_route(const CpuContext& context, LinearKind kind, WeightFormat format, int64_t rows) {
  const bool scaled = format == WeightFormat::kFp8Block128 || format == WeightFormat::kFp4Group32;
  const bool quantised = kind == LinearKind::kQuantised && scaled;
  if (context.numerics == Numerics::kExact || format == WeightFormat::kF32) return Route::kF32;
  if (context.numerics == Numerics::kNative) return quantised ? Route::kE4m3 : Route::kBf16;
  Route narrow = quantised && format == WeightFormat::kFp4Group32 ? Route::kInt8 : Route::kBf16;
  if (rows <= kNarrowRows) return narrow;
  const LinearKernels& kernels = linear_kernels(context.isa);
  // AMX multiplies bf16 four times as fast as AVX-512 bytes, so it has no kWideInt8.
  if (narrow == Route::kInt8 && kernels.has(Route::kWideInt8)) return Route::kWideInt8;
  return kernels.has(Route::kWideBf16) ? Route::kWideBf16 : narrow;
}

Stored stored_format(WeightFormat format) {
  switch (format) {
    case WeightFormat::kF32:
      return Stored::kF32;
    case WeightFormat::kBf16:
      return Stored::kBf16;
    case WeightFormat::kFp8Block128:
      return Stored::kE4m3;
    case WeightFormat::kFp4Group32:
      return Stored::kE2m1;
    case WeightFormat::kNone:
      break;
  }
  KVASIR_CHECK(false, "an absent weight was used");
  return Stored::kF32;
}

StoredRows stored_rows(const WeightMatrix& w) {
  StoredRows s{};
  s.format = stored_format(w.format);
  KVASIR_CHECK(w.format != WeightFormat::kFp4Group32 || w.cols % 32 == 0, "FP4 weight with {} columns",
               w.cols);
  s.data = static_cast<const uint8_t*>(w.data);
  s.scale = w.scale;
  s.cols = w.cols;
  s.row_bytes = w.data_row_bytes();
  s.scale_row_bytes = w.scale_row_bytes();
  return s;
}

PackedRows take_packed(CpuContext& context, Route route, WeightFormat format, int64_t rows, int64_t cols) {
  PackedRows packed{route, stored_format(format), nullptr, rows, cols, 0};
  const int64_t bytes = linear_kernels(context.isa).layout(packed);
  packed.data = context.scratch.take<uint8_t>(bytes);
  return packed;
}

namespace {

// Packs `count` groups of as many rows each; row r of group g stands at x + g * x_group + r * x_stride.
void pack_all(CpuContext& context, const PackedRows* packed, int64_t count, const float* x, int64_t x_group,
              int64_t x_stride) {
  const LinearKernels& kernels = linear_kernels(context.isa);
  // Tasks of whole tiles: two workers never write to the same cache line.
  const int64_t rows = packed->rows, tile = kernels.tile_rows(packed->route), step = tile < 4 ? 4 : tile;
  const int64_t tasks = (rows + step - 1) / step;
  context.pool.run(count * tasks, [&](int64_t task, int) {
    const int64_t group = task / tasks, begin = task % tasks * step;
    pack_tiles(kernels, packed[group], begin, std::min(rows, begin + step), 0, packed->cols,
               [&](int64_t r) { return x + group * x_group + r * x_stride; });
  });
}

}  // namespace

PackedRows pack_rows(CpuContext& context, Route route, WeightFormat format, const float* x, int64_t x_stride,
                     int64_t rows, int64_t cols) {
  PackedRows packed = take_packed(context, route, format, rows, cols);
  pack_all(context, &packed, 1, x, 0, x_stride);
  return packed;
}

namespace {

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// How a product is cut: tasks of `rows` weight rows and `inputs` inputs.
struct Cut {
  int64_t rows, inputs;
};

// Whole groups of 32 rows, not under 16 KB of weights. Narrow routes: about four tasks a thread. Wide ones:
// two, as square as may be, since every task reads its inputs and decodes its weights; at most kWideRows, so
// that its sums stay in the second cache.
Cut cut(const WeightMatrix& w, int64_t rows, const PackedRows& x, int64_t groups, int threads) {
  const int64_t worth_a_task = (16 << 10) / std::max<int64_t>(1, w.data_row_bytes());
  Cut c{};
  if (is_wide(x.route)) {
    c.inputs = divide_up(divide_up(x.rows, divide_up(x.rows, kWideInputs)), kWideTile) * kWideTile;
    const int64_t even_share = rows * groups * divide_up(x.rows, c.inputs) / (2 * threads);
    c.rows = std::min(kWideRows, std::max(even_share, worth_a_task));
  } else {
    c.inputs = kWideInputs;
    c.rows = std::max(rows * groups / (4 * threads), worth_a_task);
  }
  c.rows = std::min(divide_up(std::max<int64_t>(c.rows, 1), 32) * 32, std::max<int64_t>(rows, 1));
  return c;
}

// Groups of inputs, each with `rows` weight rows of its own.
struct Groups {
  const PackedRows* x;
  int64_t count, rows;
  float* out;          // of the first group
  int64_t out_group;   // floats to the next group's outputs
  int64_t out_stride;  // floats to the next input's
};

// For every group: out[t, 0..rows) = x[t] * w[begin + group * rows ..]^T
void multiply(CpuContext& context, const WeightMatrix& w, int64_t begin, const Groups& g, bool round_bf16) {
  const LinearKernels& kernels = linear_kernels(context.isa);
  const int64_t scratch_bytes = divide_up(kernels.scratch_bytes(g.x->route), 64) * 64, inputs = g.x->rows;
  auto* scratch = context.scratch.take<uint8_t>(scratch_bytes * context.pool.size());
  const Cut step = cut(w, g.rows, *g.x, g.count, context.pool.size());
  const int64_t row_tasks = divide_up(g.rows, step.rows), input_tasks = divide_up(inputs, step.inputs);
  const StoredRows stored = stored_rows(w);
  context.pool.run(g.count * row_tasks * input_tasks, [&](int64_t task, int worker) {
    const int64_t group = task / (row_tasks * input_tasks), part = task % (row_tasks * input_tasks);
    const int64_t first = part / row_tasks * step.inputs, row = part % row_tasks * step.rows;
    MultiplyJob job{};
    job.w = stored;
    job.row_begin = begin + group * g.rows + row;
    job.row_end = begin + group * g.rows + std::min(g.rows, row + step.rows);
    job.x = g.x[group];
    job.first = first;
    job.count = std::min(inputs - first, step.inputs);
    job.out = g.out + group * g.out_group + first * g.out_stride + row;
    job.out_stride = g.out_stride;
    job.round_bf16 = round_bf16;
    job.scratch = scratch + worker * scratch_bytes;
    kernels.multiply(job);
  });
}

}  // namespace

void linear(CpuContext& context, const LinearArgs& args) {
  const int64_t tokens = args.x.shape(0);
  KVASIR_CHECK(args.x.shape(1) == args.w.cols, "x has {} columns, the weight {}", args.x.shape(1),
               args.w.cols);
  KVASIR_CHECK(args.out.shape(0) == tokens && args.out.shape(1) == args.w.rows,
               "out is [{}, {}], expected [{}, {}]", args.out.shape(0), args.out.shape(1), tokens,
               args.w.rows);
  KVASIR_CHECK(args.x.stride(1) == 1 && args.out.stride(1) == 1, "rows must be dense");
  if (tokens == 0) return;
  Scratch::Scope scope(context.scratch);
  Route route = choose_route(context, args.kind, args.w.format, tokens);
  PackedRows x =
      pack_rows(context, route, args.w.format, args.x.data(), args.x.stride(0), tokens, args.w.cols);
  bool round = context.numerics == Numerics::kNative && args.kind != LinearKind::kFloat;
  multiply(context, args.w, 0, {&x, 1, args.w.rows, args.out.data(), 0, args.out.stride(0)}, round);
}

void grouped_linear(CpuContext& context, const GroupedLinearArgs& args) {
  const int64_t tokens = args.x.shape(0), groups = args.x.shape(1), cols = args.x.shape(2),
                count = args.out.shape(2);
  KVASIR_CHECK(args.w.rows == groups * count && args.w.cols == cols,
               "the weight is [{}, {}], expected [{} * {}, {}]", args.w.rows, args.w.cols, groups, count,
               cols);
  KVASIR_CHECK(args.out.shape(0) == tokens && args.out.shape(1) == groups,
               "out is [{}, {}, ..], expected [{}, {}, ..]", args.out.shape(0), args.out.shape(1), tokens,
               groups);
  KVASIR_CHECK(args.x.stride(2) == 1 && args.out.stride(2) == 1, "rows must be dense");
  if (tokens == 0) return;
  Route route = choose_route(context, LinearKind::kBf16, args.w.format, tokens);
  // As many groups at a time as give every thread something to do: in a prefill with few threads one, so that
  // its inputs stay in a cache, in a step of decoding all, since every fork has its price.
  int64_t together = groups;
  if (is_wide(route))
    together =
        std::clamp<int64_t>(4 * context.pool.size() / std::max<int64_t>(1, count / kWideRows), 1, groups);
  for (int64_t first = 0; first < groups; first += together) {
    Scratch::Scope scope(context.scratch);
    const int64_t n = std::min(together, groups - first);
    auto* x = context.scratch.take<PackedRows>(n);
    for (int64_t g = 0; g < n; ++g) x[g] = take_packed(context, route, args.w.format, tokens, cols);
    pack_all(context, x, n, args.x.data() + first * args.x.stride(1), args.x.stride(1), args.x.stride(0));
    multiply(
        context, args.w, first * count,
        {x, n, count, args.out.data() + first * args.out.stride(1), args.out.stride(1), args.out.stride(0)},
        context.numerics == Numerics::kNative);
  }
}

}  // namespace kvasir::cpu
