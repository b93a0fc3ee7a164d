#include "api/responses_tools.h"

#include <fmt/format.h>

#include "api/request_rules.h"

namespace kvasir {
namespace {

// RSP-3: raw text is one string parameter. A grammar that the client wants is part of what the model is told.
JsonValue custom_function(std::string_view name, const JsonFields& tool) {
  std::string text;
  const JsonValue* description = tool.find("description");
  if (description != nullptr && description->is_string()) text = description->as_string();
  const JsonValue* format = tool.find("format");
  const JsonValue* definition = format == nullptr ? nullptr : format->find("definition");
  if (definition != nullptr && definition->is_string()) append_paragraph(text, definition->as_string());
  const JsonValue described(text);
  const JsonValue string_type(JsonValue::Object{{"type", JsonValue("string")}});
  const JsonValue parameters(
      JsonValue::Object{{"type", JsonValue("object")},
                        {"properties", JsonValue(JsonValue::Object{{"input", string_type}})},
                        {"required", JsonValue(JsonValue::Array{JsonValue("input")})}});
  return function_object(name, text.empty() ? nullptr : &described, &parameters);
}

Status read_tool(const JsonValue& json, std::string_view name_space, const std::string& path,
                 ChatRequest& request) {
  const JsonFields fields(json, path);
  if (!json.is_object()) return {};
  KVASIR_TRY(const std::string type, fields.text("type"));
  if (type == "namespace" && name_space.empty()) {
    KVASIR_TRY(const std::string inner, fields.required_text("name"));
    KVASIR_TRY(const JsonValue::Array* tools, fields.array("tools"));
    for (size_t i = 0; tools != nullptr && i < tools->size(); ++i) {
      KVASIR_TRY_STATUS(read_tool((*tools)[i], inner, fmt::format("{}.tools[{}]", path, i), request));
    }
    return {};
  }
  if (type != "function" && type != "custom") return {};  // RSP-1
  KVASIR_TRY(const std::string name, fields.required_text("name"));
  OfferedTool tool{
      .prompt_name = namespaced_name(name_space, name), .name = name, .name_space = std::string(name_space)};
  tool.custom = type == "custom";
  KVASIR_TRY(tool.strict, fields.flag("strict", false));
  JsonValue function =
      tool.custom ? custom_function(tool.prompt_name, fields)
                  : function_object(tool.prompt_name, fields.find("description"), fields.find("parameters"));
  return add_tool(std::move(function), std::move(tool), path, request);
}

}  // namespace

std::string namespaced_name(std::string_view name_space, std::string_view name) {
  if (name_space.empty()) return std::string(name);
  return fmt::format("{}__{}", name_space, name);
}

Status read_response_tools(const JsonValue::Array& tools, const std::string& path, ChatRequest& request) {
  for (size_t i = 0; i < tools.size(); ++i) {
    KVASIR_TRY_STATUS(read_tool(tools[i], "", fmt::format("{}[{}]", path, i), request));
  }
  return {};
}

Status read_response_tool_choice(const JsonFields& body, ChatRequest& request) {
  const JsonValue* choice = body.find("tool_choice");
  if (choice == nullptr) return {};
  const JsonValue* mode = choice->is_string() ? choice : nullptr;
  if (choice->is_object()) {
    const JsonFields fields(*choice, "tool_choice");
    KVASIR_TRY(const std::string type, fields.text("type"));
    if (type == "function" || type == "custom") {
      KVASIR_TRY(const std::string name, fields.required_text("name"));
      return force_tool(name, "tool_choice.name", request);
    }
    if (type != "allowed_tools") return {};  // a tool that the server does not have: any may be used
    mode = fields.find("mode");
    if (mode == nullptr) return {};
  }
  const std::string name = mode != nullptr && mode->is_string() ? mode->as_string() : "";
  if (name != "none" && name != "auto" && name != "required") {
    return body.wrong("tool_choice", "\"none\", \"auto\", \"required\" or a tool by name");
  }
  request.tool_use = name == "none" ? ToolUse::kNone : name == "auto" ? ToolUse::kAuto : ToolUse::kRequired;
  return {};
}

}  // namespace kvasir
