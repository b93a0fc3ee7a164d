// Each rule is named where it is applied; protocol.md 4 and 5 say why it exists.
#include "api/request_rules.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <numeric>
#include <tuple>
#include <utility>

#include "base/json_writer.h"

namespace kvasir {
namespace {

constexpr int64_t kMaxOutput = 393216;  // what the hosted service generates at most
constexpr int64_t kMaxOutputChat = 8192;
constexpr int64_t kMaxOutputThinking = 65536;
constexpr int64_t kMaxOutputMaxEffort = 131072;
constexpr size_t kMaxNameBytes = 256;
constexpr float kLeastTopP = 1e-6f;  // 0 means "the best token only"; the sampler wants more than 0

// Protocol 4.1, both columns.
struct EffortName {
  std::string_view name;
  Effort a;
  Effort b;
};
constexpr std::array<EffortName, 7> kEfforts = {{{"minimal", Effort::kHigh, Effort::kLow},
                                                 {"low", Effort::kHigh, Effort::kLow},
                                                 {"medium", Effort::kHigh, Effort::kHigh},
                                                 {"high", Effort::kHigh, Effort::kHigh},
                                                 {"xhigh", Effort::kMax, Effort::kHigh},
                                                 {"max", Effort::kMax, Effort::kMax},
                                                 {"ultra", Effort::kMax, Effort::kMax}}};

// A name that could not be written inside a tag of a tool block and read back (MAL-14).
bool is_tool_name(std::string_view name) {
  return !name.empty() && name.size() <= kMaxNameBytes && std::none_of(name.begin(), name.end(), [](char c) {
    return static_cast<unsigned char>(c) <= 0x20 || c == '"' || c == '<' || c == '>' || c == 0x7F;
  });
}

Status read_logit_bias(const JsonFields& body, const ApiLimits& limits, ChatRequest& request) {
  KVASIR_TRY(const JsonValue* bias, body.object("logit_bias"));
  if (bias == nullptr) return {};
  const JsonValue::Object& members = bias->as_object();
  if (members.size() > limits.logit_bias) {
    return Error{ErrorCode::kInvalid, fmt::format("logit_bias: expected at most {} tokens, saw {}",
                                                  limits.logit_bias, members.size())};
  }
  for (const auto& [key, value] : members) {
    int32_t id = -1;
    const auto [end, failure] = std::from_chars(key.data(), key.data() + key.size(), id);
    if (failure != std::errc() || end != key.data() + key.size() || id < 0) {
      return Error{ErrorCode::kInvalid,
                   fmt::format("logit_bias: expected token ids as keys, saw {}", json_quote(key))};
    }
    if (!value.is_number() || !(value.as_double() >= -100 && value.as_double() <= 100)) {
      return expected_at("logit_bias." + key, "a number from -100 to 100", &value);
    }
    request.sampling.logit_bias.emplace_back(id, static_cast<float>(value.as_double()));
  }
  return {};
}

Status read_sampling(const JsonFields& body, const ApiLimits& limits, ChatRequest& request) {
  SamplingParams& sampling = request.sampling;
  sampling.top_logprobs = -1;
  KVASIR_TRY(const std::optional<double> temperature, body.number("temperature", 0, 2));
  KVASIR_TRY(const std::optional<double> top_p, body.number("top_p", 0, 1));
  KVASIR_TRY(const std::optional<int64_t> top_k, body.integer("top_k", -1, int64_t{1} << 30));
  KVASIR_TRY(const std::optional<double> min_p, body.number("min_p", 0, 1));
  KVASIR_TRY(const std::optional<double> presence, body.number("presence_penalty", -2, 2));
  KVASIR_TRY(const std::optional<double> frequency, body.number("frequency_penalty", -2, 2));
  KVASIR_TRY(const std::optional<int64_t> seed, body.integer("seed", INT64_MIN, INT64_MAX));
  if (temperature) sampling.temperature = static_cast<float>(*temperature);
  if (top_p) sampling.top_p = std::max(kLeastTopP, static_cast<float>(*top_p));
  if (top_k)
    sampling.top_k = static_cast<int>(std::max<int64_t>(0, *top_k));  // -1: off, as some clients write it
  if (min_p) sampling.min_p = static_cast<float>(*min_p);
  if (presence) sampling.presence_penalty = static_cast<float>(*presence);
  if (frequency) sampling.frequency_penalty = static_cast<float>(*frequency);
  if (seed) sampling.seed = static_cast<uint64_t>(*seed);
  request.has_seed = seed.has_value();
  return read_logit_bias(body, limits, request);
}

Status read_common(const JsonFields& body, const ApiLimits& limits, ChatRequest& request) {
  KVASIR_TRY_STATUS(body.check_object());
  KVASIR_TRY(request.model, body.text("model"));
  constexpr std::string_view kLongContext = "[1m]";
  if (request.model.ends_with(kLongContext)) {
    request.model.resize(request.model.size() - kLongContext.size());
  }
  KVASIR_TRY(request.stream, body.flag("stream", false));
  KVASIR_TRY(const std::string priority, body.text("priority"));
  if (priority == "batch") {
    request.priority = Priority::kBatch;
  } else if (!priority.empty() && priority != "interactive") {
    return body.wrong("priority", "\"interactive\" or \"batch\"");
  }
  KVASIR_TRY(request.session_id, body.text("session_id"));
  return read_sampling(body, limits, request);
}

Status check_tools(const ApiOptions& options, const ChatRequest& request) {
  const size_t count = request.conversation.tools.size();
  if (count > options.limits.tools) {
    return Error{ErrorCode::kInvalid,
                 fmt::format("tools: expected at most {}, saw {}", options.limits.tools, count)};
  }
  size_t bytes = 0;
  for (const JsonValue& tool : request.conversation.tools) bytes += tool.dump().size();
  if (bytes > options.limits.tool_bytes) {
    return Error{ErrorCode::kInvalid, fmt::format("tools: expected at most {} bytes of schemas, saw {}",
                                                  options.limits.tool_bytes, bytes)};
  }
  if (request.tool_use != ToolUse::kRequired && request.tool_use != ToolUse::kNamed) return {};
  if (count == 0) return Error{ErrorCode::kInvalid, "tool_choice: expected tools to choose from, saw none"};
  if (options.refuse_forced_tools && request.thinks()) {
    return Error{ErrorCode::kInvalid, "Thinking mode does not support this tool_choice"};  // THK-4, verbatim
  }
  return {};
}

// THK-3 strict; the texts are the hosted service's.
Status check_reasoning(const ApiOptions& options, const ChatRequest& request) {
  if (!options.require_reasoning || !request.thinks() || request.conversation.tools.empty()) return {};
  for (const Message& m : request.conversation.messages) {
    if (m.role != Role::kAssistant || m.tool_calls.empty() || m.reasoning) continue;
    return Error{
        ErrorCode::kInvalid,
        fmt::format("The `{}` in the thinking mode must be passed back to the API.",
                    request.dialect == Dialect::kMessages ? "content[].thinking" : "reasoning_content")};
  }
  return {};
}

void sort_tools_by_name(ChatRequest& request) {
  std::vector<size_t> order(request.tools.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return std::tie(request.tools[a].prompt_name, a) < std::tie(request.tools[b].prompt_name, b);
  });
  std::vector<OfferedTool> tools;
  std::vector<JsonValue> functions;
  for (size_t i : order) {
    tools.push_back(std::move(request.tools[i]));
    functions.push_back(std::move(request.conversation.tools[i]));
  }
  request.tools = std::move(tools);
  request.conversation.tools = std::move(functions);
}

Status settle_reply_format(const ApiOptions& options, ChatRequest& request) {
  if (request.reply_format.kind != ReplyFormat::Kind::kJsonSchema) return {};
  const size_t bytes = request.reply_format.schema.dump().size();
  if (bytes > options.limits.schema_bytes) {
    return Error{ErrorCode::kInvalid, fmt::format("the reply's schema: expected at most {} bytes, saw {}",
                                                  options.limits.schema_bytes, bytes)};
  }
  request.conversation.response_format = request.reply_format.schema;  // ENC-10
  return {};
}

}  // namespace

