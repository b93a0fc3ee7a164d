// Names, types and bytes of every tensor; see gguf_export.h. Walks the tensor table, so nothing can be left
// out: a tensor without a GGUF name is a broken invariant.
#include "model/gguf_export.h"

#include <fmt/core.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "base/check.h"
#include "model/tensor_table.h"

namespace kvasir {
namespace {

struct Pair {
  std::string_view official;
  std::string_view gguf;
};

constexpr Pair kTop[] = {
    {"embed.weight", "token_embd.weight"},     {"head.weight", "output.weight"},
    {"norm.weight", "output_norm.weight"},     {"hc_head_fn", "output_hc_fn.weight"},
    {"hc_head_base", "output_hc_base.weight"}, {"hc_head_scale", "output_hc_scale.weight"},
};

// Inside "layers.L." and "mtp.0."; the experts and e_proj / h_proj are several tensors in one.
constexpr Pair kLayer[] = {
    {"attn_norm.weight", "attn_norm.weight"},
    {"ffn_norm.weight", "ffn_norm.weight"},
    {"hc_attn_fn", "hc_attn_fn.weight"},
    {"hc_attn_base", "hc_attn_base.weight"},
    {"hc_attn_scale", "hc_attn_scale.weight"},
    {"hc_ffn_fn", "hc_ffn_fn.weight"},
    {"hc_ffn_base", "hc_ffn_base.weight"},
    {"hc_ffn_scale", "hc_ffn_scale.weight"},
    {"attn.attn_sink", "attn_sinks.weight"},
    {"attn.wq_a.weight", "attn_q_a.weight"},
    {"attn.q_norm.weight", "attn_q_a_norm.weight"},
    {"attn.wq_b.weight", "attn_q_b.weight"},
    {"attn.wkv.weight", "attn_kv.weight"},
    {"attn.kv_norm.weight", "attn_kv_a_norm.weight"},
    {"attn.wo_a.weight", "attn_output_a.weight"},
    {"attn.wo_b.weight", "attn_output_b.weight"},
    {"attn.compressor.wkv.weight", "attn_compressor_kv.weight"},
    {"attn.compressor.wgate.weight", "attn_compressor_gate.weight"},
    {"attn.compressor.ape", "attn_compressor_ape.weight"},
    {"attn.compressor.norm.weight", "attn_compressor_norm.weight"},
    {"attn.indexer.wq_b.weight", "indexer.attn_q_b.weight"},
    {"attn.indexer.weights_proj.weight", "indexer.proj.weight"},
    {"attn.indexer.compressor.wkv.weight", "indexer_compressor_kv.weight"},
    {"attn.indexer.compressor.wgate.weight", "indexer_compressor_gate.weight"},
    {"attn.indexer.compressor.ape", "indexer_compressor_ape.weight"},
    {"attn.indexer.compressor.norm.weight", "indexer_compressor_norm.weight"},
    {"ffn.gate.weight", "ffn_gate_inp.weight"},
    {"ffn.gate.tid2eid", "ffn_gate_tid2eid.weight"},
    {"ffn.gate.bias", "exp_probs_b.bias"},
    {"ffn.shared_experts.w1.weight", "ffn_gate_shexp.weight"},
    {"ffn.shared_experts.w3.weight", "ffn_up_shexp.weight"},
    {"ffn.shared_experts.w2.weight", "ffn_down_shexp.weight"},
    {"ffn.experts.0.w1.weight", "ffn_gate_exps.weight"},
    {"ffn.experts.0.w3.weight", "ffn_up_exps.weight"},
    {"ffn.experts.0.w2.weight", "ffn_down_exps.weight"},
    {"e_proj.weight", "nextn.eh_proj.weight"},
    {"enorm.weight", "nextn.enorm.weight"},
    {"hnorm.weight", "nextn.hnorm.weight"},
    {"norm.weight", "nextn.shared_head_norm.weight"},
};

// One tensor of the file and where its values come from: one of the four.
struct Export {
  GgufTensor tensor;
  std::vector<const WeightMatrix*> stacked;  // one after the other, the slowest dimension
  std::pair<const WeightMatrix*, const WeightMatrix*>
      beside{};  // each row: a row of the first, then of the second
  const float* floats = nullptr;
  const int32_t* ids = nullptr;
};

std::optional<std::string_view> find_name(std::span<const Pair> names, std::string_view official) {
  for (const Pair& p : names) {
    if (p.official == official) return p.gguf;
  }
  return std::nullopt;
}

// nullopt: has no place of its own in the file, but within another tensor or nowhere.
std::optional<std::string> gguf_name(const TensorEntry& e, const ModelConfig& config) {
  if (e.layer < 0) {
    auto name = find_name(kTop, e.name);
    KVASIR_CHECK(name, "{} has no GGUF name", e.name);
    return std::string(*name);
  }
  const bool mtp = e.layer == config.num_layers;
  std::string prefix = mtp ? "mtp.0." : fmt::format("layers.{}.", e.layer);
  std::string_view stem = std::string_view(e.name).substr(prefix.size());
  if (auto name = find_name(kLayer, stem)) return fmt::format("blk.{}.{}", e.layer, *name);
  const bool joined =
      stem.starts_with("ffn.experts.") || stem == "h_proj.weight" || (mtp && stem.starts_with("hc_head"));
  KVASIR_CHECK(joined, "{} has no GGUF name", e.name);
  return std::nullopt;
}

GgufType matrix_type(const TensorEntry& e, const WeightMatrix& w, GgufWeights weights) {
  if (weights == GgufWeights::kF32) return GgufType::kF32;
  if (weights == GgufWeights::kBf16 || e.kind == TensorKind::kBf16Matrix) return GgufType::kBf16;
  if (weights == GgufWeights::kMxfp4 && w.format == WeightFormat::kFp4Group32) return GgufType::kMxfp4;
  return GgufType::kQ8_0;
}

// All experts' w1, w3 or w2, whichever entry the first expert's is.
std::vector<const WeightMatrix*> experts_like(const WeightMatrix* first, const MoeWeights& moe) {
  std::vector<const WeightMatrix*> out;
  for (const ExpertWeights& expert : moe.experts) {
    out.push_back(first == &moe.experts[0].w1   ? &expert.w1
                  : first == &moe.experts[0].w3 ? &expert.w3
                                                : &expert.w2);
  }
  return out;
}

Export matrix_export(const TensorEntry& e, const WeightMatrix* w, const Model& model,
                     const GgufExportOptions& options, std::string name) {
  Export out;
  out.tensor = {std::move(name), matrix_type(e, *w, options.weights), {e.cols, e.rows}};
  if (e.kind == TensorKind::kExpertMatrix) {
    const bool mtp = e.layer == model.config.num_layers;
    const MoeWeights& moe = mtp ? model.mtp->block.moe : model.layers[static_cast<size_t>(e.layer)].moe;
    out.stacked = experts_like(w, moe);
    out.tensor.dims.push_back(std::ssize(out.stacked));
    // One tensor has one type: a single expert that is not FP4 makes all of them Q8_0.
    const bool fp4 = std::all_of(out.stacked.begin(), out.stacked.end(), [](const WeightMatrix* m) {
      return m->format == WeightFormat::kFp4Group32;
    });
    if (out.tensor.type == GgufType::kMxfp4 && !fp4) out.tensor.type = GgufType::kQ8_0;
  } else if (model.mtp && w == &model.mtp->e_proj) {
    out.beside = {w, &model.mtp->h_proj};  // e first along the input dimension
    out.tensor.dims[0] *= 2;
  } else {
    out.stacked = {w};
  }
  return out;
}

std::vector<Export> list_exports(Model& model, const GgufExportOptions& options) {
  std::vector<Export> out;
  for (const TensorEntry& e : list_tensors(model)) {
    if (e.layer == model.config.num_layers && !options.mtp) continue;
    auto name = gguf_name(e, model.config);
    if (!name) continue;
    if (auto* matrix = std::get_if<WeightMatrix*>(&e.slot)) {
      out.push_back(matrix_export(e, *matrix, model, options, *name));
      continue;
    }
    Export x;
    x.tensor = {*name, GgufType::kF32,
                e.vector() ? std::vector<int64_t>{e.rows} : std::vector<int64_t>{e.cols, e.rows}};
    if (auto* vector = std::get_if<View<const float, 1>*>(&e.slot)) {
      x.floats = (*vector)->data();
    } else if (auto* floats = std::get_if<View<const float, 2>*>(&e.slot)) {
      x.floats = (*floats)->data();
    } else {
      x.ids = (*std::get_if<View<const int32_t, 2>*>(&e.slot))->data();
      x.tensor.type = GgufType::kI32;
    }
    out.push_back(std::move(x));
  }
  return out;
}

// IEEE half precision, to nearest, ties to even; infinity above its range. `x` is not negative.
uint16_t to_f16(float x) {
  constexpr float kSubnormal = 0x1p-14f;
  if (x < kSubnormal)
    return static_cast<uint16_t>(std::nearbyintf(x * 0x1p24f));  // 1024 is the first normal code
  uint32_t u = std::bit_cast<uint32_t>(x);
  u += 0xfffu + ((u >> 13) & 1);
  uint32_t code = (u >> 13) - ((127 - 15) << 10);
  return static_cast<uint16_t>(std::min<uint32_t>(code, 0x7c00));
}

// 32 values as 34 bytes. False: they are too large for the scale.
bool encode_q8_0(const float* values, std::byte* out) {
  float max = 0;
  for (int i = 0; i < 32; ++i) max = std::max(max, std::fabs(values[i]));
  const float scale = max / 127, inverse = scale > 0 ? 1 / scale : 0;
  const uint16_t code = to_f16(scale);
  std::memcpy(out, &code, 2);
  for (int i = 0; i < 32; ++i)
    out[2 + i] = static_cast<std::byte>(static_cast<int8_t>(std::lrintf(values[i] * inverse)));
  return code < 0x7c00;
}

// One row of FP4 in the order of MXFP4: the same nibbles, halves of a block side by side instead of
// neighbours.
void repack_mxfp4(const WeightMatrix& w, int64_t row, std::byte* out) {
  const auto* nibbles = static_cast<const uint8_t*>(w.data) + row * w.data_row_bytes();
  const uint8_t* scales = w.scale + row * w.scale_row_bytes();
  auto value = [&](int64_t i) {
    return static_cast<uint8_t>(i & 1 ? nibbles[i / 2] >> 4 : nibbles[i / 2] & 15);
  };
  for (int64_t block = 0; block < w.cols / 32; ++block) {
    *out++ = static_cast<std::byte>(scales[block]);
    for (int64_t j = block * 32; j < block * 32 + 16; ++j)
      *out++ = static_cast<std::byte>(value(j) | value(j + 16) << 4);
  }
}

// False as encode_q8_0.
bool encode_row(const std::vector<float>& row, GgufType type, std::vector<std::byte>& out) {
  out.resize(static_cast<size_t>(gguf_bytes(type, std::ssize(row))));
  if (type == GgufType::kF32) {
    std::memcpy(out.data(), row.data(), out.size());
    return true;
  }
  if (type == GgufType::kBf16) {
    for (size_t i = 0; i < row.size(); ++i) {
      bf16 b = to_bf16(row[i]);
      std::memcpy(out.data() + 2 * i, &b, 2);
    }
    return true;
  }
  KVASIR_CHECK(type == GgufType::kQ8_0, "rows of type {}", static_cast<uint32_t>(type));
  bool fits = true;
  for (size_t i = 0; i < row.size(); i += 32)
    fits = encode_q8_0(row.data() + i, out.data() + i / 32 * 34) && fits;
  return fits;
}

class Exporter {
 public:
  explicit Exporter(GgufWriter& writer) : writer_(writer) {}

