// The formulas, one function per architecture; see accounting.h for what they are good for.
//
// FLOPs are doubles: sums of integers below 2^53 at every published shape, hence exact.
#include "model/accounting.h"

#include <fmt/core.h>

#include <algorithm>

#include "base/check.h"
#include "ops/kv_page.h"

namespace kvasir {
namespace {

constexpr double kFp8 = 1, kWide = 2, kFp4 = 0.5;  // cost of one FLOP in units of an FP8 one

struct LayerCounts {
  int64_t all = 0, csa = 0, hca = 0;
};

LayerCounts count_layers(const ModelConfig& c) {
  LayerCounts n;
  n.all = c.num_layers;
  for (int layer = 0; layer < c.num_layers; ++layer) {
    int ratio = c.compress_ratio(layer);
    KVASIR_CHECK(ratio == 0 || ratio == 4 || ratio == 128, "layer {} has compress_ratio {}", layer, ratio);
    n.csa += ratio == 4;
    n.hca += ratio == 128;
  }
  return n;
}

// f32 values and scores of an unfinished group: two arrays of [lanes * ratio][lanes * width] (spec 3.3).
int64_t tail_bytes(int64_t ratio, int64_t lanes, int64_t width) {
  return 2 * (lanes * ratio) * (lanes * width) * 4;
}

void add_moe_flops(const ModelConfig& c, Footprint& out) {
  double layers = c.num_layers, d = static_cast<double>(c.dim);
  out.flops.push_back(
      {"experts", layers * 2 * 3 * d * c.expert_dim * (c.experts_per_token + c.num_shared_experts), kFp8,
       fmt::format("2 x 3 x d x {} x ({} + {}) x {} layers; FP4 or FP8 weights, FP8 activations",
                   c.expert_dim, c.experts_per_token, c.num_shared_experts, c.num_layers)});
  out.flops.push_back({"gate", layers * 2 * d * c.num_experts, kWide,
                       fmt::format("2 x d x {} x {} layers; f32", c.num_experts, c.num_layers)});
}

void add_head_flops(int64_t dim, int64_t vocab, Footprint& out) {
  out.flops.push_back({"head", 2.0 * static_cast<double>(dim) * static_cast<double>(vocab), kWide,
                       fmt::format("2 x d x {}; bf16 weights, f32 sums", vocab)});
}

void add_v4_bytes(const ModelConfig& c, const LayerCounts& n, const CacheRows& rows, Footprint& out) {
  auto growing = [&](const char* name, int64_t layers, int64_t ratio, int64_t row) {
    if (layers == 0) return;
    out.bytes.push_back(
        {name, ByteKind::kGrowing, layers * (out.context / ratio) * row,
         static_cast<double>(layers * row) / static_cast<double>(ratio),
         fmt::format("floor(t / {}) x {} B x {} layers (row: ops/kv_page.h)", ratio, row, layers)});
  };
  growing("CSA entries", n.csa, 4, rows.entry);
  growing("CSA index keys", n.csa, 4, rows.index_key);
  growing("HCA entries", n.hca, 128, rows.entry);
  out.bytes.push_back({"windows", ByteKind::kWindow, n.all * c.window * rows.entry, 0,
                       fmt::format("{} rows x {} B x {} layers", c.window, rows.entry, n.all)});
  int64_t csa_state = tail_bytes(4, 2, c.head_dim) + tail_bytes(4, 2, c.index_dim),
          hca_state = tail_bytes(128, 1, c.head_dim);
  out.bytes.push_back(
      {"compressor state", ByteKind::kState, n.csa * csa_state + n.hca * hca_state, 0,
       fmt::format("f32: {} B x {} CSA layers + {} B x {} HCA layers", csa_state, n.csa, hca_state, n.hca)});
  if (c.num_mtp > 0) {
    out.bytes.push_back({"MTP window", ByteKind::kState, c.window * rows.entry, 0,
                         fmt::format("{} rows x {} B, when drafting", c.window, rows.entry)});
  }
}

void add_v4_flops(const ModelConfig& c, const LayerCounts& n, Footprint& out) {
  double d = static_cast<double>(c.dim), heads = c.num_heads, head = c.head_dim,
         layers = static_cast<double>(n.all);
  double csa = static_cast<double>(n.csa), hca = static_cast<double>(n.hca);
  double index_width = static_cast<double>(c.index_heads) * c.index_dim;

  double layer_weights = d * c.q_rank + c.q_rank * heads * head + d * head + heads * head * c.o_rank +
                         static_cast<double>(c.o_groups) * c.o_rank * d;
  out.flops.push_back(
      {"projections", 2 * layers * layer_weights + 2 * csa * c.q_rank * index_width, kFp8,
       fmt::format(
           "2 x (d qr + qr H D + d D + H D o_rank + G o_rank d) x {} layers + 2 x qr x {} (index queries) "
           "x {} CSA layers; FP8",
           n.all, c.index_heads * c.index_dim, n.csa)});

  double lanes = 2;  // a CSA token feeds its own entry and the next one
  double csa_compress =
      2 * lanes * d * (head + c.index_dim) + d * c.index_heads;  // wkv and wgate, twice; weights_proj
  out.flops.push_back(
      {"compressors", 2 * (csa * csa_compress + hca * 2 * d * head), kWide,
       fmt::format(
           "2 x (4 d D + 4 d {} + d {}) x {} CSA layers + 2 x 2 d D x {} HCA layers; bf16 weights, f32 sums",
           c.index_dim, c.index_heads, n.csa, n.hca)});

  double entries4 = static_cast<double>(out.context / 4), entries128 = static_cast<double>(out.context / 128);
  double keys = layers * c.window + csa * std::min<double>(c.index_topk, entries4) + hca * entries128;
  out.flops.push_back(
      {"attention", 4 * heads * head * keys, kWide,
       fmt::format(
           "4 x H x D x keys; keys a layer: {0}, + min({1}, floor(t / 4)) CSA, + floor(t / 128) HCA; bf16",
           c.window, c.index_topk)});
  out.flops.push_back({"index scores", csa * 2 * entries4 * (index_width + c.index_heads), kFp4,
                       fmt::format("2 x floor(t / 4) x ({0} x {1} + {0}) x {2} CSA layers; FP4 x FP4",
                                   c.index_heads, c.index_dim, n.csa)});
  add_moe_flops(c, out);

  // Two hyper-connections a layer: (2 + n) n coefficients from n d values, then n products for hc_pre and
  // n + n^2 for hc_post, d wide. Sinkhorn and the norms, below a thousandth of this, are left out.
  double s = c.hc;
  out.flops.push_back(
      {"hyper-connections", layers * 2 * (2 * (2 + s) * s * s * d + 2 * (s + s + s * s) * d), kWide,
       fmt::format("2 x (2 (2 + n) n n d + 2 (2 n + n n) d), n = {}, x {} layers; f32", c.hc, n.all)});
  add_head_flops(c.dim, c.vocab_size, out);
}

// Full attention in place of the model's own, with at most that many key-value heads.
Footprint full_attention_footprint(const ModelConfig& c, int64_t context, int kv_heads_at_most,
                                   std::string name) {
  int64_t head = std::min(128, c.head_dim);
  int64_t kv_heads = std::min(kv_heads_at_most, c.num_heads);
  int64_t row = 2 * kv_heads * head * 2;  // K and V, bf16
  Footprint out;
  out.name = std::move(name);
  out.source =
      fmt::format("this model's trunk with full attention: {} query and {} key-value heads of {}, bf16 cache",
                  c.num_heads, kv_heads, head);
  out.context = context;
  out.bytes.push_back({"keys and values", ByteKind::kGrowing, context * row * c.num_layers,
                       static_cast<double>(row * c.num_layers),
                       fmt::format("t x 2 x {} heads x {} x 2 B x {} layers", kv_heads, head, c.num_layers)});
  double d = static_cast<double>(c.dim), q_width = static_cast<double>(c.num_heads * head);
  double kv_width = static_cast<double>(2 * kv_heads * head);
  out.flops.push_back({"projections", 2.0 * c.num_layers * d * (2 * q_width + kv_width), kFp8,
                       fmt::format("2 x d x (2 x {} x {} + 2 x {} x {}) x {} layers; FP8", c.num_heads, head,
                                   kv_heads, head, c.num_layers)});
  out.flops.push_back({"attention", 4.0 * q_width * static_cast<double>(context) * c.num_layers, kWide,
                       fmt::format("4 x {} x {} x t x {} layers; bf16", c.num_heads, head, c.num_layers)});
  add_moe_flops(c, out);
  add_head_flops(c.dim, c.vocab_size, out);
  return out;
}

}  // namespace

int64_t Footprint::kv_bytes() const {
  int64_t sum = 0;
  for (const ByteTerm& term : bytes) sum += term.kind == ByteKind::kState ? 0 : term.bytes;
  return sum;
}

int64_t Footprint::state_bytes() const {
  int64_t sum = 0;
  for (const ByteTerm& term : bytes) sum += term.kind == ByteKind::kState ? term.bytes : 0;
  return sum;
}

double Footprint::kv_bytes_per_token() const {
  double sum = 0;
  for (const ByteTerm& term : bytes) sum += term.bytes_per_token;
  return sum;
}

double Footprint::flops_per_token() const {
  double sum = 0;
  for (const FlopTerm& term : flops) sum += term.flops;
  return sum;
}

double Footprint::flops_per_token_fp8_equivalent() const {
  double sum = 0;
  for (const FlopTerm& term : flops) sum += term.flops * term.fp8_cost;
  return sum;
}

CacheRows CacheRows::stored(const ModelConfig& config, Numerics numerics) {
  return {KvRowFormat::entry(numerics, config.head_dim, config.rope_dim).row_bytes(),
          KvRowFormat::index_key(numerics, config.index_dim).row_bytes()};
}

Footprint v4_footprint(const ModelConfig& config, int64_t context, const CacheRows& rows) {
  Footprint out;
  out.name = "V4";
  out.source = "DeepSeek-V4 report and config.json; cache rows of ops/kv_page.h";
  out.context = context;
  LayerCounts layers = count_layers(config);
  add_v4_bytes(config, layers, rows, out);
  add_v4_flops(config, layers, out);
  return out;
}

Footprint v3_2_footprint(int64_t context, int64_t latent_row_bytes) {
  constexpr int64_t kLayers = 61, kDense = 3, kMoe = kLayers - kDense, kIndexKeyBytes = 128 + 4;
  constexpr double d = 7168, qr = 1536, heads = 128, nope = 128, rope = 64, latent = 512, index_heads = 64,
                   index_dim = 128;
  Footprint out;
  out.name = "V3.2";
  out.source = "DeepSeek-V3.2-Exp config: 61 layers, absorbed MLA, 2,048 selected tokens";
  out.context = context;
  int64_t row = latent_row_bytes + kIndexKeyBytes;
  out.bytes.push_back({"latents and index keys", ByteKind::kGrowing, context * row * kLayers,
                       static_cast<double>(row * kLayers),
                       fmt::format("t x ({} B latent + {} B index key) x {} layers", latent_row_bytes,
                                   kIndexKeyBytes, kLayers)});

  double mla = d * qr + qr * heads * (nope + rope) + d * (latent + rope) + 2 * heads * nope * latent +
               heads * nope * d;
  double indexer = qr * index_heads * index_dim + d * index_dim + d * index_heads;
  out.flops.push_back({"projections", 2 * kLayers * (mla + indexer), kFp8,
                       "2 x (d qr + qr H (128 + 64) + d (512 + 64) + 2 H 128 512 + H 128 d + indexer (qr 64 "
                       "128 + d 128 + d 64)) "
                       "x 61 layers; FP8"});
  out.flops.push_back(
      {"attention",
       kLayers * 2 * heads * (latent + rope + latent) * std::min<double>(2048, static_cast<double>(context)),
       kWide, "2 x 128 x (576 + 512) x min(t, 2048) x 61 layers; bf16"});
  out.flops.push_back({"index scores",
                       kLayers * 2 * static_cast<double>(context) * (index_heads * index_dim + index_heads),
                       kFp8, "2 x t x (64 x 128 + 64) x 61 layers; FP8"});
  // The gate is counted at the FP8 rate here, as in the published comparison (0.02 % of the total at 1M
  // tokens).
  out.flops.push_back({"experts", 2 * (kDense * 3 * d * 18432 + kMoe * 3 * d * 2048 * 9 + kMoe * d * 256),
                       kFp8, "2 x (3 x 3 d 18432 + 58 x 3 d 2048 x (8 + 1) + gate 58 x d 256); FP8"});
  add_head_flops(static_cast<int64_t>(d), 129280, out);
  return out;
}

Footprint gqa8_footprint(const ModelConfig& config, int64_t context) {
  return full_attention_footprint(config, context, 8, "GQA8");
}

Footprint mha_footprint(const ModelConfig& config, int64_t context) {
  return full_attention_footprint(config, context, config.num_heads, "MHA");
}

}  // namespace kvasir