void append_paragraph(std::string& text, std::string_view paragraph) {
  if (paragraph.empty()) return;
  if (!text.empty()) text += "\n\n";
  text += paragraph;
}

Result<std::string> read_other_part(const JsonValue& part, const ApiOptions& options,
                                    const std::string& path) {
  const JsonValue* type = part.find("type");
  if (type == nullptr || !type->is_string()) return expected_at(path, "an object with a \"type\"", &part);
  if (options.other_parts == OtherParts::kPlaceholder) return "[Unsupported " + type->as_string() + "]";
  return Error{ErrorCode::kUnsupported,
               fmt::format("{}: parts of type {} are not supported, expected text", path, type->dump())};
}

Result<std::string> read_text_parts(const JsonValue* content, std::span<const std::string_view> types,
                                    const ApiOptions& options, const std::string& path) {
  if (content == nullptr || content->is_null()) return std::string();
  if (content->is_string()) return content->as_string();
  if (!content->is_array()) return expected_at(path, "a string or an array of parts", content);
  std::string text;
  for (size_t i = 0; i < content->as_array().size(); ++i) {
    const JsonValue& part = content->as_array()[i];
    const std::string here = fmt::format("{}[{}]", path, i);
    const JsonValue* type = part.find("type");
    if (i > 0) text += "\n\n";
    if (type != nullptr && type->is_string() &&
        std::find(types.begin(), types.end(), type->as_string()) != types.end()) {
      KVASIR_TRY(const std::string piece, JsonFields(part, here).text("text"));
      text += piece;
    } else {
      KVASIR_TRY(const std::string piece, read_other_part(part, options, here));
      text += piece;
    }
  }
  return text;
}

