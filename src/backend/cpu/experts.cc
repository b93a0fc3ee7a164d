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
constexpr int64_t kInputTile = 128;    // inputs whose gate and up products a worker holds at a time
constexpr int64_t kBatchSlots = 8192;  // slots per batch of experts bounds the memory for activations

// One expert's part of the call: slots [begin, begin + count) of the sorted order.
struct Group {
  const ExpertWeights* weights;
  int64_t begin, count;
  int64_t hidden_begin;  // its first row of packed hidden activations in the batch
  Route route_in, route_out;
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
  for (const ExpertWeights& e : a.routed) check_one(e);
  if (!a.shared.w1.empty()) check_one(a.shared);
}

// Counting sort of the slots by expert; within an expert by token, then by slot.
Plan make_plan(CpuContext& context, const ExpertsArgs& a) {
  const int64_t tokens = a.x.shape(0), k = a.experts.shape(1),
                experts = static_cast<int64_t>(a.routed.size());
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
    g = {&w,
         first,
         count,
         0,
         choose_route(context, LinearKind::kQuantised, w.w1.format, rows),
         choose_route(context, LinearKind::kQuantised, w.w2.format, rows)};
  };
  for (int64_t e = 0; e < experts; ++e)
    if (begin[e + 1] > begin[e]) add_group(a.routed[e], begin[e], begin[e + 1] - begin[e]);
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

// The call's tokens, packed once for every (route, format) that some group wants.
class Inputs {
 public:
  Inputs(CpuContext& context, const ExpertsArgs& a, const Plan& plan) {
    for (int64_t g = 0; g < plan.group_count; ++g) {
      const Group& group = plan.groups[g];
      PackedRows& rows = at(group);
      if (rows.data == nullptr)
        rows = pack_rows(context, group.route_in, group.weights->w1.format, a.x.data(), a.x.stride(0),
                         a.x.shape(0), a.x.shape(1));
    }
  }
  PackedRows& at(const Group& g) {
    return packed_[static_cast<int>(g.route_in)][static_cast<int>(stored_format(g.weights->w1.format))];
  }

 private:
  PackedRows packed_[kRouteCount][4] = {};
};

struct Batch {
  const Group* groups;
  int64_t count;
  uint8_t* hidden;        // packed activations in front of w2
  int64_t hidden_stride;  // the largest that a group of the batch needs
};

// First fork: hidden = pack(swiglu(x w1^T, x w3^T)).
void gate_and_up(CpuContext& context, const ExpertsArgs& a, const Plan& plan, Inputs& inputs,
                 const Batch& batch) {
  const LinearKernels& kernels = linear_kernels(context.isa);
  const bool native = context.numerics == Numerics::kNative;
  const int64_t dim = a.x.shape(1);
  int64_t scratch_bytes = 0, tasks = 0;
  auto chunks = [](const Group& g) { return (g.weights->w1.rows + kChunk - 1) / kChunk; };
  for (int64_t g = 0; g < batch.count; ++g) {
    scratch_bytes = std::max(scratch_bytes, kernels.scratch_bytes(batch.groups[g].route_in, dim));
    tasks += chunks(batch.groups[g]);
  }
  scratch_bytes = (scratch_bytes + 63) / 64 * 64;
  constexpr int64_t kTileFloats = kInputTile * kChunk;
  auto* scratch = context.scratch.take<uint8_t>(context.pool.size() * scratch_bytes);
  auto* products = context.scratch.take<float>(context.pool.size() * 2 * kTileFloats);
  context.pool.run(tasks, [&](int64_t task, int worker) {
    const Group* group = batch.groups;
    for (; task >= chunks(*group); ++group) task -= chunks(*group);
    const int64_t inner = group->weights->w1.rows, column = task * kChunk,
                  width = std::min(kChunk, inner - column);
    const PackedRows& x = inputs.at(*group);
    const Stored next = stored_format(group->weights->w2.format);
    float* gate = products + worker * 2 * kTileFloats;
    float* up = gate + kTileFloats;
    for (int64_t first = 0; first < group->count; first += kInputTile) {
      const int64_t count = std::min(kInputTile, group->count - first);
      MultiplyJob job{stored_rows(group->weights->w1),   column, column + width, x.data, x.stride,
                      plan.token + group->begin + first, count,  gate,           kChunk, false,
                      scratch + worker * scratch_bytes};
      kernels.multiply(group->route_in, job);
      job.w = stored_rows(group->weights->w3);
      job.out = up;
      kernels.multiply(group->route_in, job);
      for (int64_t i = 0; i < count; ++i) {
        float* act = gate + i * kChunk;
        kernels.swiglu(
            {act, up + i * kChunk, act, width, a.limit, plan.weight[group->begin + first + i], native});
        kernels.pack(group->route_out, next, act, column, column + width, inner,
                     batch.hidden + (group->hidden_begin + first + i) * batch.hidden_stride);
      }
    }
  });
}

