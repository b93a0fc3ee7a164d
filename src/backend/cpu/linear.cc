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

PackedRows pack_rows(CpuContext& context, Route route, WeightFormat format, const float* x, int64_t x_stride,
                     int64_t rows, int64_t cols) {
  PackedRows packed = take_packed(context, route, format, rows, cols);
  const LinearKernels& kernels = linear_kernels(context.isa);
  // Tasks of whole tiles: two workers never write to the same cache line.
  const int64_t tile = kernels.tile_rows(route), step = tile < 4 ? 4 : tile;
  context.pool.run((rows + step - 1) / step, [&](int64_t task, int) {
    pack_tiles(kernels, packed, task * step, std::min(rows, (task + 1) * step), 0, cols,
               [&](int64_t r) { return x + r * x_stride; });
  });
  return packed;
}

namespace {

// How a product is cut: tasks of `rows` weight rows and `inputs` inputs.
struct Cut {
  int64_t rows, inputs;
};

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// About four tasks a thread, not under 16 KB of weights, whole groups of 32 rows. On wide routes at most
// kWideRows, so that a task's sums stay in the second cache, and inputs in even parts.
Cut cut(const WeightMatrix& w, int64_t rows, const PackedRows& x, int64_t inputs, int threads) {
  const bool wide = is_wide(x.route);
  Cut c{};
  c.inputs =
      wide ? std::min(kWideInputs,
                      divide_up(divide_up(inputs, divide_up(inputs, kWideInputs)), kWideTile) * kWideTile)
           : kWideInputs;
  const int64_t even_share = rows * divide_up(inputs, c.inputs) / (4 * threads),
                worth_a_task = (16 << 10) / std::max<int64_t>(1, w.data_row_bytes());
  int64_t n = std::max<int64_t>({even_share, worth_a_task, 1});
  if (wide) n = std::min(n, kWideRows);
  c.rows = std::min(divide_up(n, 32) * 32, std::max<int64_t>(rows, 1));
  return c;
}

// out[t, 0..count) = x[t] * w[begin .. begin + count)^T
void multiply(CpuContext& context, const WeightMatrix& w, int64_t begin, int64_t count, const PackedRows& x,
              int64_t inputs, float* out, int64_t out_stride, bool round_bf16) {
  const LinearKernels& kernels = linear_kernels(context.isa);
  const int64_t scratch_bytes = (kernels.scratch_bytes(x.route) + 63) / 64 * 64;
  auto* scratch = context.scratch.take<uint8_t>(scratch_bytes * context.pool.size());
  const auto [step, input_step] = cut(w, count, x, inputs, context.pool.size());
  const int64_t row_tasks = divide_up(count, step), input_tasks = divide_up(inputs, input_step);
  const StoredRows stored = stored_rows(w);
  context.pool.run(row_tasks * input_tasks, [&](int64_t task, int worker) {
    const int64_t first = task / row_tasks * input_step, row = task % row_tasks * step;
    MultiplyJob job{};
    job.w = stored;
    job.row_begin = begin + row;
    job.row_end = begin + std::min(count, row + step);
    job.x = x;
    job.first = first;
    job.count = std::min(inputs - first, input_step);
    job.out = out + first * out_stride + row;
    job.out_stride = out_stride;
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
  multiply(context, args.w, 0, args.w.rows, x, tokens, args.out.data(), args.out.stride(0), round);
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
  for (int64_t g = 0; g < groups; ++g) {
    Scratch::Scope scope(context.scratch);
    PackedRows x = pack_rows(context, route, args.w.format, args.x.data() + g * args.x.stride(1),
                             args.x.stride(0), tokens, cols);
    multiply(context, args.w, g * count, count, x, tokens, args.out.data() + g * args.out.stride(1),
             args.out.stride(0), context.numerics == Numerics::kNative);
  }
}

}  // namespace kvasir::cpu
