// Writes what checkpoint_fixture.h promises; failures are test failures.
#include "model/checkpoint_fixture.h"

#include <fmt/core.h>

#include <algorithm>
#include <cstring>
#include <map>

#include "io/safetensors_writer.h"
#include "model/checkpoint_names.h"
#include "model/tensor_table.h"

namespace kvasir {
namespace {

std::vector<std::byte> copy_of(const void* data, int64_t bytes) {
  std::vector<std::byte> out(static_cast<size_t>(bytes));
  std::memcpy(out.data(), data, out.size());
  return out;
}

RawTensor raw(const std::string& name, const StoredShape& shape, const void* data) {
  std::vector<int64_t> sizes(shape.size.begin(), shape.size.begin() + shape.rank);
  return {name, shape.dtype, sizes, copy_of(data, shape.bytes())};
}

std::vector<std::byte> bf16_bytes(const float* values, int64_t count) {
  std::vector<bf16> out;
  for (int64_t i = 0; i < count; ++i) out.push_back(to_bf16(values[i]));
  return copy_of(out.data(), count * 2);
}

std::string joined(const std::vector<int>& values) {
  std::string out;
  for (int v : values) out += fmt::format("{}{}", out.empty() ? "" : ", ", v);
  return out;
}

// The keys that both spellings share.
std::string shared_keys(const ModelConfig& c) {
  std::string out =
      R"("architectures": ["DeepseekV4ForCausalLM"], "model_type": "deepseek_v4", "num_key_value_heads": 1,
 "scoring_func": "sqrtsoftplus", "norm_topk_prob": true, "hidden_act": "silu", "tie_word_embeddings": false,
 "attention_bias": false, "bos_token_id": 0, "eos_token_id": 1, "torch_dtype": "bfloat16")";
  auto add = [&](const char* key, auto value) { out += fmt::format(",\n \"{}\": {}", key, value); };
  add("vocab_size", c.vocab_size);
  add("hidden_size", c.dim);
  add("num_hidden_layers", c.num_layers);
  add("num_attention_heads", c.num_heads);
  add("head_dim", c.head_dim);
  add("q_lora_rank", c.q_rank);
  add("o_groups", c.o_groups);
  add("o_lora_rank", c.o_rank);
  add("sliding_window", c.window);
  add("max_position_embeddings", c.max_context);
  add("index_n_heads", c.index_heads);
  add("index_head_dim", c.index_dim);
  add("index_topk", c.index_topk);
  add("hc_mult", c.hc);
  add("hc_sinkhorn_iters", c.hc_sinkhorn_iters);
  add("hc_eps", c.hc_eps);
  add("n_routed_experts", c.num_experts);
  add("n_shared_experts", c.num_shared_experts);
  add("num_experts_per_tok", c.experts_per_token);
  add("moe_intermediate_size", c.expert_dim);
  add("routed_scaling_factor", c.routed_scaling_factor);
  add("swiglu_limit", c.swiglu_limit);
  add("rms_norm_eps", c.norm_eps);
  add("num_nextn_predict_layers", c.num_mtp);
  return out;
}

}  // namespace

ModelConfig tiny_config() {
  ModelConfig c = with_layers(flash_config(), 4);  // ratios 0, 0, 4, 128 and MTP
  c.vocab_size = 96;
  c.dim = 128;
  c.num_heads = 4;
  c.head_dim = 128;
  c.q_rank = 64;
  c.o_groups = 2;
  c.o_rank = 64;
  c.window = 32;
  c.index_heads = 8;
  c.index_topk = 16;
  c.num_experts = 4;
  c.experts_per_token = 2;
  c.expert_dim = 128;
  c.num_hash_layers = 1;
  return c;
}

