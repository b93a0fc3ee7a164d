// Baseline side of the indexer: checks, and the cut of (queries x keys) into tasks.
//
// Many queries: a task is a block of queries over all their keys. Few (decode): keys are cut into spans too,
// each task keeps the best of its span, and a second pass joins the spans of a query in ascending order.
#include "backend/cpu/indexer.h"

#include <algorithm>

#include "backend/cpu/indexer_kernels.h"
#include "backend/cpu/row_kernels.h"
#include "tensor/dtype.h"
#include "base/check.h"

namespace kvasir::cpu {
namespace {

constexpr int64_t kBlockValues =
    65536;  // query values of a block: expanding a key is paid by this many products
constexpr int64_t kMaxQueries = 64, kMinQueries = 4;
constexpr int64_t kMinSpan = 2048;  // keys

struct Plan {
  int64_t tokens, queries, blocks;  // queries of one block
  int64_t keys, span, spans;        // keys of one span
};

Plan plan(const IndexCall& call, int64_t tokens, int threads) {
  Plan p{};
  p.tokens = tokens;
  int64_t fair = (tokens + 2 * threads - 1) / (2 * threads);
  p.queries =
      std::clamp(std::min(kBlockValues / (int64_t{call.heads} * call.dim), fair), kMinQueries, kMaxQueries);
  p.blocks = (tokens + p.queries - 1) / p.queries;
  p.keys = call.visible[tokens - 1];
  int64_t wanted = threads == 1 || p.blocks >= 2 * threads ? 1 : (4 * threads + p.blocks - 1) / p.blocks;
  p.span = std::max(kMinSpan, ((p.keys + wanted - 1) / wanted + kKeyGroup - 1) / kKeyGroup * kKeyGroup);
  p.spans = std::max<int64_t>(1, (p.keys + p.span - 1) / p.span);
  return p;
}

// Writes row i of `selected`: all entries when they fit, else the best in ascending order.
void write_row(const IndexSelectSequence& args, int64_t i, int64_t visible, const IndexCandidates& best) {
  int32_t* out = args.selected.row(i);
  int64_t topk = args.selected.shape(1), n = std::min(visible, topk);
  if (visible <= topk) {
    for (int64_t e = 0; e < n; ++e) out[e] = static_cast<int32_t>(e);
  } else {
    n = std::min(best.count, topk);
    std::copy(best.entries, best.entries + n, out);
  }
  std::fill(out + n, out + topk, -1);
}

IndexCandidates take_candidates(Scratch& scratch, int64_t capacity) {
  IndexCandidates c;
  c.scores = scratch.take<float>(capacity);
  c.entries = scratch.take<int32_t>(capacity);
  return c;
}

void select_whole(CpuContext& context, const IndexSelectSequence& args, const IndexerKernels& kernels,
                  const IndexCall& call, const Plan& p, std::byte* scratch, int64_t scratch_bytes) {
  int threads = context.pool.size();
  auto* best = context.scratch.take<IndexCandidates>(threads * p.queries);
  for (int64_t i = 0; i < threads * p.queries; ++i)
    best[i] = take_candidates(context.scratch, IndexCandidates::capacity(call.topk));
  context.pool.run(p.blocks, [&](int64_t task, int worker) {
    // Later blocks see more keys: they go first, so that the last task to end is a short one.
    int64_t block = p.blocks - 1 - task, q0 = block * p.queries, q1 = std::min(p.tokens, q0 + p.queries);
    IndexCandidates* own = best + worker * p.queries;
    if (call.visible[q1 - 1] > call.topk)
      kernels.scan(call, q0, q1, 0, p.keys, own, scratch + worker * scratch_bytes);
    for (int64_t i = q0; i < q1; ++i) {
      kernels.shrink(own[i - q0], call.topk);
      write_row(args, i, call.visible[i], own[i - q0]);
    }
  });
}

void select_spans(CpuContext& context, const IndexSelectSequence& args, const IndexerKernels& kernels,
                  const IndexCall& call, const Plan& p, std::byte* scratch, int64_t scratch_bytes) {
  auto* best = context.scratch.take<IndexCandidates>(p.blocks * p.spans * p.queries);
  for (int64_t i = 0; i < p.blocks * p.spans * p.queries; ++i)
    best[i] = take_candidates(context.scratch, IndexCandidates::capacity(call.topk));
  context.pool.run(p.blocks * p.spans, [&](int64_t task, int worker) {
    int64_t q0 = task / p.spans * p.queries, q1 = std::min(p.tokens, q0 + p.queries),
            begin = task % p.spans * p.span;
    IndexCandidates* own = best + task * p.queries;
    kernels.scan(call, q0, q1, begin, std::min(p.keys, begin + p.span), own,
                 scratch + worker * scratch_bytes);
    for (int64_t i = 0; i < q1 - q0; ++i) kernels.shrink(own[i], call.topk);
  });
  auto* joined = context.scratch.take<IndexCandidates>(context.pool.size());
  for (int w = 0; w < context.pool.size(); ++w)
    joined[w] = take_candidates(context.scratch, p.spans * call.topk + 2 * kKeyGroup);
  context.pool.run(p.tokens, [&](int64_t i, int worker) {
    IndexCandidates& all = joined[worker];
    all.count = 0;
    for (int64_t s = 0; s < p.spans; ++s) {
      const IndexCandidates& part = best[(i / p.queries * p.spans + s) * p.queries + i % p.queries];
      std::copy(part.scores, part.scores + part.count, all.scores + all.count);
      std::copy(part.entries, part.entries + part.count, all.entries + all.count);
      all.count += part.count;
    }
    kernels.shrink(all, call.topk);
    write_row(args, i, call.visible[i], all);
  });
}

IndexCall call_of(CpuContext& context, const IndexSelectSequence& a) {
  int64_t tokens = a.q.shape(0);
  KVASIR_CHECK(
      a.weight.shape(0) == tokens && a.weight.shape(1) == a.q.shape(1) && a.selected.shape(0) == tokens,
      "q of {} rows, weight [{}, {}], selected of {} rows", tokens, a.weight.shape(0), a.weight.shape(1),
      a.selected.shape(0));
  KVASIR_CHECK(a.q.stride(2) == 1 && a.weight.stride(1) == 1 && a.selected.stride(1) == 1,
               "rows must be dense");
  KVASIR_CHECK(a.format.dim == a.q.shape(2) && a.format.dim % 32 == 0 && a.format.dim <= kMaxIndexDim &&
                   a.selected.shape(1) > 0,
               "keys of {} dims, q of {}, {} selected", a.format.dim, a.q.shape(2), a.selected.shape(1));
  KVASIR_CHECK(a.ratio > 0 && a.keys.rows_per_page > 0, "ratio {}, {} rows a page", a.ratio,
               a.keys.rows_per_page);
  IndexCall c;
  c.q = a.q.data();
  c.q_token = a.q.stride(0);
  c.q_head = a.q.stride(1);
  c.weight = a.weight.data();
  c.weight_token = a.weight.stride(0);
  c.heads = static_cast<int>(a.q.shape(1));
  c.dim = a.format.dim;
  c.quantised = a.format.quantised;
  c.data_bytes = a.format.data_bytes;
  c.scale_bytes = a.format.scale_bytes;
  c.pages = a.pages;
  c.keys = a.keys;
  auto* visible = context.scratch.take<int64_t>(tokens);
  for (int64_t i = 0; i < tokens; ++i) visible[i] = (a.start + i + 1) / a.ratio;
  c.visible = visible;
  c.topk = a.selected.shape(1);
  c.numerics = context.numerics;
  return c;
}

}  // namespace

void index_query(CpuContext& context, const IndexQueryArgs& args) {
  int64_t tokens = args.q.shape(0), heads = args.q.shape(1), dim = args.q.shape(2),
          rope = 2 * args.table.shape(1);
  if (tokens == 0) return;
  KVASIR_CHECK(args.q.stride(2) == 1 && (dim & (dim - 1)) == 0 && dim % 32 == 0, "q of {} dims", dim);
  KVASIR_CHECK(args.table.shape(0) == tokens && rope <= dim && args.table.dense(),
               "table of {} rows, {} tokens", args.table.shape(0), tokens);
  const RowKernels& kernels = row_kernels(context.isa);
  bool round = context.numerics == Numerics::kNative;
  context.pool.run(tokens, [&](int64_t t, int) {
    for (int64_t h = 0; h < heads; ++h) {
      float* q = args.q.row(t) + h * args.q.stride(1);
      kernels.rope(q + dim - rope, args.table.row(t), rope, 1.f, round);
      kernels.hadamard(q, dim, round);
      if (round) kernels.round_trip_fp4(q, dim);
      float& weight = args.weight(t, h);
      weight = round ? round_bf16(weight * args.weight_scale) : weight * args.weight_scale;
    }
  });
}

void index_select(CpuContext& context, const IndexSelectSequence& args) {
  int64_t tokens = args.q.shape(0);
  if (tokens == 0) return;
  Scratch::Scope scope(context.scratch);
  IndexCall call = call_of(context, args);
  if (call.visible[tokens - 1] <= call.topk) {
    for (int64_t i = 0; i < tokens; ++i) write_row(args, i, call.visible[i], {});
    return;
  }
  const IndexerKernels& kernels = indexer_kernels(context.isa);
  Plan p = plan(call, tokens, context.pool.size());
  int64_t bytes = kernels.scratch_bytes(call, p.queries);
  auto* scratch = context.scratch.take<std::byte>(bytes * context.pool.size());
  if (p.spans == 1) {
    select_whole(context, args, kernels, call, p, scratch, bytes);
  } else {
    select_spans(context, args, kernels, call, p, scratch, bytes);
  }
}

}  // namespace kvasir::cpu
