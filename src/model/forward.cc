// A step through every layer, in the order of the paper; see forward.h for who owns what.
#include "model/forward.h"

#include <utility>

namespace kvasir {
namespace {

void rope_tables(const ForwardContext& c) {
  int64_t t = c.ws.rows;
  bool main = false, compress = false;  // one table per kind serves every layer of that kind
  auto fill = [&](const LayerWeights& layer) {
    bool& filled = layer.ratio == 0 ? main : compress;
    View<float, 3> table = layer.ratio == 0 ? c.ws.rope_main : c.ws.rope_compress;
    if (!filled) c.ops.rope_table({layer.inv_freq, c.ws.positions, table.rows(0, t)});
    filled = true;
  };
  for (const LayerWeights& layer : c.model.layers) fill(layer);
  if (c.model.mtp) fill(c.model.mtp->block);
}

void observe(const ForwardContext& c, const std::string& name, const char* what, View<float, 2> rows) {
  if (c.observer) c.observer->tensor(name + what, rows);
}

void observe_streams(const ForwardContext& c, const std::string& name) {
  observe(c, name, "out", View<float, 2>(c.ws.streams.data(), {c.ws.rows, c.model.config.hc * c.model.config.dim}));
}

}  // namespace

void forward(const ForwardContext& c) {
  rope_tables(c);
  c.ops.embed({c.ws.ids, c.model.embed, c.ws.streams.rows(0, c.ws.rows)});
  std::string name, before;
  for (size_t l = 0; l < c.model.layers.size(); ++l) {
    if (c.gate && !c.gate->open(static_cast<int>(l))) return;
    before = std::exchange(name, c.observer ? "layers." + std::to_string(l) + "." : "");
    block(c, c.model.layers[l], static_cast<int>(l), name, l == 0 ? nullptr : &before);
  }
  leave_block(c, name);
  head(c, c.model.hc_head, c.model.norm);
}

void block(const ForwardContext& c, const LayerWeights& layer, int index, const std::string& name, const std::string* before) {
  const ModelConfig& config = c.model.config;
  int64_t t = c.ws.rows;
  View<float, 3> streams = c.ws.streams.rows(0, t), comb = c.ws.comb.rows(0, t);
  View<float, 2> x = c.ws.x.rows(0, t), y = c.ws.y.rows(0, t), post = c.ws.post.rows(0, t);
  // `from`: what the half block before has made.
  auto enter = [&](View<const float, 2> from, const HyperConnectionWeights& w, View<const float, 1> norm) {
    c.ops.hc_boundary({from, w, norm, config.norm_eps, config.hc_eps, config.hc_sinkhorn_iters, streams, x, post, comb});
  };

  if (before) {
    enter(y, layer.attn_hc, layer.attn_norm);
    observe_streams(c, *before);
  } else {
    enter({}, layer.attn_hc, layer.attn_norm);
  }
  observe(c, name, "attn.in", x);
  attention(c, layer, index);
  observe(c, name, "attn.out", y);
  if (c.observer && layer.kind == AttentionKind::kCsa)
    c.observer->indices(name + "indexer.selected", c.ws.selected.rows(0, t));

  enter(y, layer.ffn_hc, layer.ffn_norm);
  observe(c, name, "ffn.in", x);
  moe(c, layer);
  observe(c, name, "ffn.out", y);
  if (c.observer) c.observer->indices(name + "gate.experts", c.ws.experts.rows(0, t));
  observe(c, name, "gate.weights", c.ws.expert_weights.rows(0, t));
}

void leave_block(const ForwardContext& c, const std::string& name) {
  int64_t t = c.ws.rows;
  c.ops.hc_post({c.ws.y.rows(0, t), c.ws.post.rows(0, t), c.ws.comb.rows(0, t), c.ws.streams.rows(0, t)});
  observe_streams(c, name);
}

void head(const ForwardContext& c, const HyperConnectionWeights& hc, View<const float, 1> norm) {
  const ModelConfig& config = c.model.config;
  int64_t n = c.ws.logit_rows.shape(0);
  if (n == 0) return;
  View<float, 2> h = c.ws.h.rows(0, n);
  c.ops.hc_head({hc, c.ws.streams, c.ws.logit_rows, config.norm_eps, config.hc_eps, h});
  c.ops.rms_norm({h, norm, config.norm_eps, h});
  c.ops.linear({c.model.head, h, c.ws.logits.rows(0, n), LinearKind::kFloat});
}

}  // namespace kvasir