std::string official_config_json(const ModelConfig& c) {
  return fmt::format(
      R"({{{},
 "topk_method": "noaux_tc", "num_hash_layers": {}, "qk_rope_head_dim": {}, "compress_ratios": [{}],
 "rope_theta": {}, "compress_rope_theta": {},
 "rope_scaling": {{"type": "yarn", "factor": {}, "beta_fast": {}, "beta_slow": {},
                   "original_max_position_embeddings": {}}},
 "quantization_config": {{"quant_method": "fp8", "fmt": "e4m3", "scale_fmt": "ue8m0",
                          "weight_block_size": [128, 128]}}}})",
      shared_keys(c), c.num_hash_layers, c.rope_dim, joined(c.compress_ratios), c.rope_theta,
      c.compress_rope_theta, c.yarn_factor, c.yarn_beta_fast, c.yarn_beta_slow, c.yarn_original_context);
}

std::string transformers_config_json(const ModelConfig& c) {
  std::string layer_types, mlp_types;
  for (int l = 0; l < c.num_layers; ++l) {
    const char* kind = c.compress_ratio(l) == 0   ? "sliding_attention"
                       : c.compress_ratio(l) == 4 ? "compressed_sparse_attention"
                                                  : "heavily_compressed_attention";
    layer_types += fmt::format("{}\"{}\"", l ? ", " : "", kind);
    mlp_types += fmt::format("{}\"{}\"", l ? ", " : "", c.hash_routed(l) ? "hash_moe" : "moe");
  }
  double factor = static_cast<double>(c.rope_dim) / c.head_dim;
  return fmt::format(
      R"({{{},
 "layer_types": [{}], "mlp_layer_types": [{}], "partial_rotary_factor": {}, "rope_theta": 10000.0,
 "compress_rates": {{"compressed_sparse_attention": 4, "heavily_compressed_attention": 128}},
 "rope_parameters": {{
  "main": {{"rope_type": "default", "rope_theta": {}, "partial_rotary_factor": {}}},
  "compress": {{"rope_type": "yarn", "rope_theta": {}, "factor": {}, "beta_fast": {}, "beta_slow": {},
   "original_max_position_embeddings": {}, "attention_factor": 1.0}}}}}})",
      shared_keys(c), layer_types, mlp_types, factor, c.rope_theta, factor, c.compress_rope_theta,
      c.yarn_factor, c.yarn_beta_fast, c.yarn_beta_slow, c.yarn_original_context);
}

std::vector<RawTensor> official_tensors(Model& model) {
  std::vector<RawTensor> out;
  for (const TensorEntry& e : list_tensors(model)) {
    StoredShape shape = official_weight(e);
    if (auto* matrix = std::get_if<WeightMatrix*>(&e.slot)) {
      out.push_back(raw(e.name, shape, (*matrix)->data));
      if (!(*matrix)->scale) continue;
      bool tiles = (*matrix)->format == WeightFormat::kFp8Block128;
      out.push_back(raw(scale_name(e.name), tiles ? tile_scale(e) : group_scale(e), (*matrix)->scale));
    } else if (auto* table = std::get_if<View<const int32_t, 2>*>(&e.slot)) {
      std::vector<int64_t> ids((*table)->data(), (*table)->data() + e.parameters());
      out.push_back(raw(e.name, shape, ids.data()));
    } else {
      auto* vector = std::get_if<View<const float, 1>*>(&e.slot);
      const float* values =
          vector ? (*vector)->data() : (*std::get_if<View<const float, 2>*>(&e.slot))->data();
      if (shape.dtype == DType::kBF16) {
        out.push_back({e.name, shape.dtype, {e.rows}, bf16_bytes(values, e.rows)});
      } else {
        out.push_back(raw(e.name, shape, values));
      }
    }
  }
  return out;
}

