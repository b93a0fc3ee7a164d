// Attention of one layer: norm, project q and kv, rotate, store the window row; then one switch on the
// layer's kind decides which compressed entries are seen; then attend, un-rotate, project out.
#include <cmath>

#include "model/forward.h"

namespace kvasir {
namespace {

// One block of rows of one layer: the views that all its parts share.
struct AttentionBlock {
  const ForwardContext& c;
  const LayerWeights& layer;
  const LayerPlace& place;
  const Workspace::Block& rows;
  View<float, 2> x;            // [rows, dim] input
  View<float, 2> qa;           // [rows, q_rank]
  View<const float, 3> table;  // [rows, rope_dim/2, 2]
};

// q: low rank, per-head norm, rotated.
void project_q(const AttentionBlock& b) {
  const ModelConfig& config = b.c.model.config;
  const AttentionWeights& w = b.layer.attn;
  Ops& ops = b.c.ops;
  View<float, 3> q = b.c.ws.q.rows(0, b.rows.rows);
  ops.linear({w.wq_a, b.x, b.qa});
  ops.rms_norm({b.qa, w.q_norm, config.norm_eps, b.qa});
  ops.linear({w.wq_b, b.qa, View<float, 2>(q.data(), {b.rows.rows, q.shape(1) * q.shape(2)})});
  ops.head_norm_rope({q, b.table, config.norm_eps});
}

// kv: one shared head, normed, rotated and encoded into this step's window rows.
void project_window(const AttentionBlock& b) {
  const ModelConfig& config = b.c.model.config;
  View<float, 2> kv = b.c.ws.kv.rows(0, b.rows.rows);
  b.c.ops.linear({b.layer.attn.wkv, b.x, kv});
  b.c.ops.rms_norm({kv, b.layer.attn.kv_norm, config.norm_eps, kv});
  b.c.ops.store_window({kv, b.table, b.c.layout.entry_format, b.c.ws.window_rows});
}

// One compressor over the block: projects every row, then pools each sequence's closed groups into its pages.
void compress(const AttentionBlock& b, const CompressorWeights& w, CompressKind kind, View<float, 2> kv_space,
              View<float, 2> score_space) {
  int64_t n = b.rows.rows, width = w.wkv.rows;
  View<float, 2> kv(kv_space.data(), {n, width}), score(score_space.data(), {n, width});
  b.c.ops.linear({w.wkv, b.x, kv, LinearKind::kFloat});
  b.c.ops.linear({w.wgate, b.x, score, LinearKind::kFloat});
  CompressArgs a;
  a.kind = kind;
  a.lanes = b.layer.ratio == 4 ? 2 : 1;
  a.kv = kv;
  a.score = score;
  a.ape = w.ape;
  a.norm = w.norm;
  a.norm_eps = b.c.model.config.norm_eps;
  a.inv_freq = b.layer.inv_freq;
  a.batch = b.rows.batch;
  a.place = b.place;
  a.format = kind == CompressKind::kEntry ? b.c.layout.entry_format : b.c.layout.key_format;
  b.c.ops.compress(a);
}

// The lightning indexer: index keys of closed groups, then each row's best entries into ws.selected.
void select_entries(const AttentionBlock& b) {
  const ModelConfig& config = b.c.model.config;
  const IndexerWeights& w = b.layer.attn.indexer;
  Workspace& ws = b.c.ws;
  int64_t n = b.rows.rows;
  compress(b, w.compressor, CompressKind::kIndexKey, ws.index_kv, ws.index_score);

  View<float, 3> iq = ws.iq.rows(0, n);
  View<float, 2> weight = ws.index_weight.rows(0, n);
  b.c.ops.linear({w.wq_b, b.qa, View<float, 2>(iq.data(), {n, iq.shape(1) * iq.shape(2)})});
  b.c.ops.linear({w.weights_proj, b.x, weight, LinearKind::kBf16});
  float scale =
      static_cast<float>(1.0 / std::sqrt(double(config.index_dim)) / std::sqrt(double(config.index_heads)));
  b.c.ops.index_query({iq, b.table, weight, scale});
  b.c.ops.index_select({iq, weight, b.rows.batch, b.place, b.c.layout.key_format, ws.selected.rows(b.rows.first_row, n)});
}

void attend(const AttentionBlock& b, EntryChoice choice) {
  Workspace& ws = b.c.ws;
  int64_t n = b.rows.rows;
  AttendArgs a;
  a.q = ws.q.rows(0, n);
  a.sink = b.layer.attn.sink;
  a.batch = b.rows.batch;
  a.place = b.place;
  a.window = b.c.model.config.window;
  a.format = b.c.layout.entry_format;
  a.rows = ws.window_rows;
  a.choice = choice;
  if (choice == EntryChoice::kSelected) a.selected = ws.selected.rows(b.rows.first_row, n);
  a.out = ws.o.rows(0, n);
  b.c.ops.attend(a);
  b.c.ops.commit_window({a.format, a.rows, a.batch, a.place});
}

void project_out(const AttentionBlock& b, View<float, 2> y) {
  const AttentionWeights& w = b.layer.attn;
  const ModelConfig& config = b.c.model.config;
  int64_t n = b.rows.rows;
  View<float, 3> o = b.c.ws.o.rows(0, n), u = b.c.ws.u.rows(0, n);
  b.c.ops.rope({o, b.table, /*inverse=*/true});
  int64_t group = int64_t{config.num_heads} / config.o_groups * config.head_dim;
  b.c.ops.grouped_linear({w.wo_a, View<const float, 3>(o.data(), {n, config.o_groups, group}), u});
  b.c.ops.linear({w.wo_b, View<const float, 2>(u.data(), {n, u.shape(1) * u.shape(2)}), y});
}

}  // namespace

void attention(const ForwardContext& c, const LayerWeights& layer, int index) {
  View<float, 3> rope = layer.ratio == 0 ? c.ws.rope_main : c.ws.rope_compress;
  for (const Workspace::Block& rows : c.ws.blocks) {
    AttentionBlock b{c,
                     layer,
                     c.layout.layers[index],
                     rows,
                     c.ws.x.rows(rows.first_row, rows.rows),
                     c.ws.qa.rows(0, rows.rows),
                     rope.rows(rows.first_row, rows.rows)};
    project_q(b);
    project_window(b);
    switch (layer.kind) {
      case AttentionKind::kSwa:
        attend(b, EntryChoice::kNone);
        break;
      case AttentionKind::kCsa:
        compress(b, layer.attn.compressor, CompressKind::kEntry, c.ws.compress_kv, c.ws.compress_score);
        select_entries(b);
        attend(b, EntryChoice::kSelected);
        break;
      case AttentionKind::kHca:
        compress(b, layer.attn.compressor, CompressKind::kEntry, c.ws.compress_kv, c.ws.compress_score);
        attend(b, EntryChoice::kAll);
        break;
    }
    project_out(b, c.ws.y.rows(rows.first_row, rows.rows));
  }
}

}  // namespace kvasir
