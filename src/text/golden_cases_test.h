// The golden conversations of tests/golden/encoding/ as values: official cases 1 to 4 and the derived ones.
#pragma once

#include <string>
#include <vector>

#include "text/chat_json.h"
#include "text/chat_template.h"
#include "text/golden_files_test.h"

namespace kvasir {

struct GoldenCase {
  std::string name;  // letters, digits and underscores
  Conversation conversation = {};
  RenderOptions options = {};
  std::string prompt = {};
  bool reference_fails = false;
};

// What gtest prints for a case.
inline void PrintTo(const GoldenCase& c, std::ostream* out) { *out << c.name; }

inline Conversation golden_conversation(const JsonValue& json, const std::string& name) {
  auto conversation = conversation_from_json(json, OtherParts::kPlaceholder);
  KVASIR_CHECK(conversation.has_value(), "{}: {}", name, conversation ? "" : conversation.error().message);
  return *std::move(conversation);
}

inline std::vector<GoldenCase> official_cases() {
  std::vector<GoldenCase> cases;
  for (int i = 1; i <= 4; ++i) {
    const std::string number = std::to_string(i);
    GoldenCase c{.name = "official_" + number};
    c.conversation = golden_conversation(read_golden_json("test_input_" + number + ".json"), c.name);
    if (i == 1) c.conversation.messages[0].tools = std::exchange(c.conversation.tools, {});
    c.options.thinking = i == 4 ? Thinking::kOff : Thinking::kOn;
    c.prompt = read_golden("test_output_" + number + ".txt");
    cases.push_back(std::move(c));
  }
  return cases;
}

inline Effort golden_effort(const JsonValue* effort) {
  if (effort == nullptr) return Effort::kNone;
  if (effort->as_string() == "low") return Effort::kLow;
  if (effort->as_string() == "high") return Effort::kHigh;
  KVASIR_CHECK(effort->as_string() == "max", "effort {}", effort->as_string());
  return Effort::kMax;
}

inline std::vector<GoldenCase> derived_cases() {
  std::vector<GoldenCase> cases;
  const JsonValue file = read_golden_json("derived_cases.json");
  for (const JsonValue& json : file.find("cases")->as_array()) {
    const std::string& revision = json.find("revision")->as_string();
    GoldenCase c{.name = json.find("name")->as_string() + "_" + revision};
    c.conversation = golden_conversation(*json.find("messages"), c.name);
    c.options.revision = revision == "A" ? TemplateRevision::kA : TemplateRevision::kB;
    const bool thinks = json.find("thinking_mode")->as_string() == "thinking";
    c.options.thinking = thinks ? Thinking::kOn : Thinking::kOff;
    const JsonValue& options = *json.find("options");
    c.options.effort = golden_effort(options.find("reasoning_effort"));
    if (const JsonValue* drop = options.find("drop_thinking")) c.options.drop_thinking = drop->as_bool();
    c.reference_fails = json.find("reference_error") != nullptr;
    if (!c.reference_fails) c.prompt = json.find("prompt")->as_string();
    cases.push_back(std::move(c));
  }
  return cases;
}

inline std::vector<GoldenCase> golden_cases() {
  std::vector<GoldenCase> cases = official_cases();
  for (GoldenCase& c : derived_cases()) cases.push_back(std::move(c));
  return cases;
}

inline std::string golden_case_name(const testing::TestParamInfo<GoldenCase>& of) { return of.param.name; }

}  // namespace kvasir
