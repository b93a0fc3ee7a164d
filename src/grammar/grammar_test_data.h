// What the grammar's tests share: V4's vocabulary, loaded once, and short ways to compile and match.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <string_view>

#include "grammar/compile_grammar.h"
#include "grammar/grammar_matcher.h"
#include "text/tokenizer_test_data.h"

namespace kvasir {

inline std::shared_ptr<const Vocabulary> v4_vocabulary() {
  static const std::shared_ptr<const Vocabulary> vocabulary = *Vocabulary::make(v4_tokenizer());
  return vocabulary;
}

inline std::shared_ptr<MaskCache> shared_cache() {
  static const auto cache = std::make_shared<MaskCache>(v4_vocabulary());
  return cache;
}

inline JsonValue parse_json(std::string_view text) {
  Result<JsonValue> value = JsonValue::parse(text);
  EXPECT_TRUE(value) << text << ": " << (value ? "" : value.error().message);
  return value ? *value : JsonValue();
}

inline Result<SharedGrammar> compile_schema(const JsonValue& schema) {
  GrammarRequest request;
  request.content = GrammarRequest::Content::kJsonSchema;
  request.schema = schema;
  return compile_grammar(request);
}

// Whether the whole text is one that the grammar lets through.
inline bool takes(const SharedGrammar& grammar, std::string_view text) {
  GrammarMatcher matcher(grammar, shared_cache());
  return matcher.accept_bytes(text) && matcher.can_end();
}

inline bool schema_takes(std::string_view schema, std::string_view text) {
  auto grammar = compile_schema(parse_json(schema));
  EXPECT_TRUE(grammar) << schema << ": " << (grammar ? "" : grammar.error().message);
  return grammar && takes(*grammar, text);
}

// The message of the refusal; empty if the schema compiles.
inline std::string refusal(std::string_view schema) {
  auto grammar = compile_schema(parse_json(schema));
  return grammar ? "" : grammar.error().message;
}

}  // namespace kvasir
