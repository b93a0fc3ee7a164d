// The MTP draft block: joins the trunk's streams with the next token's embedding and runs one more
// window-only block with its own head collapse. Source: spec 8, traps 27 and 28.
#include "model/forward.h"

namespace kvasir {

void mtp_forward(const ForwardContext& c) {
  KVASIR_CHECK(c.model.mtp != nullptr, "the model has no MTP block");
  const MtpWeights& w = *c.model.mtp;
  const ModelConfig& config = c.model.config;
  int64_t t = c.ws.rows;
  Ops& ops = c.ops;
  Workspace& ws = c.ws;
  View<float, 3> streams = ws.streams.rows(0, t), h = ws.mtp_h.rows(0, t);
  View<float, 2> stream_rows(streams.data(), {t * config.hc, config.dim}),
      h_rows(h.data(), {t * config.hc, config.dim});
  View<float, 2> e = ws.x.rows(0, t), projected = ws.y.rows(0, t);
  if (c.observer) c.observer->tensor("mtp.in", View<float, 2>(streams.data(), {t, config.hc * config.dim}));

  ops.rope_table({w.block.inv_freq, ws.positions, ws.rope_main.rows(0, t)});
  ops.gather_embedding({ws.ids, c.model.embed, e});
  ops.rms_norm({e, w.enorm, config.norm_eps, e});
  ops.linear({w.e_proj, e, projected});
  ops.rms_norm({stream_rows, w.hnorm, config.norm_eps, h_rows});
  ops.linear({w.h_proj, h_rows, stream_rows});
  ops.mtp_join({streams, projected, streams});
  block(c, w.block, config.num_layers, "mtp.", nullptr);
  leave_block(c, "mtp.");
  head(c, w.hc_head, w.norm);
}

}  // namespace kvasir