std::vector<RawTensor> transformers_tensors(const std::vector<RawTensor>& official) {
  // A fused tensor is its experts' parts in the order (expert, gate before up).
  std::map<std::string, std::map<std::pair<int64_t, bool>, const RawTensor*>> fused;
  std::vector<RawTensor> out;
  for (const RawTensor& t : official) {
    std::vector<StoredName> names = transformers_names(t.name);
    if (names.empty()) {
      out.push_back(t);  // mtp.*
    } else if (names[0].part == StoredPart::kWhole) {
      out.push_back(t);
      out.back().name = names[0].name;
    } else {
      fused[names[0].name][{names[0].expert, names[0].part == StoredPart::kExpertLastHalf}] = &t;
    }
  }
  for (const auto& [name, parts] : fused) {
    RawTensor t{name, parts.begin()->second->dtype, parts.begin()->second->shape, {}};
    int64_t experts = parts.rbegin()->first.first + 1;
    t.shape[0] *= static_cast<int64_t>(parts.size()) / experts;
    t.shape.insert(t.shape.begin(), experts);
    for (const auto& part : parts)
      t.bytes.insert(t.bytes.end(), part.second->bytes.begin(), part.second->bytes.end());
    out.push_back(std::move(t));
  }
  return out;
}

RawTensor& tensor_named(std::vector<RawTensor>& tensors, const std::string& name) {
  auto it = std::find_if(tensors.begin(), tensors.end(), [&](const RawTensor& t) { return t.name == name; });
  KVASIR_CHECK(it != tensors.end(), "the fixture has no tensor {}", name);
  return *it;
}

void drop_tensor(std::vector<RawTensor>& tensors, const std::string& name) {
  std::swap(tensor_named(tensors, name), tensors.back());
  tensors.pop_back();
}

RawTensor zeros(const std::string& name, DType dtype, std::vector<int64_t> shape) {
  int64_t bytes = dtype_bits(dtype) / 8;
  for (int64_t size : shape) bytes *= size;
  return {name, dtype, std::move(shape), std::vector<std::byte>(static_cast<size_t>(bytes))};
}

void write_tensors(const TempDir& dir, const std::string& file, std::vector<RawTensor> tensors) {
  // Wide elements first, as the usual writers do, so that every tensor is aligned.
  std::sort(tensors.begin(), tensors.end(), [](const RawTensor& a, const RawTensor& b) {
    int wide = dtype_bits(a.dtype) - dtype_bits(b.dtype);
    return wide != 0 ? wide > 0 : a.name < b.name;
  });
  write_in_order(dir, file, tensors);
}

void write_in_order(const TempDir& dir, const std::string& file, const std::vector<RawTensor>& tensors) {
  std::vector<TensorToWrite> list;
  for (const RawTensor& t : tensors) list.push_back({t.name, t.dtype, t.shape});
  auto writer = SafetensorsWriter::create(dir.file(file), list);
  ASSERT_TRUE(writer) << writer.error().message;
  for (const RawTensor& t : tensors) {
    Status status = writer->write(t.bytes);
    ASSERT_TRUE(status) << status.error().message;
  }
  Status status = writer->finish();
  ASSERT_TRUE(status) << status.error().message;
}

void write_shards(const TempDir& dir, const std::vector<RawTensor>& tensors, int shards) {
  std::string map;
  int64_t total = 0;
  for (int s = 0; s < shards; ++s) {
    std::string file = fmt::format("model-{:05}-of-{:05}.safetensors", s + 1, shards);
    std::vector<RawTensor> part;
    for (size_t i = static_cast<size_t>(s); i < tensors.size(); i += static_cast<size_t>(shards)) {
      part.push_back(tensors[i]);
      map += fmt::format("{}\"{}\": \"{}\"", map.empty() ? "" : ",\n", tensors[i].name, file);
      total += static_cast<int64_t>(tensors[i].bytes.size());
    }
    write_tensors(dir, file, part);
  }
  dir.write("model.safetensors.index.json",
            fmt::format("{{\"metadata\": {{\"total_size\": {}}}, \"weight_map\": {{{}}}}}", total, map));
}

}  // namespace kvasir
