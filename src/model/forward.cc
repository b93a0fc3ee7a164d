// A step through every layer, in the order of the paper; see forward.h for who owns what.
#include "model/forward.h"

namespace kvasir {
namespace {

void rope_tables(const ForwardContext& c, const Batch& batch) {
  int64_t t = batch.ids.shape(0);
  bool main = false, compress = false;  // one table per kind serves every layer of that kind
  auto fill = [&](const LayerWeights& layer) {
    bool& filled = layer.ratio == 0 ? main : compress;
    View<float, 3> table = layer.ratio == 0 ? c.ws.rope_main : c.ws.rope_compress;
    if (!filled) c.ops.rope_table({layer.inv_freq, batch.positions, table.rows(0, t)});
    filled = true;
  };
  for (const LayerWeights& layer : c.model.layers) fill(layer);
  if (c.model.mtp) fill(c.model.mtp->block);
}

void observe(const ForwardContext& c, const std::string& name, const char* what, View<float, 2> rows) {
  if (c.observer) c.observer->tensor(name + what, rows);
}

}  // namespace

void forward(const ForwardContext& c, const Batch& batch) {
  int64_t t = batch.ids.shape(0);
  KVASIR_CHECK(t <= c.ws.max_tokens, "a step of {} tokens in a workspace for {}", t, c.ws.max_tokens);
  c.ws.cut_blocks(batch);
  rope_tables(c, batch);
  c.ops.embed({batch.ids, c.model.embed, c.ws.streams.rows(0, t)});
  for (size_t l = 0; l < c.model.layers.size(); ++l) {
    if (c.gate && !c.gate->open(static_cast<int>(l))) return;
    std::string name = c.observer ? "layers." + std::to_string(l) + "." : "";
    block(c, c.model.layers[l], static_cast<int>(l), name, batch);
  }
  head(c, c.model.hc_head, c.model.norm, batch);
}

void block(const ForwardContext& c, const LayerWeights& layer, int index, const std::string& name,
           const Batch& batch) {
  const ModelConfig& config = c.model.config;
  int64_t t = batch.ids.shape(0);
  View<float, 3> streams = c.ws.streams.rows(0, t);
  View<float, 2> x = c.ws.x.rows(0, t), y = c.ws.y.rows(0, t);
  View<float, 2> post = c.ws.post.rows(0, t);
  View<float, 3> comb = c.ws.comb.rows(0, t);
  auto hc_pre = [&](const HyperConnectionWeights& w) {
    c.ops.hc_pre({w, streams, config.norm_eps, config.hc_eps, config.hc_sinkhorn_iters, x, post, comb});
  };

  hc_pre(layer.attn_hc);
  c.ops.rms_norm({x, layer.attn_norm, config.norm_eps, x});
  observe(c, name, "attn.in", x);
  attention(c, layer, index, batch);
  observe(c, name, "attn.out", y);
  if (c.observer && layer.kind == AttentionKind::kCsa)
    c.observer->indices(name + "indexer.selected", c.ws.selected.rows(0, t));
  c.ops.hc_post({y, post, comb, streams});

  hc_pre(layer.ffn_hc);
  c.ops.rms_norm({x, layer.ffn_norm, config.norm_eps, x});
  observe(c, name, "ffn.in", x);
  moe(c, layer, batch);
  observe(c, name, "ffn.out", y);
  if (c.observer) c.observer->indices(name + "gate.experts", c.ws.experts.rows(0, t));
  observe(c, name, "gate.weights", c.ws.expert_weights.rows(0, t));
  c.ops.hc_post({y, post, comb, streams});
  observe(c, name, "out", View<float, 2>(streams.data(), {t, config.hc * config.dim}));
}

void head(const ForwardContext& c, const HyperConnectionWeights& hc, View<const float, 1> norm,
          const Batch& batch) {
  const ModelConfig& config = c.model.config;
  int64_t n = batch.logit_rows.shape(0);
  if (n == 0) return;
  KVASIR_CHECK(n <= c.ws.max_logit_rows, "{} rows of logits in a workspace for {}", n, c.ws.max_logit_rows);
  View<float, 2> h = c.ws.h.rows(0, n);
  c.ops.hc_head({hc, c.ws.streams, batch.logit_rows, config.norm_eps, config.hc_eps, h});
  c.ops.rms_norm({h, norm, config.norm_eps, h});
  c.ops.linear({c.model.head, h, c.ws.logits.rows(0, n), LinearKind::kFloat});
}

}  // namespace kvasir