Result<std::optional<bool>> read_thinking_type(const JsonFields& body) {
  KVASIR_TRY(const JsonValue* thinking, body.object("thinking"));
  if (thinking == nullptr) return std::optional<bool>();
  const JsonFields fields(*thinking, body.path_of("thinking"));
  KVASIR_TRY(const std::string type, fields.text("type"));
  if (type == "enabled" || type == "adaptive") return std::optional(true);
  if (type == "disabled") return std::optional(false);
  if (type.empty()) return std::optional<bool>();
  return fields.wrong("type", "\"enabled\", \"adaptive\" or \"disabled\"");
}

Status settle_thinking(const ThinkingAsked& asked, const ApiOptions& options, ChatRequest& request) {
  RenderOptions& render = request.render;
  render.revision = options.revision;
  render.effort = Effort::kHigh;
  bool off = asked.enabled == false;
  bool on =
      asked.enabled == true || request.model != "deepseek-chat";  // the retired name of non-thinking mode
  if (asked.effort && (*asked.effort == "none" || *asked.effort == "off")) {
    off = true;
  } else if (asked.effort) {
    const auto found = std::find_if(kEfforts.begin(), kEfforts.end(),
                                    [&](const EffortName& e) { return e.name == *asked.effort; });
    if (found == kEfforts.end()) {
      const JsonValue seen(*asked.effort);
      return expected_at(asked.effort_path, "one of none, minimal, low, medium, high, xhigh, max, ultra",
                         &seen);
    }
    render.effort = options.revision == TemplateRevision::kA ? found->a : found->b;
    on = true;
  }
  render.thinking = on && !off ? Thinking::kOn : Thinking::kOff;
  return {};
}

Result<ChatRequest> read_request(std::string_view text, Dialect dialect, const ApiOptions& options,
                                 ReadDialect read) {
  KVASIR_TRY(const JsonValue json, parse_body(text, options.limits));
  const JsonFields body(json, "");
  ChatRequest request;
  request.dialect = dialect;
  KVASIR_TRY_STATUS(read_common(body, options.limits, request));
  KVASIR_TRY_STATUS(read(body, options, request));
  return request;
}

Status read_stop(const JsonFields& body, std::string_view key, const ApiLimits& limits,
                 ChatRequest& request) {
  const JsonValue* stop = body.find(key);
  if (stop == nullptr) return {};
  JsonValue::Array one;
  if (stop->is_string()) one.push_back(*stop);
  if (!stop->is_string() && !stop->is_array()) return body.wrong(key, "a string or an array of strings");
  const JsonValue::Array& list = stop->is_array() ? stop->as_array() : one;
  if (list.size() > limits.stop_strings) {
    return Error{ErrorCode::kInvalid, fmt::format("{}: expected at most {} strings, saw {}",
                                                  body.path_of(key), limits.stop_strings, list.size())};
  }
  for (size_t i = 0; i < list.size(); ++i) {
    if (!list[i].is_string() || list[i].as_string().size() > limits.stop_bytes) {
      return expected_at(fmt::format("{}[{}]", body.path_of(key), i),
                         fmt::format("a string of at most {} bytes", limits.stop_bytes), &list[i]);
    }
    if (!list[i].as_string().empty()) request.stop.push_back(list[i].as_string());
  }
  return {};
}

Status read_logprobs(const JsonFields& body, const ApiLimits& limits, ChatRequest& request) {
  KVASIR_TRY(const bool logprobs, body.flag("logprobs", false));
  KVASIR_TRY(const std::optional<int64_t> top, body.integer("top_logprobs", 0, limits.top_logprobs));
  if (top.value_or(0) > 0 && !logprobs) return body.wrong("top_logprobs", "\"logprobs\": true beside it");
  if (logprobs) request.sampling.top_logprobs = static_cast<int>(top.value_or(0));
  return {};
}

