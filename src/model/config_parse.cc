// Reads config.json, in the official spelling and in the one transformers saves, into a ModelConfig.
//
// Every key that changes results is asked for by name, so a missing one is an error and never a
// default; keys that nobody asked for and nobody knows are warnings. Source: spec 1.1, 1.3, A.5,
// traps 4 and 33; dspark.md 2 (longer compress_ratios), 14 (how V4.1 is recognised).
#include "model/config.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "io/file.h"
#include "io/json.h"

namespace kvasir {
namespace {

constexpr JsonLimits kConfigLimits{1 << 20, 16};
constexpr int kDsparkStages = 3;  // draft stages of the 0731 / 0813 checkpoints, each with a ratio of 0

using simdjson::dom::array;
using simdjson::dom::element;
using simdjson::dom::object;

// Keys that official and transformers configs carry and that do not change what the trunk computes,
// or that another key or the tensors' own dtypes decide.
constexpr std::string_view kIgnoredKeys[] = {"architectures",
                                             "attention_dropout",
                                             "initializer_range",
                                             "torch_dtype",
                                             "dtype",
                                             "transformers_version",
                                             "use_cache",
                                             "expert_dtype",
                                             "pad_token_id",
                                             "_name_or_path",
                                             "auto_map",
                                             "output_router_logits",
                                             "router_aux_loss_coef",
                                             "router_jitter_noise",
                                             "mlp_bias",
                                             "intermediate_size",
                                             "num_local_experts",
                                             "rope_theta",
                                             "compress_rope_theta",
                                             "rope_scaling",
                                             "rope_parameters",
                                             "partial_rotary_factor",
                                             "default_partial_rotary_factor",
                                             "qk_rope_head_dim",
                                             "layer_types",
                                             "mlp_layer_types",
                                             "compress_rates",
                                             "default_compress_rates",
                                             "default_num_hash_layers",
                                             "compress_ratios",
                                             "num_hash_layers",
                                             "topk_method",
                                             "tie_word_embeddings",
                                             "attention_bias",
                                             "quantization_config",
                                             "chunk_size_feed_forward",
                                             "output_attentions",
                                             "output_hidden_states",
                                             "return_dict",
                                             "is_encoder_decoder",
                                             "id2label",
                                             "label2id",
                                             "problem_type",
                                             "torchscript",
                                             "dspark_block_size",
                                             "dspark_noise_token_id",
                                             "dspark_target_layer_ids",
                                             "dspark_markov_rank"};

// Keys that only V4.1 has: another architecture under a similar name.
constexpr std::string_view kV41Keys[] = {"kv_source_layer_ids", "index_source_layer_ids",
                                         "candidate_source_layer_id", "candidate_topk_blocks",
                                         "candidate_block_size"};

constexpr std::string_view kLayerTypes[] = {"sliding_attention", "compressed_sparse_attention",
                                            "heavily_compressed_attention"};

// One JSON object of the config with the place it has in messages ("config.json", "config.json:
// rope_scaling"). The first error sticks, so that a list of reads needs one check at its end.
class Keys {
 public:
  Keys(object o, std::string where) : object_(o), where_(std::move(where)) {}

