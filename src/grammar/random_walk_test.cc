// Random texts under the masks: every token that a mask allows must be taken, every text must end, and what
// comes out must parse and be valid. The mask is compared with trying every token one by one.
#include <fmt/core.h>

#include <random>

#include "grammar/random_text_test.h"
#include "grammar/schema_validator_test.h"

namespace kvasir {
namespace {

const char* const kSchemas[] = {
    R"({"type":"object"})",
    R"({})",
    R"({"type":"object","properties":{"city":{"type":"string"},"days":{"type":"integer","minimum":1,"maximum":14},
        "unit":{"enum":["c","f",null]}},"required":["city","days"],"additionalProperties":false})",
    R"({"type":"array","items":{"type":"integer","minimum":-5,"maximum":250},"minItems":2,"maxItems":5})",
    R"({"type":"array","prefixItems":[{"type":"string","maxLength":3},{"type":"boolean"}],"items":{"type":"null"}})",
    R"({"type":"string","pattern":"^[a-z]{2,5}-\\d+$"})",
    R"({"type":"string","minLength":3,"maxLength":6})",
    R"({"type":"string","format":"date-time"})",
    R"({"type":"string","format":"ipv6"})",
    R"({"type":"string","format":"email","maxLength":20})",
    R"({"type":"string","format":"uri"})",
    R"({"type":"number","minimum":-0.5,"exclusiveMaximum":12.25})",
    R"({"type":"number","multipleOf":0.01,"minimum":0,"maximum":10})",
    R"({"type":"integer","multipleOf":7,"exclusiveMinimum":100})",
    R"({"type":["string","null","integer"]})",
    R"({"enum":["a","ab",1,1.5,{"x":[1,2]},[true],null]})",
    R"({"anyOf":[{"type":"object","properties":{"kind":{"const":"a"},"n":{"type":"integer"}},"required":["kind","n"],
        "additionalProperties":false},
        {"type":"object","properties":{"kind":{"const":"b"},"s":{"type":"string"}},"required":["kind","s"],
        "additionalProperties":false}]})",
    R"({"oneOf":[{"type":"object","properties":{"k":{"const":1}},"required":["k"],"additionalProperties":false},
        {"type":"object","properties":{"k":{"const":2}},"required":["k"],"additionalProperties":false}]})",
    R"({"$defs":{"node":{"type":"object","properties":{"value":{"type":"integer"},"next":{"anyOf":[
        {"$ref":"#/$defs/node"},{"type":"null"}]}},"required":["value","next"],"additionalProperties":false}},
        "$ref":"#/$defs/node"})",
    R"({"type":"array","items":{"$ref":"#"},"maxItems":3})",
    R"({"type":"object","additionalProperties":{"type":"integer"},"propertyNames":{"pattern":"^[a-c]+$"},
        "minProperties":1})",
    R"({"type":"object","properties":{"a":{"type":"integer"},"b":{"type":"integer"},"c":{"type":"integer"}},
        "additionalProperties":false,"minProperties":2,"maxProperties":2})",
    R"({"allOf":[{"properties":{"a":{"type":"integer"}}},{"properties":{"a":{"maximum":9},
        "b":{"type":"string","enum":["x","y"]}}}],"type":"object"})",
    R"({"type":"object","properties":{"é\n\"":{"type":"boolean"}},"required":["é\n\""],"additionalProperties":false})",
};

TEST(RandomWalk, EveryTextUnderTheMasksParsesAndIsValid) {
  std::mt19937 random(7);
  for (const char* schema : kSchemas) {
    auto grammar = compile_schema(parse_json(schema));
    ASSERT_TRUE(grammar) << schema << ": " << grammar.error().message;
    for (int i = 0; i < 12; ++i) {
      const auto finished = random_text(*grammar, random, 5 + static_cast<size_t>(i) * 4);
      ASSERT_TRUE(finished) << schema;
      const std::string& text = *finished;
      auto value = JsonValue::parse(text);
      ASSERT_TRUE(value) << schema << "\n" << text << "\n" << value.error().message;
      EXPECT_TRUE(is_valid(text, schema)) << schema << "\n" << text;
      EXPECT_TRUE(takes(*grammar, text)) << schema << "\n" << text;
    }
    if (HasFailure()) return;
  }
}

TEST(RandomWalk, TheMaskIsWhatTryingEveryTokenGives) {
  const Vocabulary& v = *v4_vocabulary();
  std::mt19937 random(11);
  for (const char* schema : kSchemas) {
    auto grammar = compile_schema(parse_json(schema));
    ASSERT_TRUE(grammar) << schema;
    const std::string text = random_text(*grammar, random, 6).value_or("");
    std::vector<uint32_t> mask(v.mask_words());
    for (int cut = 0; cut < 3; ++cut) {
      const size_t at = random() % (text.size() + 1);
      GrammarMatcher matcher(*grammar, shared_cache());
      ASSERT_TRUE(matcher.accept_bytes(text.substr(0, at)));
      matcher.fill_mask(mask);
      for (int32_t token = 0; token < v.size(); ++token) {
        if (token == v.eos()) {
          ASSERT_EQ(has_bit(mask, token), matcher.can_end());
          continue;
        }
        GrammarMatcher copy = matcher;
        ASSERT_EQ(has_bit(mask, token), copy.accept(token))
            << schema << "\nafter " << text.substr(0, at) << "\ntoken '" << v.bytes(token) << "'";
      }
    }
  }
}

}  // namespace
}  // namespace kvasir
