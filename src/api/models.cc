#include "api/models.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <array>
#include <utility>

#include "api/json_fields.h"
#include "api/openai_chat.h"
#include "base/json_writer.h"
#include "text/special_text.h"

namespace kvasir {
namespace {

void write_model(const ModelInfo& model, JsonWriter& json) {
  json.begin_object().field("id", model.id).field("object", "model").field("created", model.created);
  json.field("owned_by", "kvasir").field("type", "model").field("display_name", model.id);
  json.field("created_at",
             fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(static_cast<std::time_t>(model.created))));
  json.field("max_model_len", model.max_context).end_object();
}

const char* health_name(Health health) {
  switch (health) {
    case Health::kOk:
      return "ok";
    case Health::kLoading:
      return "loading";
    case Health::kDraining:
      return "draining";
    case Health::kFailed:
      return "failed";
  }
  return "failed";
}

}  // namespace

std::string models_body(const std::vector<ModelInfo>& models) {
  JsonWriter json;
  json.begin_object().field("object", "list").begin_array("data");
  for (const ModelInfo& model : models) write_model(model, json);
  json.end_array().field("has_more", false);
  const std::array<std::pair<const char*, size_t>, 2> ends = {
      {{"first_id", 0}, {"last_id", models.size() - 1}}};
  for (const auto& [key, at] : ends) {
    json.key(key);
    if (models.empty()) {
      json.null();
    } else {
      json.value(models[at].id);
    }
  }
  json.end_object();
  return json.text();
}

std::string model_body(const ModelInfo& model) {
  JsonWriter json;
  write_model(model, json);
  return json.text();
}

Result<TokenizeRequest> parse_tokenize(std::string_view text, const ApiOptions& options) {
  KVASIR_TRY(const JsonValue json, parse_body(text, options.limits));
  const JsonFields body(json, "");
  TokenizeRequest request;
  if (body.has("messages")) {
    KVASIR_TRY(request.chat, parse_chat(text, options));
    return request;
  }
  std::string_view key;
  for (std::string_view name : {"text", "prompt", "content"}) {
    if (body.has(name)) key = name;
  }
  const JsonValue* content = body.find(key);
  if (content == nullptr)
    return body.wrong("content", "a text here, in \"prompt\" or in \"text\", or \"messages\"");
  if (!content->is_string()) return body.wrong(key, "a string");
  request.text = content->as_string();
  KVASIR_TRY(request.add_special, body.flag("add_special", false));
  KVASIR_TRY(request.parse_special, body.flag("parse_special", true));
  return request;
}

std::vector<int32_t> tokenize_text(const TokenizeRequest& request, const Tokenizer& tokenizer) {
  std::string text(request.add_special ? kBosText : std::string_view());
  const ByteRange client{text.size(), text.size() + request.text.size()};
  text += request.text;
  if (request.parse_special || client.begin == client.end) return tokenizer.encode(text);
  return tokenizer.encode(text, {&client, 1});
}

std::string tokenize_body(const std::vector<int32_t>& ids, int64_t max_context) {
  JsonWriter json;
  json.begin_object().field("count", ids.size()).field("max_model_len", max_context).begin_array("tokens");
  for (const int32_t id : ids) json.value(id);
  json.end_array().end_object();
  return json.text();
}

Result<std::vector<int32_t>> parse_detokenize(std::string_view text, const ApiOptions& options,
                                              int32_t vocab_size) {
  KVASIR_TRY(const JsonValue json, parse_body(text, options.limits));
  const JsonFields body(json, "");
  KVASIR_TRY(const JsonValue::Array* tokens, body.array("tokens"));
  if (tokens == nullptr) return body.wrong("tokens", "an array of token ids");
  std::vector<int32_t> ids;
  for (size_t i = 0; i < tokens->size(); ++i) {
    const JsonValue& value = (*tokens)[i];
    const std::optional<int64_t> id = value.is_number() ? value.as_int64() : std::nullopt;
    if (!id || *id < 0 || *id >= vocab_size) {
      return expected_at(fmt::format("tokens[{}]", i), fmt::format("a token id from 0 to {}", vocab_size - 1),
                         &value);
    }
    ids.push_back(static_cast<int32_t>(*id));
  }
  return ids;
}

std::string detokenize_body(const std::vector<int32_t>& ids, const Tokenizer& tokenizer) {
  const std::string text = tokenizer.decode(ids);
  JsonWriter json;
  json.begin_object().field("content", text).field("prompt", text).end_object();
  return json.text();
}

std::string health_body(Health health, int64_t running, int64_t waiting) {
  JsonWriter json;
  json.begin_object()
      .field("status", health_name(health))
      .field("running", running)
      .field("waiting", waiting);
  json.end_object();
  return json.text();
}

int health_status(Health health) { return health == Health::kOk ? 200 : 503; }

std::string balance_body() {
  JsonWriter json;
  json.begin_object().field("is_available", true).begin_array("balance_infos").end_array().end_object();
  return json.text();
}

}  // namespace kvasir
