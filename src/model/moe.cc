// Mixture of experts: the gate's choice, then the routed and the shared experts. Source: spec 7.
#include "model/forward.h"

namespace kvasir {

void moe(const ForwardContext& c, const LayerWeights& layer) {
  const ModelConfig& config = c.model.config;
  const MoeWeights& w = layer.moe;
  int64_t t = c.ws.rows;
  View<float, 2> x = c.ws.x.rows(0, t), logits = c.ws.gate_logits.rows(0, t),
                 weights = c.ws.expert_weights.rows(0, t);
  View<int32_t, 2> experts = c.ws.experts.rows(0, t);
  c.ops.linear({w.gate, x, logits, LinearKind::kFloat});
  c.ops.gate({logits, w.bias, w.tid2eid, c.ws.ids, config.routed_scaling_factor, experts, weights});
  View<const ExpertWeights, 1> routed(w.experts.data(), {config.num_experts});
  if (!w.table.empty()) routed = w.table;
  c.ops.experts({x, routed, w.experts.front(), w.shared, experts, weights, config.swiglu_limit, c.ws.y.rows(0, t)});
}

}  // namespace kvasir