// Second fork: out[token] += hidden w2^T, group after group.
void down(CpuContext& context, const ExpertsArgs& a, const Plan& plan, const Batch& batch) {
  const LinearKernels& kernels = linear_kernels(context.isa);
  const bool native = context.numerics == Numerics::kNative;
  int64_t scratch_bytes = 0;
  for (int64_t g = 0; g < batch.count; ++g)
    scratch_bytes = std::max(
        scratch_bytes, kernels.scratch_bytes(batch.groups[g].route_out, batch.groups[g].weights->w2.cols));
  scratch_bytes = (scratch_bytes + 63) / 64 * 64;
  const int64_t dim = a.out.shape(1);
  const int64_t share = std::max<int64_t>(1, dim / (8 * context.pool.size()));
  const int64_t step = std::min(kChunk, (share + 15) / 16 * 16);
  auto* scratch = context.scratch.take<uint8_t>(context.pool.size() * scratch_bytes);
  auto* products = context.scratch.take<float>(context.pool.size() * kInputTile * kChunk);
  context.pool.run((dim + step - 1) / step, [&](int64_t task, int worker) {
    const int64_t column = task * step, width = std::min(step, dim - column);
    float* product = products + worker * kInputTile * kChunk;
    for (const Group* group = batch.groups; group < batch.groups + batch.count; ++group) {
      for (int64_t first = 0; first < group->count; first += kInputTile) {
        const int64_t count = std::min(kInputTile, group->count - first);
        kernels.multiply(
            group->route_out,
            {stored_rows(group->weights->w2), column, column + width,
             batch.hidden + (group->hidden_begin + first) * batch.hidden_stride, batch.hidden_stride, nullptr,
             count, product, kChunk, native, scratch + worker * scratch_bytes});
        for (int64_t i = 0; i < count; ++i) {
          float* out = a.out.row(plan.token[group->begin + first + i]) + column;
          for (int64_t n = 0; n < width; ++n) out[n] += product[i * kChunk + n];
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
  const LinearKernels& kernels = linear_kernels(context.isa);
  Plan plan = make_plan(context, args);
  Inputs inputs(context, args, plan);
  for (int64_t t = 0; t < tokens; ++t) std::fill(args.out.row(t), args.out.row(t) + dim, 0.f);

  for (int64_t first = 0; first < plan.group_count;) {
    Scratch::Scope batch_scope(context.scratch);
    Batch batch{plan.groups + first, 0, nullptr, 0};
    int64_t slots = 0;
    while (first < plan.group_count && (slots == 0 || slots + plan.groups[first].count <= kBatchSlots)) {
      Group& group = plan.groups[first++];
      group.hidden_begin = slots;
      slots += group.count;
      const WeightMatrix& w2 = group.weights->w2;
      batch.hidden_stride = std::max(
          batch.hidden_stride, kernels.packed_bytes(group.route_out, stored_format(w2.format), w2.cols));
      ++batch.count;
    }
    batch.hidden = context.scratch.take<uint8_t>(slots * batch.hidden_stride);
    gate_and_up(context, args, plan, inputs, batch);
    down(context, args, plan, batch);
  }
  if (context.numerics == Numerics::kNative) {
    for (int64_t t = 0; t < tokens; ++t)
      for (float* v = args.out.row(t); v < args.out.row(t) + dim; ++v) *v = round_bf16(*v);
  }
}

}  // namespace kvasir::cpu
