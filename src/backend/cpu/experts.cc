// Tokens are sorted by expert; every expert's weights are then read once per call.
//
// Each batch of experts takes two forks. The first makes gate and up products, activates them and packs the
// result for w2, a chunk of the inner dimension per task. In the second a task owns some output columns: it
// adds its experts' products to them in ascending expert id, so the order of a token's sum is fixed by the
// model alone. The shared expert is one more expert, last, whose slots are all tokens.
#include "backend/cpu/experts.h"

#include <algorithm>

#include "backend/cpu/linear.h"
#include "base/check.h"
#include "tensor/dtype.h"

namespace kvasir::cpu {
namespace {

constexpr int64_t kChunk = 128;  // inner columns per task: a block of packing, so chunks pack on their own
constexpr int64_t kInputTile = 2 * kWideTile;  // inputs whose products a worker holds at a time
constexpr int64_t kBatchSlots = 4096;  // slots per batch of experts: bounds the memory for activations

// One expert's part of the call: slots [begin, begin + count) of the sorted order.
struct Group {
  const ExpertWeights* weights;
  int64_t begin, count;
  Route route_in, route_out;
  PackedRows in;            // narrow routes: the call's tokens; wide ones: this group's
  const int32_t* in_index;  // narrow routes: the slots' tokens
  PackedRows hidden;        // in front of w2, one row per slot
};

struct Plan {
  int32_t* token;  // of each sorted slot; the shared expert's slots follow the routed ones
  float* weight;   // of each sorted slot
  Group* groups;
  int64_t group_count;
};

void check(const ExpertsArgs& a) {
  const int64_t tokens = a.x.shape(0), dim = a.x.shape(1);
  KVASIR_CHECK(a.out.shape(0) == tokens && a.out.shape(1) == dim, "out is [{}, {}], expected [{}, {}]",
               a.out.shape(0), a.out.shape(1), tokens, dim);
  KVASIR_CHECK(a.experts.shape(0) == tokens && a.weights.shape(0) == tokens &&
                   a.experts.shape(1) == a.weights.shape(1),
               "experts [{}, {}] and weights [{}, {}] for {} tokens", a.experts.shape(0), a.experts.shape(1),
               a.weights.shape(0), a.weights.shape(1), tokens);
  KVASIR_CHECK(a.x.stride(1) == 1 && a.out.stride(1) == 1, "rows must be dense");
  auto check_one = [dim](const ExpertWeights& e) {
    KVASIR_CHECK(e.w1.cols == dim && e.w3.cols == dim && e.w2.rows == dim && e.w1.rows == e.w2.cols &&
                     e.w3.rows == e.w2.cols,
                 "w1 [{}, {}], w3 [{}, {}], w2 [{}, {}] for dim {}", e.w1.rows, e.w1.cols, e.w3.rows,
                 e.w3.cols, e.w2.rows, e.w2.cols, dim);
    KVASIR_CHECK(e.w1.format == e.w3.format, "w1 and w3 are stored differently");
  };
  for (int64_t e = 0; e < a.routed.shape(0); ++e) check_one(a.routed(e));
  if (!a.shared.w1.empty()) check_one(a.shared);
}

// Counting sort of the slots by expert; within an expert by token, then by slot.
Plan make_plan(CpuContext& context, const ExpertsArgs& a) {
  const int64_t tokens = a.x.shape(0), k = a.experts.shape(1),
                experts = a.routed.shape(0);
  Plan plan{};
  plan.token = context.scratch.take<int32_t>(tokens * (k + 1));
  plan.weight = context.scratch.take<float>(tokens * (k + 1));
  plan.groups = context.scratch.take<Group>(experts + 1);
  auto* begin = context.scratch.take<int64_t>(experts + 1);
  std::fill(begin, begin + experts + 1, 0);
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t s = 0; s < k; ++s) {
      int32_t e = a.experts(t, s);
      KVASIR_CHECK(e >= 0 && e < experts, "token {} asks for expert {} of {}", t, e, experts);
      ++begin[e + 1];
    }
  }
  for (int64_t e = 0; e < experts; ++e) begin[e + 1] += begin[e];
  auto add_group = [&](const ExpertWeights& w, int64_t first, int64_t count) {
    Group& g = plan.groups[plan.group_count++];
    // In a call of few rows all groups go the narrow way, so that a token does not feel its neighbours; in a
    // larger one an expert with few tokens does, because decoding panels for it would not pay.
    int64_t rows = tokens <= kNarrowRows ? tokens : count;
    g = {};
    g.weights = &w;
    g.begin = first;
    g.count = count;
    g.route_in = choose_route(context, LinearKind::kQuantised, w.w1.format, rows);
    g.route_out = choose_route(context, LinearKind::kQuantised, w.w2.format, rows);
  };
  for (int64_t e = 0; e < experts; ++e)
    if (begin[e + 1] > begin[e]) add_group(a.routed(e), begin[e], begin[e + 1] - begin[e]);
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t s = 0; s < k; ++s) {
      int64_t at = begin[a.experts(t, s)]++;
      plan.token[at] = static_cast<int32_t>(t);
      plan.weight[at] = a.weights(t, s);
    }
    plan.token[tokens * k + t] = static_cast<int32_t>(t);
    plan.weight[tokens * k + t] = 1.f;
  }
  if (!a.shared.w1.empty()) add_group(a.shared, tokens * k, tokens);
  return plan;
}

