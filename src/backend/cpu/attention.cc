// Baseline side of attention: checks, the split into blocks and segments, and the copies around the window
// ring.
//
// Many queries: a task is a block of neighbouring queries that share decoded keys. Few queries (decode): a
// task is one segment of keys for one group of heads, and a second pass merges the segments in order. Both
// compute the same bits (attention_kernels.h), so the choice may depend on the number of threads.
#include "backend/cpu/attention.h"

#include <algorithm>
#include <cstring>

#include "backend/cpu/attention_kernels.h"
#include "backend/cpu/row_kernels.h"
#include "base/check.h"

namespace kvasir::cpu {
namespace {

constexpr int64_t kBlockRows = 128;    // (query, head) rows that share a decoded tile
constexpr int64_t kBlockQueries = 16;  // at most; neighbours further apart share less of the window
constexpr int64_t kMaxPartialBytes = int64_t{64} << 20;

void check(const AttendSequence& a) {
  int64_t tokens = a.q.shape(0), dim = a.q.shape(2);
  KVASIR_CHECK(a.out.shape() == a.q.shape(), "out is [{}, {}, {}], q [{}, {}, {}]", a.out.shape(0),
               a.out.shape(1), a.out.shape(2), tokens, a.q.shape(1), dim);
  KVASIR_CHECK(a.q.stride(2) == 1 && a.out.stride(2) == 1, "rows of q and out must be dense");
  KVASIR_CHECK(a.sink.shape(0) == a.q.shape(1) && a.sink.stride(0) == 1, "{} sinks, {} heads",
               a.sink.shape(0), a.q.shape(1));
  KVASIR_CHECK(a.format.dim == dim, "stored rows have {} dims, q {}", a.format.dim, dim);
  KVASIR_CHECK(a.window > 0, "window {}", a.window);
  KVASIR_CHECK(a.start == 0 || a.ring_capacity >= std::min<int64_t>(a.start, a.window - 1),
               "a ring of {} rows, {} earlier tokens, window {}", a.ring_capacity, a.start, a.window);
  if (a.choice == EntryChoice::kNone) return;
  KVASIR_CHECK(a.ratio > 0 && a.entries.rows_per_page > 0, "ratio {}, {} rows a page", a.ratio,
               a.entries.rows_per_page);
  KVASIR_CHECK(a.choice == EntryChoice::kAll || (a.selected.shape(0) == tokens && a.selected.stride(1) == 1),
               "{} rows of selected entries, {} tokens", a.selected.shape(0), tokens);
}

// Entries that each query sees.
const int32_t* count_entries(CpuContext& context, const AttendSequence& a) {
  int64_t tokens = a.q.shape(0);
  auto* counts = context.scratch.take<int32_t>(tokens);
  for (int64_t i = 0; i < tokens; ++i) {
    int64_t visible = a.choice == EntryChoice::kNone ? 0 : (a.start + i + 1) / a.ratio;
    if (a.choice == EntryChoice::kSelected) {
      const int32_t* row = a.selected.row(i);
      const int32_t* end = std::find(row, row + a.selected.shape(1), -1);
      for (const int32_t* e = row; e != end; ++e)
        KVASIR_CHECK(*e >= 0 && *e < visible, "entry {} selected, {} visible", *e, visible);
      visible = end - row;
    }
    counts[i] = static_cast<int32_t>(visible);
  }
  return counts;
}

AttendCall call_of(CpuContext& context, const AttendSequence& a) {
  AttendCall c;
  c.q = a.q.data();
  c.q_token = a.q.stride(0);
  c.q_head = a.q.stride(1);
  c.sink = a.sink.data();
  c.heads = static_cast<int>(a.q.shape(1));
  c.dim = a.format.dim;
  c.start = a.start;
  c.window = a.window;
  c.quantised = a.format.quantised;
  c.nope = a.format.dim - a.format.rope_dim;
  c.rope = a.format.rope_dim;
  c.data_bytes = a.format.data_bytes;
  c.scale_bytes = a.format.scale_bytes;
  c.ring = a.ring;
  c.rows = a.rows;
  c.ring_capacity = a.ring_capacity;
  c.choice = a.choice;
  c.ratio = a.ratio;
  c.selected = a.selected.data();
  c.selected_row = a.selected.stride(0);
  c.counts = count_entries(context, a);
  c.pages = a.pages;
  c.entries = a.entries;
  c.out = a.out.data();
  c.out_token = a.out.stride(0);
  c.out_head = a.out.stride(1);
  c.numerics = context.numerics;
  return c;
}

// How one call is cut. A task is (block, segment, group) when segmented, else (block, group).
struct Plan {
  int64_t tokens, queries, blocks, segments, groups;
  int heads;
  bool segmented;

