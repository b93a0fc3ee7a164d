// Fuzzes the way from a client's schema to a grammar, and the grammar with the rest of the input as text.
//
// The first byte picks what the schema is for; the schema ends at the first zero byte. Checked beyond "does
// not crash, hang or eat memory": a refusal names its place, and a text that the grammar takes whole is JSON.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/check.h"
#include "grammar/compile_grammar.h"
#include "grammar/stack_machine.h"

namespace kvasir {
namespace {

// Follows the text as far as it fits; whether it may end there.
bool follow(const Grammar& grammar, std::string_view text, size_t& taken) {
  StackMachine machine(grammar);
  std::vector<StackMachine::Config> now = machine.start(StackMachine::Start::kText), next;
  for (taken = 0; taken < text.size(); ++taken) {
    next.clear();
    const auto byte = static_cast<uint8_t>(text[taken]);
    for (const auto& c : now)
      machine.step(c, byte == '@' && grammar.start.block ? kDsmlSymbol : Symbol{byte}, next);
    if (next.empty()) return false;
    if (next.size() > 4096) return false;
    now.swap(next);
  }
  for (const auto& c : now) {
    if (c.below == StackMachine::kBottom && machine.is_complete(c.top)) return true;
  }
  return false;
}

void run(uint8_t flags, std::string_view input) {
  const std::string_view schema_text = input.substr(0, input.find('\0'));
  const std::string_view text = input.substr(std::min(input.size(), schema_text.size() + 1));
  auto schema = JsonValue::parse(schema_text);
  if (!schema) return;
  GrammarRequest request;
  // Small enough that a run is short; the limits themselves are what is tested.
  request.limits = {.max_depth = 50,
                    .max_schemas = 2000,
                    .max_alternatives = 64,
                    .max_steps = 20'000,
                    .max_nodes = 2000,
                    .max_text_states = 4000,
                    .max_states = 20'000,
                    .max_length = 256};
  if ((flags & 1) != 0) {
    JsonValue function{JsonValue::Object{{"name", JsonValue("tool")}, {"parameters", *schema}}};
    request.tools.push_back({std::move(function), "/tools/0", (flags & 2) != 0});
  } else {
    request.content = GrammarRequest::Content::kJsonSchema;
    request.schema = *schema;
  }
  auto grammar = compile_grammar(request);
  if (!grammar) {
    KVASIR_CHECK(grammar.error().message.find(": ") != std::string::npos, "'{}'", grammar.error().message);
    return;
  }
  size_t taken = 0;
  if (!follow(**grammar, text, taken) || (flags & 1) != 0) return;
  auto value = JsonValue::parse(text);
  KVASIR_CHECK(value.has_value(), "'{}' is taken and is no JSON", text);
}

}  // namespace
}  // namespace kvasir

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size > 0) kvasir::run(data[0], std::string_view(reinterpret_cast<const char*>(data) + 1, size - 1));
  return 0;
}