  Status write(const Export& x) {
    if (x.floats)
      return writer_.write(std::as_bytes(std::span(x.floats, static_cast<size_t>(x.tensor.values()))));
    if (x.ids) return writer_.write(std::as_bytes(std::span(x.ids, static_cast<size_t>(x.tensor.values()))));
    row_.resize(static_cast<size_t>(x.tensor.dims[0]));
    if (x.beside.first) {
      const auto [first, second] = x.beside;
      for (int64_t r = 0; r < first->rows; ++r) {
        dequantise_row(*first, r, row_.data());
        dequantise_row(*second, r, row_.data() + first->cols);
        KVASIR_TRY_STATUS(write_row(x.tensor));
      }
      return {};
    }
    for (const WeightMatrix* w : x.stacked) {
      for (int64_t r = 0; r < w->rows; ++r) {
        if (x.tensor.type == GgufType::kMxfp4) {
          bytes_.resize(static_cast<size_t>(gguf_bytes(x.tensor.type, w->cols)));
          repack_mxfp4(*w, r, bytes_.data());
          KVASIR_TRY_STATUS(writer_.write(bytes_));
          continue;
        }
        dequantise_row(*w, r, row_.data());
        KVASIR_TRY_STATUS(write_row(x.tensor));
      }
    }
    return {};
  }

