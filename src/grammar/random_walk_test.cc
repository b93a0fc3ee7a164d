// Random texts under the masks: every token that a mask allows must be taken, every text must end, and what
// comes out must parse and be valid. The mask is compared with trying every token one by one.
#include <fmt/core.h>

#include <bit>
#include <cstring>
#include <random>

#include "grammar/grammar_test_data.h"
#include "grammar/schema_validator_test.h"

namespace kvasir {
namespace {

bool has_bit(const std::vector<uint32_t>& mask, int32_t token) {
  return (mask[static_cast<size_t>(token) / 32] >> (token % 32) & 1) != 0;
}

std::vector<int32_t> allowed(const std::vector<uint32_t>& mask) {
  std::vector<int32_t> out;
  for (size_t i = 0; i < mask.size(); ++i) {
    for (uint32_t word = mask[i]; word != 0; word &= word - 1) {
      out.push_back(static_cast<int32_t>(i * 32) + std::countr_zero(word));
    }
  }
  return out;
}

// Samples until the end. After `patience` tokens the end is taken where it may come, and what closes things is
// preferred.
std::string random_text(const SharedGrammar& grammar, std::mt19937& random, size_t patience) {
  const Vocabulary& v = *v4_vocabulary();
  GrammarMatcher matcher(grammar, shared_cache());
  std::vector<uint32_t> mask(v.mask_words());
  std::string text;
  for (size_t n = 0; n < 4000; ++n) {
    matcher.fill_mask(mask);
    const std::vector<int32_t> tokens = allowed(mask);
    if (tokens.empty()) {
      ADD_FAILURE() << "nothing may follow " << text;
      return text;
    }
    int32_t token = tokens[random() % tokens.size()];
    if (n > patience) {
      std::vector<int32_t> closing;
      for (int32_t t : tokens) {
        if (v.bytes(t).size() == 1 && std::strchr("\"}]", v.bytes(t)[0]) != nullptr) closing.push_back(t);
      }
      // A key that is not wanted any more is closed rarely, so that it differs from those before it.
      if (!closing.empty() && random() % 4 != 0) token = closing[random() % closing.size()];
      if (has_bit(mask, v.eos())) token = v.eos();
    }
    if (token == v.eos()) {
      EXPECT_TRUE(matcher.can_end()) << text;
      return text;
    }
    text += token == v.dsml() ? std::string("｜DSML｜") : std::string(v.bytes(token));
    if (!matcher.accept(token)) {
      ADD_FAILURE() << "the mask allows what the matcher refuses: " << text;
      return text;
    }
  }
  ADD_FAILURE() << "no end: " << text.substr(0, 300);
  return text;
}

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
      const std::string text = random_text(*grammar, random, 5 + static_cast<size_t>(i) * 4);
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
    const std::string text = random_text(*grammar, random, 6);
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