// Inputs of the narrow groups: the call's tokens, packed once for every (route, format) that some group
// wants.
void pack_tokens(CpuContext& context, const ExpertsArgs& a, const Plan& plan) {
  PackedRows packed[kRouteCount][4] = {};
  for (Group* group = plan.groups; group < plan.groups + plan.group_count; ++group) {
    if (is_wide(group->route_in)) continue;
    const WeightFormat format = group->weights->w1.format;
    PackedRows& rows = packed[static_cast<int>(group->route_in)][static_cast<int>(stored_format(format))];
    if (rows.data == nullptr)
      rows =
          pack_rows(context, group->route_in, format, a.x.data(), a.x.stride(0), a.x.shape(0), a.x.shape(1));
    group->in = rows;
    group->in_index = plan.token + group->begin;
  }
}

// Consecutive groups that are computed together, and the tasks that `per_group` cuts each of them into.
struct Batch {
  Group* groups;
  int64_t count;

  template <class Fn>
  int64_t tasks(Fn per_group) const {
    int64_t n = 0;
    for (const Group* g = groups; g < groups + count; ++g) n += per_group(*g);
    return n;
  }
  // The group that `task` belongs to; `task` becomes its number within the group.
  template <class Fn>
  const Group& find(int64_t& task, Fn per_group) const {
    const Group* g = groups;
    for (; task >= per_group(*g); ++g) task -= per_group(*g);
    return *g;
  }
};

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Inputs of the wide groups: their own tokens side by side.
void pack_slots(CpuContext& context, const ExpertsArgs& a, const Plan& plan, const Batch& batch) {
  const LinearKernels& kernels = linear_kernels(context.isa);
  for (Group* g = batch.groups; g < batch.groups + batch.count; ++g)
    if (is_wide(g->route_in))
      g->in = take_packed(context, g->route_in, g->weights->w1.format, g->count, a.x.shape(1));
  auto tiles = [&](const Group& g) {
    return is_wide(g.route_in) ? divide_up(g.count, kernels.tile_rows(g.route_in)) : 0;
  };
  context.pool.run(batch.tasks(tiles), [&](int64_t task, int) {
    const Group& g = batch.find(task, tiles);
    const int64_t tile = kernels.tile_rows(g.route_in), begin = task * tile;
    pack_tiles(kernels, g.in, begin, std::min(g.count, begin + tile), 0, g.in.cols,
               [&](int64_t i) { return a.x.row(plan.token[g.begin + i]); });
  });
}

// Every worker's scratch for the batch's products.
struct WorkerScratch {
  WorkerScratch(CpuContext& context, const Batch& batch, Route Group::* route, int64_t floats)
      : floats_(floats) {
    const LinearKernels& kernels = linear_kernels(context.isa);
    for (const Group* g = batch.groups; g < batch.groups + batch.count; ++g)
      bytes_ = std::max(bytes_, divide_up(kernels.scratch_bytes(g->*route), 64) * 64);
    kernel_ = context.scratch.take<uint8_t>(context.pool.size() * bytes_);
    products_ = context.scratch.take<float>(context.pool.size() * floats_);
  }
  uint8_t* kernel(int worker) const { return kernel_ + worker * bytes_; }
  float* products(int worker) const { return products_ + worker * floats_; }

 private:
  int64_t bytes_ = 0, floats_;
  uint8_t* kernel_;
  float* products_;
};