 private:
  Status write_row(const GgufTensor& tensor) {
    if (!encode_row(row_, tensor.type, bytes_)) {
      return Error{ErrorCode::kUnsupported,
                   fmt::format("tensor {}: values too large for Q8_0, whose scale of 32 is a half-precision "
                               "number; choose another type",
                               tensor.name)};
    }
    return writer_.write(bytes_);
  }

  GgufWriter& writer_;
  std::vector<float> row_;
  std::vector<std::byte> bytes_;
};

uint32_t file_type(GgufWeights weights) {  // llama.cpp's numbers of "mostly ..."
  switch (weights) {
    case GgufWeights::kF32:
      return 0;
    case GgufWeights::kBf16:
      return 32;
    case GgufWeights::kQ8_0:
      return 7;
    case GgufWeights::kMxfp4:
      return 38;
  }
  KVASIR_CHECK(false, "weights {}", static_cast<int>(weights));
}

}  // namespace

void add_architecture(const ModelConfig& c, const GgufExportOptions& options, GgufMetadata& metadata) {
  metadata.add("general.architecture", "deepseek4");
  metadata.add("general.file_type", file_type(options.weights));
  metadata.add("general.quantization_version", uint32_t{2});
  auto add = [&](const char* key, auto value) { metadata.add(fmt::format("deepseek4.{}", key), value); };
  auto count = [&](const char* key, int64_t value) { add(key, static_cast<uint32_t>(value)); };
  auto real = [&](const char* key, double value) { add(key, static_cast<float>(value)); };
  const int mtp = options.mtp ? c.num_mtp : 0, blocks = c.num_layers + mtp;
  count("block_count", blocks);
  count("nextn_predict_layers", mtp);
  count("context_length", c.max_context);
  count("embedding_length", c.dim);
  count("vocab_size", c.vocab_size);
  count("attention.head_count", c.num_heads);
  count("attention.head_count_kv", 1);
  count("attention.key_length", c.head_dim);
  count("attention.value_length", c.head_dim);
  count("rope.dimension_count", c.rope_dim);
  real("attention.layer_norm_rms_epsilon", c.norm_eps);
  count("attention.q_lora_rank", c.q_rank);
  count("attention.sliding_window", c.window);
  count("attention.output_group_count", c.o_groups);
  count("attention.output_lora_rank", c.o_rank);
  std::vector<int32_t> ratios(c.compress_ratios.begin(), c.compress_ratios.end());
  if (std::ssize(ratios) == c.num_layers)
    ratios.push_back(0);  // readers of published files expect the MTP block's, used or not
  add("attention.compress_ratios", std::span<const int32_t>(ratios));
  real("attention.compress_rope_freq_base", c.compress_rope_theta);
  count("attention.indexer.head_count", c.index_heads);
  count("attention.indexer.key_length", c.index_dim);
  count("attention.indexer.top_k", c.index_topk);
  real("rope.freq_base", c.rope_theta);
  add("rope.scaling.type", std::string_view("yarn"));
  real("rope.scaling.factor", c.yarn_factor);
  count("rope.scaling.original_context_length", c.yarn_original_context);
  real("rope.scaling.yarn_beta_fast", c.yarn_beta_fast);
  real("rope.scaling.yarn_beta_slow", c.yarn_beta_slow);
  count("expert_count", c.num_experts);
  count("expert_used_count", c.experts_per_token);
  count("expert_shared_count", c.num_shared_experts);
  count("expert_feed_forward_length", c.expert_dim);
  real("expert_weights_scale", c.routed_scaling_factor);
  add("expert_weights_norm", true);
  count("expert_gating_func", 4);  // sqrt(softplus)
  count("hash_layer_count", c.num_hash_layers);
  const std::vector<float> clamp(static_cast<size_t>(blocks), c.swiglu_limit);
  add("swiglu_clamp_exp", std::span<const float>(clamp));
  add("swiglu_clamp_shexp", std::span<const float>(clamp));
  count("hyper_connection.count", c.hc);
  count("hyper_connection.sinkhorn_iterations", c.hc_sinkhorn_iters);
  real("hyper_connection.epsilon", c.hc_eps);
}

Result<GgufExportReport> export_gguf(Model& model, const GgufMetadata& metadata, const std::string& path,
                                     const GgufExportOptions& options) {
  if (options.mtp && !model.mtp)
    return Error{ErrorCode::kUnsupported, "the checkpoint has no MTP block that could be exported"};
  std::vector<Export> exports = list_exports(model, options);
  std::vector<GgufTensor> tensors;
  GgufExportReport report;
  for (const Export& x : exports) {
    const int64_t block = gguf_block_values(x.tensor.type);
    if (x.tensor.dims[0] % block != 0) {
      return Error{ErrorCode::kUnsupported,
                   fmt::format("tensor {}: rows of {} values are not whole blocks of {}, which its GGUF type "
                               "needs; choose bf16 or f32",
                               x.tensor.name, x.tensor.dims[0], block)};
    }
    tensors.push_back(x.tensor);
    report.bytes += x.tensor.bytes();
  }
  report.tensors = std::ssize(tensors);
  KVASIR_TRY(GgufWriter writer, GgufWriter::create(path, metadata, std::move(tensors)));
  Exporter exporter(writer);
  if (options.progress) options.progress->begin("exporting", ProgressUnit::kBytes, report.bytes);
  int64_t done = 0;
  for (const Export& x : exports) {
    KVASIR_TRY_STATUS(exporter.write(x));
    done += x.tensor.bytes();
    if (options.progress) options.progress->tick(done);
  }
  if (options.progress) options.progress->end();
  KVASIR_TRY_STATUS(writer.finish());
  return report;
}

}  // namespace kvasir