  AttendBlock block(int64_t b, int64_t group) const {
    AttendBlock k;
    k.q0 = b * queries;
    k.q1 = std::min(k.q0 + queries, tokens);
    k.h0 = static_cast<int>(heads * group / groups);
    k.h1 = static_cast<int>(heads * (group + 1) / groups);
    return k;
  }
};

Plan plan(const AttendCall& call, int64_t tokens, int64_t padded_dim, int threads) {
  Plan p{};
  p.tokens = tokens;
  p.heads = call.heads;
  p.queries = std::clamp<int64_t>(kBlockRows / call.heads, 1, kBlockQueries);
  p.blocks = (tokens + p.queries - 1) / p.queries;
  p.groups = 1;
  int32_t most = *std::max_element(call.counts, call.counts + tokens);
  bool whole = call.numerics == Numerics::kNative;  // its weights need the maximum over all keys
  p.segments = whole ? 1 : 1 + (most + kSegmentKeys - 1) / kSegmentKeys;
  if (threads == 1 || p.blocks >= 2 * threads) return p;
  while (p.blocks * p.segments * p.groups < 3 * threads && call.heads >= 32 * p.groups) p.groups *= 2;
  int64_t partial_bytes =
      p.blocks * p.queries * call.heads * p.segments * (padded_dim + 2) * int64_t{sizeof(float)};
  p.segmented = p.segments > 1 && partial_bytes <= kMaxPartialBytes;
  return p;
}

void run_segmented(CpuContext& context, const AttentionKernels& kernels, const AttendCall& call,
                   const Plan& p, std::byte* scratch, int64_t scratch_bytes) {
  int64_t dim = kernels.padded_dim(call.dim), rows = p.queries * call.heads;
  int64_t pieces = p.blocks * p.groups;
  auto* stats = context.scratch.take<float>(p.blocks * p.segments * rows * 2);
  auto* sums = context.scratch.take<float>(p.blocks * p.segments * rows * dim);
  auto* partials = context.scratch.take<AttendPartial>(pieces * p.segments);
  for (int64_t piece = 0; piece < pieces; ++piece) {
    for (int64_t s = 0; s < p.segments; ++s) {
      int64_t first =
          (piece / p.groups * p.segments + s) * rows + p.queries * p.block(0, piece % p.groups).h0;
      partials[piece * p.segments + s] = {stats + 2 * first, sums + dim * first};
    }
  }
  context.pool.run(pieces * p.segments, [&](int64_t task, int worker) {
    int64_t piece = task / p.segments;
    AttendBlock block = p.block(piece / p.groups, piece % p.groups);
    kernels.attend_segment(call, block, task % p.segments, partials[task], scratch + worker * scratch_bytes);
  });
  context.pool.run(pieces, [&](int64_t piece, int) {
    AttendBlock block = p.block(piece / p.groups, piece % p.groups);
    kernels.merge(call, block, partials + piece * p.segments, p.segments);
  });
}

}  // namespace

void attend(CpuContext& context, const AttendSequence& args) {
  int64_t tokens = args.q.shape(0);
  if (tokens == 0) return;
  check(args);
  Scratch::Scope scope(context.scratch);
  const AttentionKernels& kernels = attention_kernels(context.isa);
  AttendCall call = call_of(context, args);
  Plan p = plan(call, tokens, kernels.padded_dim(call.dim), context.pool.size());
  int64_t bytes = kernels.scratch_bytes(p.queries * call.heads, call.dim);
  auto* scratch = context.scratch.take<std::byte>(bytes * context.pool.size());
  if (p.segmented) {
    run_segmented(context, kernels, call, p, scratch, bytes);
    return;
  }
  context.pool.run(p.blocks * p.groups, [&](int64_t task, int worker) {
    kernels.attend(call, p.block(task / p.groups, task % p.groups), scratch + worker * bytes);
  });
}

void store_window(CpuContext& context, const StoreWindowArgs& args) {
  int64_t tokens = args.kv.shape(0);
  if (tokens == 0) return;
  const KvRowFormat& f = args.format;
  KVASIR_CHECK(args.kv.shape(1) == f.dim && args.kv.stride(1) == 1, "rows of {} values, format {}",
               args.kv.shape(1), f.dim);
  KVASIR_CHECK(args.table.shape(0) == tokens && args.table.shape(2) == 2 && args.table.dense(),
               "table of {} rows, {} tokens", args.table.shape(0), tokens);
  int64_t rope = 2 * args.table.shape(1);
  Scratch::Scope scope(context.scratch);
  auto* rows = context.scratch.take<float>(int64_t{f.dim} * context.pool.size());
  const RowKernels& kernels = row_kernels(context.isa);
  constexpr int64_t kRows = 16;  // a task
  context.pool.run((tokens + kRows - 1) / kRows, [&](int64_t task, int worker) {
    float* row = rows + int64_t{f.dim} * worker;
    for (int64_t i = task * kRows; i < std::min(tokens, (task + 1) * kRows); ++i) {
      std::memcpy(row, args.kv.row(i), sizeof(float) * static_cast<size_t>(f.dim));
      kernels.rope(row + f.dim - rope, args.table.row(i), rope, 1.f, context.numerics == Numerics::kNative);
      kernels.encode(f, row, args.out.row_data(f, i), args.out.row_scale(f, i));
    }
  });
}

void commit_window(CpuContext&, const CommitWindowSequence& args) {
  KVASIR_CHECK(args.tokens == 0 || args.capacity > 0, "a ring of {} rows for {} tokens", args.capacity,
               args.tokens);
  const KvRowFormat& f = args.format;
  for (int64_t i = std::max<int64_t>(0, args.tokens - args.capacity); i < args.tokens; ++i) {
    int64_t slot = (args.start + i) % args.capacity;
    std::memcpy(args.ring.row_data(f, slot), args.rows.row_data(f, i), static_cast<size_t>(f.data_bytes));
    if (f.scale_bytes > 0)
      std::memcpy(args.ring.row_scale(f, slot), args.rows.row_scale(f, i),
                  static_cast<size_t>(f.scale_bytes));
  }
}

}  // namespace kvasir::cpu
