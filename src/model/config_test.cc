// config.json, in both spellings, with every key missing or wrong in turn; schedules and frequencies.
#include "model/config.h"

#include <fmt/core.h>
#include <gtest/gtest.h>

#include "model/checkpoint_fixture.h"

namespace kvasir {
namespace {

Result<ModelConfig> parse(const std::string& json) {
  std::vector<std::string> warnings;
  return parse_config(json, "DIR/config.json", warnings);
}

void expect_refused(const std::string& json, ErrorCode code, std::initializer_list<std::string_view> words) {
  auto config = parse(json);
  ASSERT_FALSE(config);
  const std::string& message = config.error().message;
  EXPECT_EQ(config.error().code, code) << message;
  EXPECT_EQ(message.rfind("DIR/config.json", 0), 0u) << message;
  EXPECT_EQ(message.find('\n'), std::string::npos) << message;
  for (std::string_view word : words)
    EXPECT_NE(message.find(word), std::string::npos) << message << "\n  lacks: " << word;
}

// `json` with the value after "key": replaced; arrays and objects as a whole.
std::string with_value(std::string json, const std::string& key, const std::string& value) {
  size_t at = json.find("\"" + key + "\":");
  KVASIR_CHECK(at != std::string::npos, "no key {}", key);
  at += key.size() + 3;
  size_t end = at;
  for (int depth = 0; depth > 0 || (json[end] != ',' && json[end] != '}'); ++end) {
    if (json[end] == '[' || json[end] == '{') ++depth;
    if (json[end] == ']' || json[end] == '}') --depth;
  }
  return json.replace(at, end - at, " " + value);
}

std::string without_key(std::string json, const std::string& key) {
  size_t at = json.find("\"" + key + "\":");
  KVASIR_CHECK(at != std::string::npos, "no key {}", key);
  return json.replace(at, key.size() + 2, "\"_name_or_path\"");  // a key that is known and means nothing
}

void expect_same(const ModelConfig& a, const ModelConfig& b) {
  EXPECT_EQ(official_config_json(a), official_config_json(b));
  EXPECT_EQ(a.attention_kind(0), b.attention_kind(0));
}

TEST(Config, ReadsTheOfficialSpelling) {
  for (const ModelConfig& c : {flash_config(), pro_config(), tiny_config()}) {
    std::vector<std::string> warnings;
    auto parsed = parse_config(official_config_json(c), "config.json", warnings);
    ASSERT_TRUE(parsed) << parsed.error().message;
    expect_same(*parsed, c);
    EXPECT_TRUE(warnings.empty()) << warnings[0];
  }
}

TEST(Config, ReadsWhatTransformersSaves) {
  for (const ModelConfig& c : {flash_config(), pro_config(), tiny_config()}) {
    std::vector<std::string> warnings;
    auto parsed = parse_config(transformers_config_json(c), "config.json", warnings);
    ASSERT_TRUE(parsed) << parsed.error().message;
    expect_same(*parsed, c);
    EXPECT_TRUE(warnings.empty()) << warnings[0];
  }
}

TEST(Config, PublishedSchedulesAreThoseOfTheReport) {
  auto count = [](const ModelConfig& c, AttentionKind kind) {
    int n = 0;
    for (int l = 0; l < c.num_layers; ++l) n += c.attention_kind(l) == kind;
    return n;
  };
  ModelConfig flash = flash_config(), pro = pro_config();
  EXPECT_EQ(count(flash, AttentionKind::kSwa), 2);
  EXPECT_EQ(count(flash, AttentionKind::kCsa), 21);
  EXPECT_EQ(count(flash, AttentionKind::kHca), 20);
  EXPECT_EQ(count(pro, AttentionKind::kSwa), 0);
  EXPECT_EQ(count(pro, AttentionKind::kCsa), 30);
  EXPECT_EQ(count(pro, AttentionKind::kHca), 31);
  EXPECT_EQ(flash.attention_kind(2), AttentionKind::kCsa);
  EXPECT_EQ(flash.attention_kind(42), AttentionKind::kCsa);
  EXPECT_EQ(flash.attention_kind(43), AttentionKind::kSwa);  // MTP
  EXPECT_EQ(pro.attention_kind(61), AttentionKind::kSwa);
  EXPECT_TRUE(flash.hash_routed(2));
  EXPECT_FALSE(flash.hash_routed(3));
}

TEST(Config, WithLayersKeepsTheFirstLayersAndTheMtpBlock) {
  ModelConfig c = with_layers(flash_config(), 4);
  EXPECT_EQ(c.compress_ratios, (std::vector<int>{0, 0, 4, 128, 0}));
  EXPECT_EQ(c.num_layers, 4);
  EXPECT_EQ(c.num_hash_layers, 3);
  EXPECT_EQ(c.num_mtp, 1);
  EXPECT_EQ(with_layers(pro_config(), 2).compress_ratios, (std::vector<int>{128, 128, 0}));
  EXPECT_EQ(with_layers(flash_config(), 1).num_hash_layers, 1);
}

TEST(Config, AMissingKeyIsAnErrorThatNamesIt) {
  const std::string json = official_config_json(tiny_config());
  for (const char* key : {"model_type",
                          "vocab_size",
                          "hidden_size",
                          "num_hidden_layers",
                          "num_attention_heads",
                          "num_key_value_heads",
                          "head_dim",
                          "qk_rope_head_dim",
                          "q_lora_rank",
                          "o_groups",
                          "o_lora_rank",
                          "sliding_window",
                          "compress_ratios",
                          "rope_theta",
                          "rope_scaling",
                          "max_position_embeddings",
                          "index_n_heads",
                          "index_head_dim",
                          "index_topk",
                          "hc_mult",
                          "hc_sinkhorn_iters",
                          "hc_eps",
                          "n_routed_experts",
                          "n_shared_experts",
                          "num_experts_per_tok",
                          "moe_intermediate_size",
                          "num_hash_layers",
                          "scoring_func",
                          "topk_method",
                          "norm_topk_prob",
                          "routed_scaling_factor",
                          "swiglu_limit",
                          "hidden_act",
                          "rms_norm_eps",
                          "num_nextn_predict_layers",
                          "bos_token_id",
                          "eos_token_id",
                          "factor",
                          "beta_fast",
                          "beta_slow",
                          "original_max_position_embeddings"}) {
    SCOPED_TRACE(key);
    expect_refused(without_key(json, key), ErrorCode::kInvalid, {"missing key", key});
  }
}

TEST(Traps, Trap04CompressRopeThetaIsReadAndNeverDefaulted) {
  EXPECT_EQ(flash_config().compress_rope_theta, 160000);
  EXPECT_EQ(pro_config().compress_rope_theta, 160000);
  const std::string json = official_config_json(tiny_config());
  expect_refused(without_key(json, "compress_rope_theta"), ErrorCode::kInvalid,
                 {"missing key", "compress_rope_theta"});
  auto parsed = parse(with_value(json, "compress_rope_theta", "40000"));
  ASSERT_TRUE(parsed);
  EXPECT_EQ(parsed->compress_rope_theta, 40000);
}

TEST(Traps, Trap33ConfigListLength) {
  ModelConfig c = tiny_config();  // 4 layers, ratios 0 0 4 128 + MTP
  auto ratios = [&](const std::string& list) {
    return with_value(official_config_json(c), "compress_ratios", list);
  };
  auto parsed = parse(ratios("[0, 0, 4, 128, 0]"));  // L + 1
  ASSERT_TRUE(parsed) << parsed.error().message;
  EXPECT_EQ(parsed->attention_kind(3), AttentionKind::kHca);
  EXPECT_EQ(parsed->attention_kind(4), AttentionKind::kSwa);
  parsed = parse(ratios("[0, 0, 4, 128, 0, 0, 0]"));  // L + 3, as the DSpark checkpoints have it
  ASSERT_TRUE(parsed) << parsed.error().message;
  EXPECT_EQ(parsed->num_layers, 4);
  for (const char* list :
       {"[0, 0, 4, 128]", "[0, 0, 4, 128, 0, 0]", "[0, 0, 4, 128, 0, 0, 0, 0]", "[]", "[0]"}) {
    SCOPED_TRACE(list);
    expect_refused(ratios(list), ErrorCode::kInvalid, {"compress_ratios has", "expected 5", "or 7"});
  }
  for (const char* list : {"[0, 0, 4, 64, 0]", "[0, 0, 4, -1, 0]", "[0, 0, 4, 128.5, 0]",
                           "[0, 0, 4, \"128\", 0]", "[0, 0, 4, null, 0]"}) {
    SCOPED_TRACE(list);
    expect_refused(ratios(list), ErrorCode::kInvalid, {"compress_ratios[3]", "expected 0, 4 or 128"});
  }
  expect_refused(ratios("[0, 0, 4, 128, 4]"), ErrorCode::kInvalid, {"compress_ratios[4] is 4", "expected 0"});
}

TEST(Config, AnUnknownKeyIsAWarning) {
  std::vector<std::string> warnings;
  std::string json = official_config_json(tiny_config());
  json.insert(1, R"("brand_new": [1, {"a": 2}], "dspark_block_size": 5, )");
  auto parsed = parse_config(json, "config.json", warnings);
  ASSERT_TRUE(parsed) << parsed.error().message;
  ASSERT_EQ(warnings.size(), 1u);
  EXPECT_EQ(warnings[0], "config.json: unknown key brand_new ignored");
}

TEST(Config, WrongTypesAndValuesNameTheKeyAndWhatWasExpected) {
  const std::string json = official_config_json(tiny_config());
  auto refuse = [&](const char* key, const char* value, std::initializer_list<std::string_view> words) {
    SCOPED_TRACE(key);
    expect_refused(with_value(json, key, value), ErrorCode::kInvalid, words);
  };
  refuse("hidden_size", "\"128\"", {"hidden_size", "a string", "expected an integer"});
  refuse("hidden_size", "128.0", {"hidden_size", "expected an integer"});
  refuse("hidden_size", "-128", {"hidden_size is -128", "expected 1 to"});
  refuse("hidden_size", "99999999999999999999", {});
  refuse("hidden_size", "130", {"hidden_size is 130", "multiple of 32"});
  refuse("num_hidden_layers", "0", {"num_hidden_layers is 0"});
  refuse("head_dim", "130", {"multiple of 64"});
  refuse("qk_rope_head_dim", "512", {"qk_rope_head_dim is 512"});
  refuse("index_head_dim", "96", {"power of two"});
  refuse("o_groups", "3", {"num_attention_heads is 4", "multiple of o_groups, 3"});
  refuse("num_experts_per_tok", "5", {"num_experts_per_tok is 5", "at most n_routed_experts, 4"});
  refuse("num_hash_layers", "5", {"num_hash_layers is 5"});
  refuse("eos_token_id", "96", {"not below vocab_size, 96"});
  refuse("rope_theta", "0", {"rope_theta is 0", "above 1"});
  refuse("compress_rope_theta", "1",
         {"compress_rope_theta is 1", "above 1"});  // no rotation; its logarithm divides by zero
  refuse("rope_theta", "\"x\"", {"rope_theta", "expected a number"});
  refuse("rms_norm_eps", "-1e-6", {"rms_norm_eps"});
  refuse("rope_scaling", "null", {"rope_scaling", "expected an object"});
  refuse("compress_ratios", "4", {"compress_ratios is an integer", "expected an array"});
  refuse("num_key_value_heads", "2", {"num_key_value_heads is 2"});
  refuse("n_shared_experts", "2", {"n_shared_experts is 2"});
}

TEST(Config, ChoicesThatKvasirDoesNotComputeAreUnsupported) {
  const std::string json = official_config_json(tiny_config());
  auto refuse = [&](const char* key, const char* value) {
    SCOPED_TRACE(key);
    expect_refused(with_value(json, key, value), ErrorCode::kUnsupported, {key});
  };
  refuse("model_type", "\"deepseek_v3\"");
  refuse("scoring_func", "\"sigmoid\"");
  refuse("topk_method", "\"group_limited_greedy\"");
  refuse("norm_topk_prob", "false");
  refuse("hidden_act", "\"gelu\"");
  refuse("tie_word_embeddings", "true");
  refuse("attention_bias", "true");
  refuse("weight_block_size", "[32, 32]");
  refuse("scale_fmt", "\"float\"");
}

TEST(Config, V41IsNamedAsNotSupported) {
  const std::string json = official_config_json(tiny_config());
  for (const char* key :
       {"kv_source_layer_ids", "index_source_layer_ids", "candidate_source_layer_id", "engram_layers"}) {
    std::string v41 = json;
    v41.insert(1, fmt::format("\"{}\": [2, 8], ", key));
    expect_refused(v41, ErrorCode::kUnsupported, {key, "DeepSeek-V4.1", "not supported"});
  }
  expect_refused(with_value(json, "model_type", "\"deepseek_v4_1\""), ErrorCode::kUnsupported,
                 {"deepseek_v4_1", "V4.1", "not supported"});
  expect_refused(with_value(json, "compress_ratios", "[0, 0, 2, 1, 0]"), ErrorCode::kUnsupported,
                 {"compress_ratios[2] is 2", "V4.1"});
}

TEST(Config, RefusesWhatIsNoConfig) {
  expect_refused("", ErrorCode::kInvalid, {"empty"});
  expect_refused("[]", ErrorCode::kInvalid, {"an array", "expected an object"});
  expect_refused("{", ErrorCode::kInvalid, {"not valid JSON"});
  expect_refused("{}", ErrorCode::kInvalid, {"missing key model_type"});
  expect_refused(std::string(100000, '[') + std::string(100000, ']'), ErrorCode::kInvalid,
                 {"deeper than 16"});
  expect_refused(std::string((1 << 20) + 1, ' '), ErrorCode::kInvalid, {"at most 1048576"});
  std::string twice = official_config_json(tiny_config());
  twice.insert(1, "\"hidden_size\": 64, ");
  expect_refused(twice, ErrorCode::kInvalid, {"key hidden_size appears twice"});
}

TEST(Config, TransformersListsMustFitTheLayers) {
  const std::string json = transformers_config_json(tiny_config());
  expect_refused(with_value(json, "layer_types", R"(["sliding_attention"])"), ErrorCode::kInvalid,
                 {"layer_types has 1", "expected 4"});
  expect_refused(
      with_value(json, "layer_types",
                 R"(["sliding_attention", "full_attention", "sliding_attention", "sliding_attention"])"),
      ErrorCode::kInvalid, {"layer_types[1] is full_attention"});
  expect_refused(with_value(json, "mlp_layer_types", R"(["moe", "hash_moe", "moe", "moe"])"),
                 ErrorCode::kUnsupported, {"mlp_layer_types[1]"});
  expect_refused(without_key(json, "mlp_layer_types"), ErrorCode::kInvalid, {"missing key num_hash_layers"});
  expect_refused(without_key(json, "compress"), ErrorCode::kInvalid,
                 {"rope_parameters", "missing key compress"});
  expect_refused(with_value(json, "rope_type", R"("default", "rope_theta": 1)"), ErrorCode::kInvalid,
                 {"rope_theta appears twice"});
  expect_refused(with_value(json, "rope_type", R"("linear")"), ErrorCode::kUnsupported,
                 {"rope_parameters: main", "linear"});
  expect_refused(with_value(json, "heavily_compressed_attention", "64"), ErrorCode::kInvalid,
                 {"compress_rates", "64"});
}

TEST(Config, InverseFrequenciesMatchTheReference) {
  // spec A.5, every digit given there.
  const float compressed[] = {1.0f,           0.68765604f,    0.4728708f,     0.32517245f,    0.2236068f,
                              0.15376456f,    0.10573712f,    0.072710775f,   0.050000001f,   0.034382802f,
                              0.02364354f,    0.016258623f,   0.01118034f,    0.007688228f,   0.0052868566f,
                              0.0036355385f,  0.0022656249f,  0.0013968013f,  0.00084968971f, 0.00050808198f,
                              0.00029697779f, 0.00016817998f, 9.0867841e-05f, 4.5444231e-05f, 1.9531253e-05f,
                              5.3723124e-06f, 3.6943034e-06f, 2.5404097e-06f, 1.7469282e-06f, 1.2012856e-06f,
                              8.260713e-07f,  5.6805294e-07f};
  for (int ratio : {4, 128}) {
    std::vector<float> f = flash_config().inv_freq(ratio);
    ASSERT_EQ(f.size(), 32u);
    for (size_t i = 0; i < 32; ++i)
      EXPECT_EQ(fmt::format("{:.8g}", f[i]), fmt::format("{:.8g}", compressed[i])) << i;
  }
  std::vector<float> f = flash_config().inv_freq(0);
  const float main_first[] = {1.0f, 0.7498942f, 0.56234133f, 0.42169651f, 0.31622776f, 0.23713736f};
  for (size_t i = 0; i < 6; ++i) EXPECT_FLOAT_EQ(f[i], main_first[i]);
  EXPECT_FLOAT_EQ(f[31], 1.3335215e-04f);
}

TEST(Config, InverseFrequenciesFollowTheRopeWidth) {
  ModelConfig c = tiny_config();
  c.rope_dim = 32;
  std::vector<float> f = c.inv_freq(0);
  ASSERT_EQ(f.size(), 16u);
  EXPECT_FLOAT_EQ(f[1], std::pow(10000.f, -2.f / 32));
  // The slowest dimension of a compressed layer is stretched by the whole factor, the fastest not at all.
  f = c.inv_freq(4);
  EXPECT_EQ(f[0], 1.0f);
  EXPECT_FLOAT_EQ(f[15], std::pow(160000.f, -30.f / 32) / 16);
}

}  // namespace
}  // namespace kvasir
