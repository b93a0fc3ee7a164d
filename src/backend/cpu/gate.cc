// Gate: scores of a row by the row kernel, then k passes of "the best not yet taken".
#include "backend/cpu/gate.h"

#include <algorithm>
#include <limits>

#include "backend/cpu/row_kernels.h"
#include "base/check.h"

namespace kvasir::cpu {
namespace {

// The k largest of s + bias, descending, ties: lowest id. `biased` is used up. NaN ranks below everything.
void choose_best(const float* s, View<const float, 1> bias, int64_t experts, int64_t k, float* biased,
                 int32_t* out) {
  constexpr float kTaken = -std::numeric_limits<float>::infinity();
  for (int64_t e = 0; e < experts; ++e) {
    biased[e] = s[e] + bias(e);
    if (!(biased[e] > std::numeric_limits<float>::lowest())) biased[e] = std::numeric_limits<float>::lowest();
  }
  for (int64_t i = 0; i < k; ++i) {
    int64_t best = std::max_element(biased, biased + experts) - biased;
    out[i] = static_cast<int32_t>(best);
    biased[best] = kTaken;
  }
}

}  // namespace

void gate(CpuContext& context, const GateArgs& args) {
  int64_t tokens = args.logits.shape(0), experts = args.logits.shape(1), k = args.experts.shape(1);
  if (tokens == 0) return;
  bool hashed = args.bias.empty();
  KVASIR_CHECK(hashed ? !args.tid2eid.empty() && args.tid2eid.shape(1) == k && args.ids.shape(0) == tokens
                      : args.bias.shape(0) == experts && k <= experts,
               "{} tokens, {} experts, {} chosen, bias of {}, table of {} columns", tokens, experts, k,
               args.bias.shape(0), args.tid2eid.shape(1));
  KVASIR_CHECK(args.experts.shape(0) == tokens && args.weights.shape() == args.experts.shape() &&
                   args.logits.stride(1) == 1,
               "outputs of {} and {} rows, {} tokens", args.experts.shape(0), args.weights.shape(0), tokens);
  Scratch::Scope scope(context.scratch);
  auto* scratch = context.scratch.take<float>(2 * experts * context.pool.size());
  const RowKernels& kernels = row_kernels(context.isa);
  constexpr int64_t kRows = 8;  // a task
  context.pool.run((tokens + kRows - 1) / kRows, [&](int64_t task, int worker) {
    float* s = scratch + 2 * experts * worker;
    for (int64_t t = task * kRows; t < std::min(tokens, (task + 1) * kRows); ++t) {
      kernels.gate_scores(args.logits.row(t), experts, s);
      int32_t* chosen = args.experts.row(t);
      if (hashed) {
        for (int64_t i = 0; i < k; ++i) chosen[i] = args.tid2eid(args.ids(t), i);
      } else {
        choose_best(s, args.bias, experts, k, s + experts, chosen);
      }
      float total = 0.f;
      for (int64_t i = 0; i < k; ++i) total += s[chosen[i]];
      for (int64_t i = 0; i < k; ++i) args.weights(t, i) = s[chosen[i]] / total * args.scale;
    }
  });
}

}  // namespace kvasir::cpu
