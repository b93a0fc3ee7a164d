// Compressor: one task a group, then the tail ring. Groups are finished before the ring is written, since
// both a group and the step's last tokens may use the same slot.
#include "backend/cpu/compressor.h"

#include <algorithm>
#include <cstring>

#include "backend/cpu/rope.h"
#include "backend/cpu/row_kernels.h"
#include "base/check.h"

namespace kvasir::cpu {
namespace {

void check(const CompressSequence& a) {
  int64_t tokens = a.kv.shape(0), width = int64_t{a.lanes} * a.format.dim;
  KVASIR_CHECK(a.lanes == 1 || a.lanes == 2, "{} lanes", a.lanes);
  KVASIR_CHECK(a.kv.shape(1) == width && a.score.shape(1) == width && a.score.shape(0) == tokens,
               "kv [{}, {}], score [{}, {}], {} lanes of {}", tokens, a.kv.shape(1), a.score.shape(0),
               a.score.shape(1), a.lanes, a.format.dim);
  KVASIR_CHECK(a.ape.shape(0) == a.ratio && a.ape.shape(1) == width, "ape [{}, {}]", a.ape.shape(0),
               a.ape.shape(1));
  KVASIR_CHECK(a.kv.stride(1) == 1 && a.score.stride(1) == 1 && a.ape.stride(1) == 1, "rows must be dense");
  KVASIR_CHECK(a.norm.shape(0) == a.format.dim && a.norm.stride(0) == 1, "norm of {}", a.norm.shape(0));
  KVASIR_CHECK(2 * a.inv_freq.shape(0) <= a.format.dim, "{} frequencies", a.inv_freq.shape(0));
  KVASIR_CHECK(a.tail != nullptr && a.tail_capacity >= a.lanes * a.ratio - 1, "a tail of {} rows",
               a.tail_capacity);
  KVASIR_CHECK(a.kind == CompressKind::kEntry || (a.format.dim & (a.format.dim - 1)) == 0,
               "index keys of {} dims", a.format.dim);
}

// The rows that group b pools, oldest first; returns how many.
int64_t rows_of_group(const CompressSequence& a, int64_t b, PoolRow* rows) {
  int64_t width = int64_t{a.lanes} * a.format.dim, count = 0;
  int64_t end = (b + 1) * a.ratio;
  for (int64_t p = std::max<int64_t>(0, end - int64_t{a.lanes} * a.ratio); p < end; ++p, ++count) {
    int64_t channel = a.lanes == 2 && p >= end - a.ratio ? a.format.dim : 0;
    if (p < a.start) {
      const float* row = a.tail + p % a.tail_capacity * 2 * width;
      rows[count] = {row + channel, row + width + channel, nullptr};
    } else {
      int64_t i = p - a.start;
      rows[count] = {a.kv.row(i) + channel, a.score.row(i) + channel, a.ape.row(p % a.ratio) + channel};
    }
  }
  return count;
}

struct GroupScratch {
  PoolRow* rows;
  float* values;  // [d]
  float* angles;  // [R/2][2]
};

void compress_group(const CompressSequence& a, const RowKernels& kernels, bool round, int64_t b,
                    const GroupScratch& s) {
  int64_t dim = a.format.dim, rope = 2 * a.inv_freq.shape(0);
  int64_t count = rows_of_group(a, b, s.rows);
  kernels.pool(s.rows, count, dim, round, s.values);
  kernels.rms_norm(s.values, a.norm.data(), a.norm_eps, dim, round, s.values);
  rope_row(a.inv_freq, b * a.ratio, s.angles);
  kernels.rope(s.values + dim - rope, s.angles, rope, 1.f, round);
  if (a.kind == CompressKind::kIndexKey) kernels.hadamard(s.values, dim, round);
  KvRows page = a.section.in_page(a.pages[b / a.section.rows_per_page]);
  int64_t r = b % a.section.rows_per_page;
  kernels.encode(a.format, s.values, page.row_data(a.format, r), page.row_scale(a.format, r));
}

void write_tail(CpuContext& context, const CompressSequence& a, const RowKernels& kernels) {
  int64_t tokens = a.kv.shape(0), width = int64_t{a.lanes} * a.format.dim;
  int64_t first = std::max<int64_t>(0, tokens - a.tail_capacity);
  constexpr int64_t kRows = 16;  // a task
  context.pool.run((tokens - first + kRows - 1) / kRows, [&](int64_t task, int) {
    for (int64_t i = first + task * kRows; i < std::min(tokens, first + (task + 1) * kRows); ++i) {
      float* row = a.tail + (a.start + i) % a.tail_capacity * 2 * width;
      std::memcpy(row, a.kv.row(i), sizeof(float) * static_cast<size_t>(width));
      kernels.add(a.score.row(i), a.ape.row((a.start + i) % a.ratio), width, false, row + width);
    }
  });
}

}  // namespace

void compress(CpuContext& context, const CompressSequence& args) {
  int64_t tokens = args.kv.shape(0);
  if (tokens == 0) return;
  check(args);
  const RowKernels& kernels = row_kernels(context.isa);
  Scratch::Scope scope(context.scratch);
  int threads = context.pool.size();
  int64_t pooled = int64_t{args.lanes} * args.ratio, rope = 2 * args.inv_freq.shape(0);
  auto* rows = context.scratch.take<PoolRow>(pooled * threads);
  auto* values = context.scratch.take<float>((args.format.dim + rope) * threads);
  int64_t first = args.start / args.ratio, last = (args.start + tokens) / args.ratio;
  context.pool.run(last - first, [&](int64_t task, int worker) {
    float* own = values + (args.format.dim + rope) * worker;
    GroupScratch s{rows + pooled * worker, own, own + args.format.dim};
    compress_group(args, kernels, context.numerics == Numerics::kNative, first + task, s);
  });
  write_tail(context, args, kernels);
}

}  // namespace kvasir::cpu
