// Hyper-connections over threads. With many tokens a task does everything for a few of them, while their
// streams are in its cache; with few, the chunks of the mix are the tasks, since fn (1.5 MB at Flash) has to
// come from memory as fast as it can.
#include "backend/cpu/hyper_connection.h"

#include <algorithm>

#include "backend/cpu/hyper_connection_kernels.h"
#include "backend/cpu/row_kernels.h"
#include "base/check.h"

namespace kvasir::cpu {
namespace {

constexpr int64_t kTaskTokens = 8;    // their streams (64 KB each at Flash) stay in the second cache
constexpr int64_t kPieceDims = 1024;  // of one stream, in elementwise work on few tokens

// Rows (tokens) of one op and where their results go; arrays live in scratch.
struct Rows {
  int64_t count = 0;
  const float** streams;
  float** mix;  // complete sums
  float** pre;
  float** post;  // null for the head
  float** comb;  // as post
  float** x;
};

int64_t chunks_of(int64_t length) { return (length + kMixChunk - 1) / kMixChunk; }

Rows take_rows(CpuContext& context, int64_t count, int64_t columns, int hc, bool head) {
  Rows r;
  Scratch& s = context.scratch;
  r.count = count;
  r.streams = s.take<const float*>(count);
  r.mix = s.take<float*>(count);
  r.pre = s.take<float*>(count);
  r.post = head ? nullptr : s.take<float*>(count);
  r.comb = head ? nullptr : s.take<float*>(count);
  r.x = s.take<float*>(count);
  auto* mix = s.take<float>(count * (columns + 1));
  auto* pre = s.take<float>(count * hc);
  for (int64_t t = 0; t < count; ++t) {
    r.mix[t] = mix + t * (columns + 1);
    r.pre[t] = pre + t * hc;
  }
  return r;
}

// Adds the chunks of rows [begin, end) in order. partial[c][t] as mix_chunk wrote them.
void add_chunks(const Rows& r, int64_t begin, int64_t end, const float* const* partial, int64_t chunks,
                int64_t width) {
  for (int64_t t = begin; t < end; ++t) {
    std::copy(partial[t], partial[t] + width, r.mix[t]);
    for (int64_t c = 1; c < chunks; ++c)
      for (int64_t i = 0; i < width; ++i) r.mix[t][i] += partial[c * r.count + t][i];
  }
}

struct Job {
  const Rows& rows;
  const HyperConnectionKernels& kernels;
  CoefficientCall coefficients;
  const float* fn;
  int64_t columns, dim;
  bool round;

