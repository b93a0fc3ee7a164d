// From what a request asks for to a grammar. Pure functions.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "grammar/grammar.h"
#include "grammar/schema.h"
#include "text/json_value.h"

namespace kvasir {

// A tool that the model may call.
struct GrammarTool {
  JsonValue function;  // {"name": ..., "parameters": {...}}; no parameters: a call without any
  std::string path;    // of the function in the request, for messages
  // Strict: what cannot be honoured exactly is an error. Otherwise a parameter whose schema is not supported
  // takes any value of its `type`, and Grammar::weakened says so.
  bool strict = true;
};

struct GrammarRequest {
  enum class Content {
    kNone,        // only tool calls
    kJsonObject,  // one JSON object
    kJsonSchema,  // one JSON value of `schema`
  };

  Content content = Content::kNone;
  JsonValue schema;  // kJsonSchema
  std::string schema_path;
  std::vector<GrammarTool> tools;  // those that may be called
  bool parallel_calls = true;
  SchemaLimits limits;
};

// kUnsupported and kInvalid: the message begins with the JSON pointer of what is at fault. A schema that no
// value satisfies is kInvalid. The request must ask for something: content or tools.
Result<SharedGrammar> compile_grammar(const GrammarRequest& request);

}  // namespace kvasir