  bool has(std::string_view key) const {
    element e;
    return !error_ && !object_.at_key(key).get(e) && !e.is_null();
  }
  element at(std::string_view key) {
    asked_.insert(std::string(key));
    element e;
    if (!error_ && object_.at_key(key).get(e)) fail(fmt::format("missing key {}", key));
    return e;
  }
  int64_t integer(std::string_view key, int64_t lowest, int64_t highest) {
    element e = at(key);
    if (error_) return 0;
    int64_t value = 0;
    if (e.get(value)) {
      fail(fmt::format("key {} is {}, expected an integer", key, json_kind(e)));
      return 0;
    }
    if (value < lowest || value > highest) {
      fail(fmt::format("key {} is {}, expected {} to {}", key, value, lowest, highest));
      return 0;
    }
    return value;
  }
  int size(std::string_view key, int64_t lowest, int64_t highest) {
    return static_cast<int>(integer(key, lowest, highest));
  }
  // A finite number above `above`.
  double number(std::string_view key, double above = 0) {
    element e = at(key);
    if (error_) return 0;
    double value = 0;
    if (e.get(value)) {
      fail(fmt::format("key {} is {}, expected a number", key, json_kind(e)));
    } else if (!std::isfinite(value) || value <= above || value > 1e30) {
      fail(fmt::format("key {} is {}, expected a number above {}", key, value, above));
    }
    return value;
  }
  void expect_text(std::string_view key, std::string_view expected) {
    element e = at(key);
    if (error_) return;
    std::string_view value;
    if (e.get(value)) return fail(fmt::format("key {} is {}, expected \"{}\"", key, json_kind(e), expected));
    if (value != expected) {
      fail(fmt::format("key {} is \"{}\", and kvasir supports only \"{}\"", key, printable(value), expected),
           ErrorCode::kUnsupported);
    }
  }
  void expect_bool(std::string_view key, bool expected) {
    element e = at(key);
    if (error_) return;
    bool value = false;
    if (e.get(value)) return fail(fmt::format("key {} is {}, expected {}", key, json_kind(e), expected));
    if (value != expected)
      fail(fmt::format("key {} is {}, and kvasir supports only {}", key, value, expected),
           ErrorCode::kUnsupported);
  }
  std::vector<element> list(std::string_view key, size_t max_count) {
    element e = at(key);
    std::vector<element> out;
    array items;
    if (error_) return out;
    if (e.get(items)) {
      fail(fmt::format("key {} is {}, expected an array", key, json_kind(e)));
      return out;
    }
    for (element item : items) {
      if (out.size() == max_count) {
        fail(fmt::format("key {} has more than {} entries", key, max_count));
        break;
      }
      out.push_back(item);
    }
    return out;
  }
  // The object under `key`, as Keys of its own; its errors are its own too.
  Keys child(std::string_view key) {
    element e = at(key);
    object o;
    if (!error_ && e.get(o)) fail(fmt::format("key {} is {}, expected an object", key, json_kind(e)));
    Keys inner(o, fmt::format("{}: {}", where_, key));
    inner.error_ = error_;
    inner.failed_ = failed_;
    if (!error_) inner.refuse_duplicates();
    return inner;
  }
  // simdjson gives the first of two equal keys, others the last: better not to guess.
  void refuse_duplicates() {
    std::set<std::string_view> seen;
    for (auto field : object_) {
      if (!seen.insert(field.key).second) fail(fmt::format("key {} appears twice", printable(field.key)));
    }
  }
  void adopt(const Keys& inner) {
    if (!error_ && inner.error_) error_ = true, failed_ = inner.failed_;
  }

  void fail(std::string message, ErrorCode code = ErrorCode::kInvalid) {
    if (error_) return;
    error_ = true;
    failed_ = Error{code, fmt::format("{}: {}", where_, message)};
  }
  bool failed() const { return error_; }
  const Error& error() const { return failed_; }
  const std::string& where() const { return where_; }
  object raw() const { return object_; }
  bool asked(std::string_view key) const { return asked_.count(std::string(key)) > 0; }