// First fork: hidden = pack(swiglu(x w1^T, x w3^T)).
void gate_and_up(CpuContext& context, const ExpertsArgs& a, const Plan& plan, const Batch& batch) {
  const LinearKernels& kernels = linear_kernels(context.isa);
  const bool native = context.numerics == Numerics::kNative;
  const WorkerScratch scratch(context, batch, &Group::route_in, 2 * kInputTile * kChunk);
  auto chunks = [](const Group& g) { return divide_up(g.weights->w1.rows, kChunk); };
  context.pool.run(batch.tasks(chunks), [&](int64_t task, int worker) {
    const Group& group = batch.find(task, chunks);
    const int64_t inner = group.weights->w1.rows, column = task * kChunk,
                  width = std::min(kChunk, inner - column);
    float* gate = scratch.products(worker);
    float* up = gate + kInputTile * kChunk;
    for (int64_t first = 0; first < group.count; first += kInputTile) {
      MultiplyJob job{};
      job.w = stored_rows(group.weights->w1);
      job.row_begin = column;
      job.row_end = column + width;
      job.x = group.in;
      job.first = first;
      job.index = group.in_index == nullptr ? nullptr : group.in_index + first;
      job.count = std::min(kInputTile, group.count - first);
      job.out = gate;
      job.out_stride = kChunk;
      job.scratch = scratch.kernel(worker);
      kernels.multiply(job);
      job.w = stored_rows(group.weights->w3);
      job.out = up;
      kernels.multiply(job);
      for (int64_t i = 0; i < job.count; ++i) {
        float* act = gate + i * kChunk;
        kernels.swiglu(
            {act, up + i * kChunk, act, width, a.limit, plan.weight[group.begin + first + i], native});
      }
      pack_tiles(kernels, group.hidden, first, first + job.count, column, column + width,
                 [&](int64_t i) { return gate + (i - first) * kChunk; });
    }
  });
}

// Second fork: out[token] += hidden w2^T, group after group.
void down(CpuContext& context, const ExpertsArgs& a, const Plan& plan, const Batch& batch) {
  const LinearKernels& kernels = linear_kernels(context.isa);
  const WorkerScratch scratch(context, batch, &Group::route_out, kInputTile * kChunk);
  // Every task reads all of the batch's activations, so with many of them tasks are few and wide.
  const bool many = batch.groups[batch.count - 1].begin - batch.groups[0].begin > kBatchSlots / 2;
  const int64_t dim = a.out.shape(1), share = divide_up(dim, (many ? 2 : 8) * context.pool.size());
  const int64_t step = std::min(kChunk, divide_up(share, 32) * 32);
  context.pool.run(divide_up(dim, step), [&](int64_t task, int worker) {
    MultiplyJob job{};
    job.row_begin = task * step;
    job.row_end = std::min(dim, job.row_begin + step);
    job.out = scratch.products(worker);
    job.out_stride = kChunk;
    job.round_bf16 = context.numerics == Numerics::kNative;
    job.scratch = scratch.kernel(worker);
    for (const Group* group = batch.groups; group < batch.groups + batch.count; ++group) {
      job.w = stored_rows(group->weights->w2);
      job.x = group->hidden;
      for (job.first = 0; job.first < group->count; job.first += kInputTile) {
        job.count = std::min(kInputTile, group->count - job.first);
        kernels.multiply(job);
        for (int64_t i = 0; i < job.count; ++i) {
          float* out = a.out.row(plan.token[group->begin + job.first + i]) + job.row_begin;
          for (int64_t n = 0; n < job.row_end - job.row_begin; ++n) out[n] += job.out[i * kChunk + n];
        }
      }
    }
  });
}

}  // namespace

void experts(CpuContext& context, const ExpertsArgs& args) {
  const int64_t tokens = args.x.shape(0), dim = args.x.shape(1);
  check(args);
  if (tokens == 0) return;
  Scratch::Scope scope(context.scratch);
  Plan plan = make_plan(context, args);
  pack_tokens(context, args, plan);
  context.pool.run(tokens, [&](int64_t t, int) { std::fill(args.out.row(t), args.out.row(t) + dim, 0.f); });

  for (int64_t first = 0; first < plan.group_count;) {
    Scratch::Scope batch_scope(context.scratch);
    Batch batch{plan.groups + first, 0};
    for (int64_t slots = 0; first < plan.group_count; ++first, ++batch.count) {
      Group& group = plan.groups[first];
      slots += group.count;
      if (batch.count > 0 && slots > kBatchSlots) break;
      group.hidden = take_packed(context, group.route_out, group.weights->w2.format, group.count,
                                 group.weights->w2.cols);
    }
    pack_slots(context, args, plan, batch);
    gate_and_up(context, args, plan, batch);
    down(context, args, plan, batch);
  }
  if (context.numerics == Numerics::kNative) {
    context.pool.run(tokens, [&](int64_t t, int) {
      for (float* v = args.out.row(t); v < args.out.row(t) + dim; ++v) *v = round_bf16(*v);
    });
  }
}

}  // namespace kvasir::cpu