JsonValue function_object(std::string_view name, const JsonValue* description, const JsonValue* parameters) {
  JsonValue::Object function = {{"name", JsonValue(name)}};
  if (description != nullptr) function.push_back({"description", *description});
  if (parameters != nullptr) function.push_back({"parameters", *parameters});
  return JsonValue(std::move(function));
}

Status read_reply_format(const JsonFields& format, const JsonFields& schema, ChatRequest& request) {
  KVASIR_TRY(const std::string type, format.text("type"));
  if (type == "text") return {};
  if (type == "json_object") {
    request.reply_format.kind = ReplyFormat::Kind::kJsonObject;
    return {};
  }
  if (type != "json_schema") return format.wrong("type", "\"text\", \"json_object\" or \"json_schema\"");
  KVASIR_TRY(const JsonValue* value, schema.object("schema"));
  if (value == nullptr) return schema.wrong("schema", "a JSON schema object");
  request.reply_format.kind = ReplyFormat::Kind::kJsonSchema;
  request.reply_format.schema = *value;
  KVASIR_TRY(request.reply_format.name, schema.text("name"));
  KVASIR_TRY(request.reply_format.strict, schema.flag("strict", false));
  return {};
}

Result<const JsonValue::Array*> read_tool_list(const JsonFields& body, const ApiLimits& limits) {
  KVASIR_TRY(const JsonValue::Array* tools, body.array("tools"));
  if (tools != nullptr && tools->size() > limits.tools) {
    return Error{ErrorCode::kInvalid,
                 fmt::format("tools: expected at most {}, saw {}", limits.tools, tools->size())};
  }
  return tools;
}

Status add_tool(JsonValue function, OfferedTool tool, std::string_view path, ChatRequest& request) {
  if (!is_tool_name(tool.prompt_name)) {
    const JsonValue seen(tool.prompt_name);
    return expected_at(std::string(path) + ".name",
                       fmt::format("1 to {} bytes without blanks, quotes, < and >", kMaxNameBytes), &seen);
  }
  const JsonValue* parameters = function.find("parameters");
  if (parameters != nullptr && !parameters->is_object() && !parameters->is_null()) {
    return expected_at(std::string(path) + ".parameters", "a JSON schema object", parameters);
  }
  request.conversation.tools.push_back(std::move(function));
  request.tools.push_back(std::move(tool));
  return {};
}

const OfferedTool* find_offered(const ChatRequest& request, std::string_view name,
                                std::string_view name_space) {
  for (const OfferedTool& tool : request.tools) {
    if (tool.name == name && tool.name_space == name_space) return &tool;
  }
  return nullptr;
}

Status force_tool(std::string_view name, std::string_view path, ChatRequest& request) {
  const OfferedTool* tool = find_offered(request, name);
  for (const OfferedTool& t : request.tools) {
    if (tool == nullptr && t.prompt_name == name) tool = &t;  // a namespaced tool by its whole name
  }
  if (tool == nullptr) {
    const JsonValue seen(name);
    return expected_at(path, "the name of one of the tools", &seen);
  }
  request.tool_use = ToolUse::kNamed;
  request.forced_tool = tool->prompt_name;
  return {};
}

Status settle_request(const ApiOptions& options, ChatRequest& request) {
  const std::vector<Message>& messages = request.conversation.messages;
  if (messages.empty()) return Error{ErrorCode::kInvalid, "messages: expected at least one, saw none"};
  if (messages.size() > options.limits.messages) {
    return Error{ErrorCode::kInvalid, fmt::format("messages: expected at most {}, saw {}",
                                                  options.limits.messages, messages.size())};
  }
  KVASIR_TRY_STATUS(check_tools(options, request));
  KVASIR_TRY_STATUS(settle_reply_format(options, request));
  if (request.conversation.tools.empty()) request.tool_use = ToolUse::kNone;
  if (request.tool_use == ToolUse::kNone) {  // ENC-2
    request.conversation.tool_choice = ToolChoice::kNone;
  }
  KVASIR_TRY_STATUS(check_reasoning(options, request));
  if (options.sort_tools) sort_tools_by_name(request);
  if (request.thinks() && !options.sampling_in_thinking) {
    request.sampling.temperature = 1.0f;
    request.sampling.top_p = 1.0f;
    request.sampling.presence_penalty = request.sampling.frequency_penalty = 0;
  }
  if (request.max_tokens == 0) {
    request.max_tokens = !request.thinks()                       ? kMaxOutputChat
                         : request.render.effort == Effort::kMax ? kMaxOutputMaxEffort
                                                                 : kMaxOutputThinking;
  }
  request.max_tokens = std::min(request.max_tokens, kMaxOutput);
  return {};
}

}  // namespace kvasir