  MixCall mix(int64_t begin, int64_t end) const {
    return {fn, columns, coefficients.length, rows.streams + begin, end - begin};
  }
  void coefficients_of(int64_t begin, int64_t end) const {
    kernels.coefficients(coefficients, rows.mix + begin, end - begin, rows.pre + begin,
                         rows.post == nullptr ? nullptr : rows.post + begin,
                         rows.comb == nullptr ? nullptr : rows.comb + begin);
  }
  void collapse(int64_t t, int64_t from, int64_t n) const {
    kernels.collapse(rows.streams[t] + from, dim, rows.pre[t], coefficients.hc, n, round, rows.x[t] + from);
  }
};

void run(CpuContext& context, const Job& job) {
  const Rows& r = job.rows;
  int64_t chunks = chunks_of(job.coefficients.length), width = job.columns + 1;
  int64_t tasks = (r.count + kTaskTokens - 1) / kTaskTokens;
  auto* sums = context.scratch.take<float>(chunks * r.count * width);
  auto* partial = context.scratch.take<float*>(chunks * r.count);
  for (int64_t i = 0; i < chunks * r.count; ++i) partial[i] = sums + i * width;
  bool few = tasks < 2 * context.pool.size();
  if (few) {
    context.pool.run(chunks, [&](int64_t c, int) {
      job.kernels.mix_chunk(job.mix(0, r.count), c, partial + c * r.count);
    });
    add_chunks(r, 0, r.count, partial, chunks, width);
    job.coefficients_of(0, r.count);
    int64_t pieces = (job.dim + kPieceDims - 1) / kPieceDims;
    context.pool.run(r.count * pieces, [&](int64_t task, int) {
      int64_t from = task % pieces * kPieceDims;
      job.collapse(task / pieces, from, std::min(kPieceDims, job.dim - from));
    });
    return;
  }
  context.pool.run(tasks, [&](int64_t task, int) {
    int64_t begin = task * kTaskTokens, end = std::min(r.count, begin + kTaskTokens);
    for (int64_t c = 0; c < chunks; ++c)
      job.kernels.mix_chunk(job.mix(begin, end), c, partial + c * r.count + begin);
    add_chunks(r, begin, end, partial, chunks, width);
    job.coefficients_of(begin, end);
    for (int64_t t = begin; t < end; ++t) job.collapse(t, 0, job.dim);
  });
}

void check(const HyperConnectionWeights& w, View<const float, 3> streams, int64_t columns, int64_t scales) {
  int64_t hc = streams.shape(1), dim = streams.shape(2);
  KVASIR_CHECK(hc >= 1 && hc <= kMaxStreams, "{} streams", hc);
  KVASIR_CHECK(w.fn.shape(0) == columns && w.fn.shape(1) == hc * dim && w.fn.dense(),
               "fn [{}, {}], {} streams of {}", w.fn.shape(0), w.fn.shape(1), hc, dim);
  KVASIR_CHECK(w.base.shape(0) == columns && w.scale.shape(0) == scales, "base [{}], scale [{}]",
               w.base.shape(0), w.scale.shape(0));
  KVASIR_CHECK(streams.stride(2) == 1 && streams.stride(1) == dim, "the streams of a token must be dense");
}

}  // namespace

void hc_pre(CpuContext& context, const HcPreArgs& args) {
  int64_t tokens = args.streams.shape(0), hc = args.streams.shape(1), dim = args.streams.shape(2);
  if (tokens == 0) return;
  int64_t columns = (2 + hc) * hc;
  check(args.w, args.streams, columns, 3);
  KVASIR_CHECK(args.sinkhorn_iters >= 1, "{} Sinkhorn iterations", args.sinkhorn_iters);
  KVASIR_CHECK(args.x.shape(0) == tokens && args.x.shape(1) == dim && args.post.shape(0) == tokens &&
                   args.post.shape(1) == hc && args.comb.shape(0) == tokens && args.comb.shape(1) == hc &&
                   args.comb.shape(2) == hc,
               "x [{}, {}], post [{}, {}], comb [{}, {}, {}] for {} tokens", args.x.shape(0), args.x.shape(1),
               args.post.shape(0), args.post.shape(1), args.comb.shape(0), args.comb.shape(1),
               args.comb.shape(2), tokens);
  Scratch::Scope scope(context.scratch);
  Rows rows = take_rows(context, tokens, columns, static_cast<int>(hc), false);
  for (int64_t t = 0; t < tokens; ++t) {
    rows.streams[t] = args.streams.row(t);
    rows.post[t] = args.post.row(t);
    rows.comb[t] = args.comb.row(t);
    rows.x[t] = args.x.row(t);
  }
  CoefficientCall c{args.w.base.data(), args.w.scale.data(), static_cast<int>(hc), hc * dim,
                    args.norm_eps,      args.sinkhorn_eps,   args.sinkhorn_iters};
  run(context, {rows, hyper_connection_kernels(context.isa), c, args.w.fn.data(), columns, dim,
                context.numerics == Numerics::kNative});
}

void hc_head(CpuContext& context, const HcHeadArgs& args) {
  int64_t count = args.rows.shape(0), hc = args.streams.shape(1), dim = args.streams.shape(2);
  if (count == 0) return;
  check(args.w, args.streams, hc, 1);
  KVASIR_CHECK(args.x.shape(0) == count && args.x.shape(1) == dim, "x [{}, {}] for {} rows", args.x.shape(0),
               args.x.shape(1), count);
  Scratch::Scope scope(context.scratch);
  Rows rows = take_rows(context, count, hc, static_cast<int>(hc), true);
  for (int64_t t = 0; t < count; ++t) {
    KVASIR_CHECK(args.rows(t) >= 0 && args.rows(t) < args.streams.shape(0), "row {} of {}", args.rows(t),
                 args.streams.shape(0));
    rows.streams[t] = args.streams.row(args.rows(t));
    rows.x[t] = args.x.row(t);
  }
  CoefficientCall c{
      args.w.base.data(), args.w.scale.data(), static_cast<int>(hc), hc * dim, args.norm_eps, args.hc_eps, 0};
  run(context, {rows, hyper_connection_kernels(context.isa), c, args.w.fn.data(), hc, dim,
                context.numerics == Numerics::kNative});
}

void hc_post(CpuContext& context, const HcPostArgs& args) {
  int64_t tokens = args.streams.shape(0), hc = args.streams.shape(1), dim = args.streams.shape(2);
  if (tokens == 0) return;
  KVASIR_CHECK(hc <= kMaxStreams && args.y.shape(0) == tokens && args.y.shape(1) == dim &&
                   args.post.shape(0) == tokens && args.post.shape(1) == hc && args.comb.shape(0) == tokens &&
                   args.comb.shape(1) == hc && args.comb.shape(2) == hc,
               "y [{}, {}], post [{}, {}] for streams [{}, {}, {}]", args.y.shape(0), args.y.shape(1),
               args.post.shape(0), args.post.shape(1), tokens, hc, dim);
  KVASIR_CHECK(args.streams.stride(2) == 1 && args.streams.stride(1) == dim && args.comb.stride(1) == hc &&
                   args.comb.stride(2) == 1 && args.y.stride(1) == 1 && args.post.stride(1) == 1,
               "rows must be dense");
  const HyperConnectionKernels& kernels = hyper_connection_kernels(context.isa);
  int64_t pieces = (dim + kPieceDims - 1) / kPieceDims;
  context.pool.run(tokens * pieces, [&](int64_t task, int) {
    int64_t t = task / pieces, from = task % pieces * kPieceDims;
    kernels.expand(args.streams.row(t) + from, dim, args.y.row(t) + from, args.post.row(t), args.comb.row(t),
                   static_cast<int>(hc), std::min(kPieceDims, dim - from),
                   context.numerics == Numerics::kNative);
  });
}

void mtp_join(CpuContext& context, const MtpJoinArgs& args) {
  int64_t tokens = args.h.shape(0), hc = args.h.shape(1), dim = args.h.shape(2);
  if (tokens == 0) return;
  KVASIR_CHECK(args.streams.shape() == args.h.shape() && args.e.shape(0) == tokens && args.e.shape(1) == dim,
               "h [{}, {}, {}], e [{}, {}]", tokens, hc, dim, args.e.shape(0), args.e.shape(1));
  KVASIR_CHECK(args.h.stride(2) == 1 && args.e.stride(1) == 1 && args.streams.stride(2) == 1,
               "rows must be dense");
  const RowKernels& kernels = row_kernels(context.isa);
  context.pool.run(tokens, [&](int64_t t, int) {
    for (int64_t s = 0; s < hc; ++s)
      kernels.add(args.h.row(t) + s * args.h.stride(1), args.e.row(t), dim,
                  context.numerics == Numerics::kNative, args.streams.row(t) + s * args.streams.stride(1));
  });
}

}  // namespace kvasir::cpu