 private:
  object object_;
  std::string where_;
  std::set<std::string> asked_;
  bool error_ = false;
  Error failed_;
};

// Names the architecture when it is one that kvasir knows of and cannot run.
void check_architecture(Keys& keys) {
  auto refuse_v41 = [&](std::string_view what) {
    keys.fail(fmt::format(
                  "{} belongs to DeepSeek-V4.1, which is not supported (another architecture than V4)", what),
              ErrorCode::kUnsupported);
  };
  for (auto field : keys.raw()) {
    bool listed = std::find(std::begin(kV41Keys), std::end(kV41Keys), field.key) != std::end(kV41Keys);
    if (listed || field.key.starts_with("engram"))
      return refuse_v41(fmt::format("key {}", printable(field.key)));
    std::string_view type;
    if (field.key != "model_type" || field.value.get(type)) continue;
    for (std::string_view name : {"deepseek_v4_1", "deepseek_v41", "deepseek_v4.1"}) {
      if (type.starts_with(name)) return refuse_v41(fmt::format("model_type {}", printable(type)));
    }
  }
  keys.expect_text("model_type", "deepseek_v4");
}

void read_sizes(Keys& k, ModelConfig& c) {
  constexpr int64_t kWide = 1 << 20;
  c.vocab_size = k.integer("vocab_size", 1, 1 << 24);
  c.dim = k.integer("hidden_size", 1, kWide);
  c.num_layers = k.size("num_hidden_layers", 1, 1024);
  c.num_heads = k.size("num_attention_heads", 1, 4096);
  c.head_dim = k.size("head_dim", 2, 1 << 16);
  c.q_rank = k.size("q_lora_rank", 1, kWide);
  c.o_groups = k.size("o_groups", 1, 4096);
  c.o_rank = k.size("o_lora_rank", 1, kWide);
  c.window = k.size("sliding_window", 1, kWide);
  c.max_context = k.integer("max_position_embeddings", 1, int64_t{1} << 31);
  c.index_heads = k.size("index_n_heads", 1, 4096);
  c.index_dim = k.size("index_head_dim", 1, 1 << 16);
  c.index_topk = k.size("index_topk", 1, kWide);
  c.hc = k.size("hc_mult", 1, 64);
  c.hc_sinkhorn_iters = k.size("hc_sinkhorn_iters", 1, 1000);
  c.num_experts = k.size("n_routed_experts", 1, 1 << 16);
  c.num_shared_experts = k.size("n_shared_experts", 1, 1);
  c.experts_per_token = k.size("num_experts_per_tok", 1, 1024);
  c.expert_dim = k.size("moe_intermediate_size", 1, kWide);
  c.num_mtp = k.size("num_nextn_predict_layers", 0, 8);
}

void read_scalars(Keys& k, ModelConfig& c) {
  c.hc_eps = static_cast<float>(k.number("hc_eps"));
  c.routed_scaling_factor = static_cast<float>(k.number("routed_scaling_factor"));
  c.swiglu_limit = static_cast<float>(k.number("swiglu_limit"));
  c.norm_eps = static_cast<float>(k.number("rms_norm_eps"));
  c.bos_id = k.size("bos_token_id", 0, std::numeric_limits<int32_t>::max());
  element eos = k.at("eos_token_id");
  array several;
  if (!k.failed() && !eos.get(several) &&
      several.size() > 0) {  // transformers may save a list: its first ends a turn
    int64_t id = 0;
    if (several.at(0).get(id) || id < 0 || id >= c.vocab_size) {
      k.fail(
          fmt::format("key eos_token_id starts with something other than a token id below {}", c.vocab_size));
    }
    c.eos_id = static_cast<int>(id);
  } else {
    c.eos_id = k.size("eos_token_id", 0, std::numeric_limits<int32_t>::max());
  }
}

// What kvasir computes in one way only: the config must say that way.
void check_fixed_choices(Keys& k) {
  k.integer("num_key_value_heads", 1, 1);
  k.expect_text("scoring_func", "sqrtsoftplus");
  k.expect_bool("norm_topk_prob", true);
  k.expect_text("hidden_act", "silu");
  if (k.has("compress_ratios") || k.has("topk_method"))
    k.expect_text("topk_method", "noaux_tc");  // transformers drops it
  if (k.has("tie_word_embeddings")) k.expect_bool("tie_word_embeddings", false);
  if (k.has("attention_bias")) k.expect_bool("attention_bias", false);
  if (!k.has("quantization_config")) return;  // dtypes are decided per tensor
  Keys q = k.child("quantization_config");
  if (q.has("fmt")) q.expect_text("fmt", "e4m3");
  if (q.has("scale_fmt")) q.expect_text("scale_fmt", "ue8m0");
  if (q.has("weight_block_size")) {
    std::vector<element> block = q.list("weight_block_size", 8);
    int64_t rows = 0, cols = 0;
    if (block.size() != 2 || block[0].get(rows) || block[1].get(cols) || rows != 128 || cols != 128) {
      q.fail("key weight_block_size is not [128, 128], the only FP8 block that V4 uses",
             ErrorCode::kUnsupported);
    }
  }
  k.adopt(q);
}

// Official: compress_ratios, one per layer and one per MTP or draft block (trap 33).
void read_compress_ratios(Keys& k, ModelConfig& c) {
  std::vector<element> items = k.list("compress_ratios", 2048);
  if (k.failed()) return;
  size_t layers = static_cast<size_t>(c.num_layers);
  size_t with_mtp = layers + static_cast<size_t>(c.num_mtp), with_dspark = layers + kDsparkStages;
  if (items.size() != with_mtp && items.size() != with_dspark) {
    return k.fail(fmt::format(
        "compress_ratios has {} entries, expected {} ({} layers + {} MTP) or {} (+ {} DSpark stages)",
        items.size(), with_mtp, layers, c.num_mtp, with_dspark, kDsparkStages));
  }
  for (size_t i = 0; i < items.size(); ++i) {
    int64_t ratio = -1;
    if (items[i].get(ratio))
      return k.fail(fmt::format("compress_ratios[{}] is {}, expected 0, 4 or 128", i, json_kind(items[i])));
    if (ratio == 1 || ratio == 2) {
      return k.fail(fmt::format("compress_ratios[{}] is {}, expected 0, 4 or 128 (ratios 1 and 2 belong to "
                                "DeepSeek-V4.1, which is "
                                "not supported)",
                                i, ratio),
                    ErrorCode::kUnsupported);
    }
    if (ratio != 0 && ratio != 4 && ratio != 128)
      return k.fail(fmt::format("compress_ratios[{}] is {}, expected 0, 4 or 128", i, ratio));
    if (i >= layers && ratio != 0) {
      return k.fail(
          fmt::format("compress_ratios[{}] is {}, expected 0: entries after the {} layers belong to MTP or "
                      "draft blocks, which "
                      "see only the window",
                      i, ratio, layers));
    }
    c.compress_ratios.push_back(static_cast<int>(ratio));
  }
}

// transformers: layer_types, one name per trunk layer.
void read_layer_types(Keys& k, ModelConfig& c) {
  std::vector<element> items = k.list("layer_types", 2048);
  if (k.failed()) return;
  if (items.size() != static_cast<size_t>(c.num_layers)) {
    return k.fail(fmt::format("layer_types has {} entries, expected {}", items.size(), c.num_layers));
  }
  constexpr int kRatio[] = {0, 4, 128};
  for (size_t i = 0; i < items.size(); ++i) {
    std::string_view name;
    bool text = !items[i].get(name);
    const auto* found = std::find(std::begin(kLayerTypes), std::end(kLayerTypes), name);
    if (!text || found == std::end(kLayerTypes)) {
      return k.fail(fmt::format("layer_types[{}] is {}, expected {}, {} or {}", i,
                                text ? printable(name) : std::string(json_kind(items[i])), kLayerTypes[0],
                                kLayerTypes[1], kLayerTypes[2]));
    }
    c.compress_ratios.push_back(kRatio[found - std::begin(kLayerTypes)]);
  }
  c.compress_ratios.resize(items.size() + static_cast<size_t>(c.num_mtp), 0);
  if (!k.has("compress_rates")) return;
  Keys rates = k.child("compress_rates");
  rates.integer(kLayerTypes[1], 4, 4);
  rates.integer(kLayerTypes[2], 128, 128);
  k.adopt(rates);
}

// How many first layers route by token id: num_hash_layers, or transformers' mlp_layer_types.
void read_hash_layers(Keys& k, ModelConfig& c) {
  if (k.has("num_hash_layers") || !k.has("mlp_layer_types")) {
    c.num_hash_layers = k.size("num_hash_layers", 0, c.num_layers);
    return;
  }
  std::vector<element> items = k.list("mlp_layer_types", 2048);
  if (k.failed()) return;
  if (items.size() != static_cast<size_t>(c.num_layers)) {
    return k.fail(fmt::format("mlp_layer_types has {} entries, expected {}", items.size(), c.num_layers));
  }
  for (size_t i = 0; i < items.size(); ++i) {
    std::string_view name;
    bool text = !items[i].get(name);
    bool hash = text && name == "hash_moe";
    if (!hash && !(text && name == "moe"))
      return k.fail(fmt::format("mlp_layer_types[{}] is not hash_moe or moe", i));
    if (hash && c.num_hash_layers != static_cast<int>(i)) {
      return k.fail(
          fmt::format("mlp_layer_types[{}] is hash_moe after a moe layer, expected hash layers first", i),
          ErrorCode::kUnsupported);
    }
    c.num_hash_layers += hash ? 1 : 0;
  }
}

void read_yarn(Keys& yarn, ModelConfig& c) {
  yarn.expect_text(yarn.has("type") ? "type" : "rope_type", "yarn");
  c.yarn_factor = yarn.number("factor");
  c.yarn_beta_fast = yarn.number("beta_fast");
  c.yarn_beta_slow = yarn.number("beta_slow");
  c.yarn_original_context = yarn.integer("original_max_position_embeddings", 1, int64_t{1} << 40);
}

// Official: rope_theta, compress_rope_theta, rope_scaling, qk_rope_head_dim. transformers: rope_parameters
// with "main" and "compress", and partial_rotary_factor.
void read_rope(Keys& k, ModelConfig& c) {
  if (k.has("qk_rope_head_dim") || !k.has("partial_rotary_factor")) {
    c.rope_dim = k.size("qk_rope_head_dim", 2, c.head_dim);
  } else {
    double dims = k.number("partial_rotary_factor") * c.head_dim;
    c.rope_dim = static_cast<int>(std::min(dims, 1e6));
    if (!k.failed() && (c.rope_dim < 2 || c.rope_dim > c.head_dim)) {
      k.fail(fmt::format("partial_rotary_factor gives {} of {} dims, expected 2 to {}", c.rope_dim,
                         c.head_dim, c.head_dim));
    }
  }
  if (k.has("rope_scaling") || !k.has("rope_parameters")) {
    c.rope_theta = k.number("rope_theta", 1);
    c.compress_rope_theta = k.number("compress_rope_theta", 1);
    if (k.failed()) return;
    Keys yarn = k.child("rope_scaling");
    read_yarn(yarn, c);
    return k.adopt(yarn);
  }
  Keys parameters = k.child("rope_parameters");
  Keys main = parameters.child("main");
  if (main.has("rope_type")) main.expect_text("rope_type", "default");
  c.rope_theta = main.number("rope_theta", 1);
  parameters.adopt(main);
  Keys compress = parameters.child("compress");
  c.compress_rope_theta = compress.number("rope_theta", 1);
  read_yarn(compress, c);
  parameters.adopt(compress);
  k.adopt(parameters);
}

// What the formats and the maths need of the sizes together.
void check_sizes_agree(Keys& k, const ModelConfig& c) {
  auto expect = [&](bool good, std::string message) {
    if (!good) k.fail(std::move(message));
  };
  expect(c.dim % 32 == 0, fmt::format("hidden_size is {}, expected a multiple of 32 (FP4 groups)", c.dim));
  expect(c.expert_dim % 32 == 0,
         fmt::format("moe_intermediate_size is {}, expected a multiple of 32 (FP4 groups)", c.expert_dim));
  expect(c.rope_dim % 2 == 0, fmt::format("qk_rope_head_dim is {}, expected an even number", c.rope_dim));
  expect(c.rope_dim <= c.index_dim,
         fmt::format("qk_rope_head_dim is {}, expected at most index_head_dim, {}", c.rope_dim, c.index_dim));
  expect((c.head_dim - c.rope_dim) % 64 == 0,
         fmt::format(
             "head_dim - qk_rope_head_dim is {}, expected a multiple of 64 (FP8 blocks of a cache entry)",
             c.head_dim - c.rope_dim));
  expect(c.index_dim % 32 == 0 && (c.index_dim & (c.index_dim - 1)) == 0,
         fmt::format("index_head_dim is {}, expected a power of two of at least 32", c.index_dim));
  expect(
      c.num_heads % std::max(c.o_groups, 1) == 0,
      fmt::format("num_attention_heads is {}, expected a multiple of o_groups, {}", c.num_heads, c.o_groups));
  expect(c.experts_per_token <= c.num_experts,
         fmt::format("num_experts_per_tok is {}, expected at most n_routed_experts, {}", c.experts_per_token,
                     c.num_experts));
  expect(c.bos_id < c.vocab_size && c.eos_id < c.vocab_size,
         fmt::format("bos_token_id {} or eos_token_id {} is not below vocab_size, {}", c.bos_id, c.eos_id,
                     c.vocab_size));
}

void warn_unknown(const Keys& k, std::vector<std::string>& warnings) {
  for (auto field : k.raw()) {
    bool ignored =
        std::find(std::begin(kIgnoredKeys), std::end(kIgnoredKeys), field.key) != std::end(kIgnoredKeys);
    if (!ignored && !k.asked(field.key))
      warnings.push_back(fmt::format("{}: unknown key {} ignored", k.where(), printable(field.key)));
  }
}

}  // namespace

Result<ModelConfig> parse_config(std::string_view json, const std::string& where,
                                 std::vector<std::string>& warnings) {
  KVASIR_TRY(JsonDocument document, JsonDocument::parse(json, where, kConfigLimits));
  object root;
  if (document.root().get(root)) {
    return Error{ErrorCode::kInvalid,
                 fmt::format("{}: {}, expected an object", where, json_kind(document.root()))};
  }
  Keys k(root, where);
  ModelConfig c;
  k.refuse_duplicates();
  if (!k.failed()) check_architecture(k);
  if (!k.failed()) read_sizes(k, c);
  if (!k.failed()) read_scalars(k, c);
  if (!k.failed()) check_fixed_choices(k);
  bool transformers = !k.has("compress_ratios") && k.has("layer_types");
  if (!k.failed()) transformers ? read_layer_types(k, c) : read_compress_ratios(k, c);
  if (!k.failed()) read_hash_layers(k, c);
  if (!k.failed()) read_rope(k, c);
  if (!k.failed()) check_sizes_agree(k, c);
  if (k.failed()) return k.error();
  warn_unknown(k, warnings);
  return c;
}

}  // namespace kvasir
