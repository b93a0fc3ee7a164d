// Attention of one layer: project the input, norm, store the window row, project q; then one switch on the layer's kind
// decides which compressed entries are seen; then rotate, attend, un-rotate, project out.
#include <array>
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

// A matrix of the block's input that is wanted, and where its product goes.
struct Products {
  explicit Products(View<const float, 2> input) : x(input) {}
  void add(const WeightMatrix& w, View<float, 2> out, LinearKind kind = LinearKind::kQuantised) { list[count++] = {w, x, out, kind}; }
  std::span<const LinearArgs> all() const { return std::span(list).first(count); }

  View<const float, 2> x;
  std::array<LinearArgs, 7> list;
  size_t count = 0;
};

View<float, 2> rows_of(View<float, 2> space, int64_t rows, int64_t width) { return {space.data(), {rows, width}}; }
View<float, 2> flat(View<float, 3> heads) { return {heads.data(), {heads.shape(0), heads.shape(1) * heads.shape(2)}}; }

// Everything that is a product of the block's input: q's low rank, the shared head, what compressors and indexer need.
// Then the low rank and the shared head are normed, and the latter encoded into this step's window rows.
void project_in(const AttentionBlock& b) {
  const AttentionWeights& w = b.layer.attn;
  Workspace& ws = b.c.ws;
  int64_t n = b.rows.rows;
  View<float, 2> kv = ws.kv.rows(0, n);
  Products products(b.x);
  products.add(w.wq_a, b.qa);
  products.add(w.wkv, kv);
  auto add_compressor = [&](const CompressorWeights& c, View<float, 2> values, View<float, 2> scores) {
    products.add(c.wkv, rows_of(values, n, c.wkv.rows), LinearKind::kFloat);
    products.add(c.wgate, rows_of(scores, n, c.wkv.rows), LinearKind::kFloat);
  };
  if (b.layer.kind != AttentionKind::kSwa) add_compressor(w.compressor, ws.compress_kv, ws.compress_score);
  if (b.layer.kind == AttentionKind::kCsa) {
    add_compressor(w.indexer.compressor, ws.index_kv, ws.index_score);
    products.add(w.indexer.weights_proj, ws.index_weight.rows(0, n), LinearKind::kBf16);
  }
  b.c.ops.linear_many(products.all());
  b.c.ops.small_rows({b.qa, w.q_norm, kv, w.kv_norm, b.table, b.c.model.config.norm_eps, b.c.layout.entry_format, ws.window_rows});
}

// Queries of all heads, and of the indexer's, from the low rank; not rotated yet.
void project_q(const AttentionBlock& b) {
  Workspace& ws = b.c.ws;
  int64_t n = b.rows.rows;
  Products products(b.qa);
  products.add(b.layer.attn.wq_b, flat(ws.q.rows(0, n)));
  if (b.layer.kind == AttentionKind::kCsa) products.add(b.layer.attn.indexer.wq_b, flat(ws.iq.rows(0, n)));
  b.c.ops.linear_many(products.all());
}

// A compressor over the block: what it needs to pool each sequence's closed groups into its pages.
CompressArgs compressor(const AttentionBlock& b, const CompressorWeights& w, CompressKind kind) {
  Workspace& ws = b.c.ws;
  bool entry = kind == CompressKind::kEntry;
  CompressArgs a;
  a.kind = kind;
  a.lanes = b.layer.ratio == 4 ? 2 : 1;
  a.kv = rows_of(entry ? ws.compress_kv : ws.index_kv, b.rows.rows, w.wkv.rows);
  a.score = rows_of(entry ? ws.compress_score : ws.index_score, b.rows.rows, w.wkv.rows);
  a.ape = w.ape;
  a.norm = w.norm;
  a.norm_eps = b.c.model.config.norm_eps;
  a.inv_freq = b.layer.inv_freq;
  a.batch = b.rows.batch;
  a.place = b.place;
  a.format = entry ? b.c.layout.entry_format : b.c.layout.key_format;
  return a;
}

// The lightning indexer: each row's best entries into ws.selected.
void select_entries(const AttentionBlock& b) {
  const ModelConfig& config = b.c.model.config;
  Workspace& ws = b.c.ws;
  int64_t n = b.rows.rows;
  View<float, 3> iq = ws.iq.rows(0, n);
  View<float, 2> weight = ws.index_weight.rows(0, n);
  float scale = static_cast<float>(1.0 / std::sqrt(double(config.index_dim)) / std::sqrt(double(config.index_heads)));
  b.c.ops.index_query_select({iq, b.table, weight, scale},
                             {iq, weight, b.rows.batch, b.place, b.c.layout.key_format, ws.selected.rows(b.rows.first_row, n)});
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
  b.c.ops.attend_heads({a, b.table, b.c.model.config.norm_eps, ws.q.rows(0, n)});
  b.c.ops.commit_window({a.format, a.rows, a.batch, a.place});
}

void project_out(const AttentionBlock& b, View<float, 2> y) {
  const AttentionWeights& w = b.layer.attn;
  const ModelConfig& config = b.c.model.config;
  int64_t n = b.rows.rows;
  View<float, 3> o = b.c.ws.o.rows(0, n), u = b.c.ws.u.rows(0, n);
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
    project_in(b);
    project_q(b);
    switch (layer.kind) {
      case AttentionKind::kSwa:
        attend(b, EntryChoice::kNone);
        break;
      case AttentionKind::kCsa:
        c.ops.compress_pair(compressor(b, layer.attn.compressor, CompressKind::kEntry),
                            compressor(b, layer.attn.indexer.compressor, CompressKind::kIndexKey));
        select_entries(b);
        attend(b, EntryChoice::kSelected);
        break;
      case AttentionKind::kHca:
        c.ops.compress(compressor(b, layer.attn.compressor, CompressKind::kEntry));
        attend(b, EntryChoice::kAll);
        break;
    }
    project_out(b, c.ws.y.rows(rows.first_row, rows.rows));
  }
}

}  // namespace kvasir
