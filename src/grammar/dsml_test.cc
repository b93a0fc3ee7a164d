// Tool blocks under the grammar: what block C of protocol.md 2.1 allows, for tools as agents send them.
#include <random>

#include "grammar/grammar_test_data.h"
#include "grammar/output_constraint.h"
#include "text/chat_template.h"
#include "text/output_parser.h"
#include "text/special_text.h"

namespace kvasir {
namespace {

GrammarTool tool(std::string_view function, bool strict = true) {
  return {parse_json(function), "/tools/0/function", strict};
}

Result<SharedGrammar> compile_tools(std::vector<GrammarTool> tools, bool parallel = true) {
  GrammarRequest request;
  request.tools = std::move(tools);
  request.parallel_calls = parallel;
  return compile_grammar(request);
}

const char* const kWeather = R"({"name":"get_weather","parameters":{"type":"object","properties":{
  "city":{"type":"string"},"days":{"type":"integer","minimum":1,"maximum":14},"unit":{"enum":["c","f"]},
  "any":{},"place":{"type":"object","properties":{"lat":{"type":"number"}},"additionalProperties":false}},
  "required":["city"]}})";
const char* const kNow = R"({"name":"now","parameters":{"type":"object","properties":{}}})";

// '@' stands for the special token.
bool block_taken(const SharedGrammar& grammar, std::string_view text) {
  GrammarMatcher matcher(grammar, shared_cache());
  for (size_t at = 0; at < text.size();) {
    const size_t mark = std::min(text.find('@', at), text.size());
    if (!matcher.accept_bytes(text.substr(at, mark - at))) return false;
    if (mark < text.size() && !matcher.accept(v4_vocabulary()->dsml())) return false;
    at = mark + 1;
  }
  return matcher.can_end();
}

std::string call(const std::string& name, const std::string& parameters) {
  return "<@invoke name=\"" + name + "\">\n" + parameters + "</@invoke>\n";
}
std::string parameter(const std::string& key, const char* is_string, const std::string& value) {
  return "<@parameter name=\"" + key + "\" string=\"" + is_string + "\">" + value + "</@parameter>\n";
}
std::string block(const std::string& calls) { return "\n\n<@tool_calls>\n" + calls + "</@tool_calls>"; }

class DsmlGrammar : public testing::Test {
 protected:
  bool takes_block(const std::string& calls) const { return block_taken(grammar_, block(calls)); }
  bool takes_city_and(const std::string& more) const {
    return takes_block(call("get_weather", parameter("city", "true", "Paris") + more));
  }

  SharedGrammar grammar_ = *compile_tools({tool(kWeather), tool(kNow)});
};

TEST_F(DsmlGrammar, TakesTheBlockAsTheTemplateRendersIt) {
  EXPECT_TRUE(takes_city_and(""));
  EXPECT_TRUE(takes_city_and(parameter("days", "false", "3") + parameter("unit", "true", "c")));
  EXPECT_TRUE(takes_block(call("get_weather", parameter("city", "true", "")) + call("now", "\n")));
}

TEST_F(DsmlGrammar, TakesWhatRenderCompletionWrites) {
  Message message{.role = Role::kAssistant};
  message.tool_calls.push_back({"1", "get_weather", parse_json(R"({"city":"Köln </x> \"q\"","days":2,
      "place":{"lat":50.9},"any":[1,{"a":null}]})")});
  message.tool_calls.push_back({"2", "now", parse_json("{}")});
  std::string text = render_completion(message, Thinking::kOff).text;
  ASSERT_TRUE(text.ends_with(kEosText));
  text.resize(text.size() - kEosText.size());
  std::string marked;
  for (size_t at = 0; at < text.size();) {
    const size_t mark = std::min(text.find(kDsmlText, at), text.size());
    marked.append(text, at, mark - at);
    if (mark < text.size()) marked += '@';
    at = mark + kDsmlText.size();
  }
  EXPECT_TRUE(block_taken(grammar_, marked)) << marked;
}

TEST_F(DsmlGrammar, RefusesUnknownToolsAndParameters) {
  EXPECT_FALSE(takes_block(call("get_whether", "\n")));
  EXPECT_FALSE(takes_city_and(parameter("zip", "true", "1")));
}

TEST_F(DsmlGrammar, DemandsRequiredParametersOnce) {
  EXPECT_FALSE(takes_block(call("get_weather", "\n")));
  EXPECT_FALSE(takes_block(call("get_weather", parameter("days", "false", "3"))));
  EXPECT_FALSE(takes_city_and(parameter("city", "true", "Rome")));
}

TEST_F(DsmlGrammar, HoldsValuesToTheirSchema) {
  EXPECT_FALSE(takes_city_and(parameter("days", "false", "15")));
  EXPECT_FALSE(takes_city_and(parameter("days", "true", "3")));
  EXPECT_FALSE(takes_city_and(parameter("unit", "true", "k")));
  EXPECT_FALSE(takes_city_and(parameter("unit", "false", "\"c\"")));
  EXPECT_FALSE(takes_city_and(parameter("place", "false", "{\"lon\": 1}")));
  EXPECT_TRUE(takes_city_and(parameter("place", "false", "{\"lat\": -1.5}")));
}

TEST_F(DsmlGrammar, OffersBothFormsWhereTheSchemaAllowsBoth) {
  EXPECT_TRUE(takes_city_and(parameter("any", "true", "free text")));
  EXPECT_TRUE(takes_city_and(parameter("any", "false", "[1, 2]")));
  EXPECT_FALSE(takes_city_and(parameter("any", "false", "\"text\"")));
}

TEST_F(DsmlGrammar, RawTextMayHoldMarkupOfOrdinaryCharacters) {
  EXPECT_TRUE(
      takes_block(call("get_weather", parameter("city", "true", "a </｜DSML｜parameter> <b>\n{\"x\"}"))));
}

TEST_F(DsmlGrammar, DemandsACallAndNothingAfterTheBlock) {
  EXPECT_FALSE(takes_block(""));
  EXPECT_FALSE(block_taken(grammar_, block(call("now", "\n")) + " "));
  EXPECT_FALSE(block_taken(grammar_, "ok" + block(call("now", "\n"))));
}

TEST_F(DsmlGrammar, ACallWithoutParametersHasItsEmptyLine) {
  EXPECT_TRUE(takes_block(call("now", "\n")));
  EXPECT_FALSE(takes_block(call("now", "")));
}

TEST_F(DsmlGrammar, OneCallWhenCallsAreNotParallel) {
  const SharedGrammar one = *compile_tools({tool(kNow)}, false);
  EXPECT_TRUE(block_taken(one, block(call("now", "\n"))));
  EXPECT_FALSE(block_taken(one, block(call("now", "\n") + call("now", "\n"))));
}

TEST(DsmlTools, ToolsWithoutParametersTakeNone) {
  const SharedGrammar grammar = *compile_tools({tool(R"({"name":"ping"})")});
  EXPECT_TRUE(block_taken(grammar, block(call("ping", "\n"))));
}

TEST(DsmlTools, OtherParametersOnlyWhereTheSchemaSaysSo) {
  const char* open =
      R"({"name":"t","parameters":{"type":"object","additionalProperties":{"type":"integer"}}})";
  const SharedGrammar grammar = *compile_tools({tool(open)});
  EXPECT_TRUE(block_taken(grammar, block(call("t", parameter("x", "false", "4")))));
  EXPECT_FALSE(block_taken(grammar, block(call("t", parameter("x", "true", "4")))));
}

TEST(DsmlTools, PatternsAndLengthsHoldInRawText) {
  const SharedGrammar grammar =
      *compile_tools({tool(R"({"name":"t","parameters":{"type":"object","properties":{
      "p":{"type":"string","pattern":"^[a-z]+$"},"l":{"type":"string","minLength":2,"maxLength":3}}}})")});
  EXPECT_TRUE(
      block_taken(grammar, block(call("t", parameter("p", "true", "abc") + parameter("l", "true", "éé")))));
  EXPECT_FALSE(block_taken(grammar, block(call("t", parameter("p", "true", "aBc")))));
  EXPECT_FALSE(block_taken(grammar, block(call("t", parameter("l", "true", "abcd")))));
  EXPECT_FALSE(block_taken(grammar, block(call("t", parameter("l", "true", "a")))));
}

TEST(DsmlTools, StrictRefusesWithThePathAndOtherwiseOnlyThatParameterIsWeaker) {
  const char* unsupported = R"({"name":"t","parameters":{"type":"object","properties":{
      "bad":{"type":"array","uniqueItems":true},"good":{"type":"integer","maximum":5}},"required":["good"]}})";
  auto strict = compile_tools({tool(unsupported, true)});
  ASSERT_FALSE(strict);
  EXPECT_EQ(strict.error().code, ErrorCode::kUnsupported);
  EXPECT_TRUE(strict.error().message.starts_with("/tools/0/function/parameters/properties/bad/uniqueItems: "))
      << strict.error().message;
  auto lenient = compile_tools({tool(unsupported, false)});
  ASSERT_TRUE(lenient) << lenient.error().message;
  ASSERT_EQ((*lenient)->weakened.size(), 1u);
  EXPECT_NE((*lenient)->weakened[0].find("/properties/bad/uniqueItems"), std::string::npos);
  const std::string good = parameter("good", "false", "5");
  EXPECT_TRUE(block_taken(*lenient, block(call("t", good + parameter("bad", "false", "[1, 1]")))));
  EXPECT_FALSE(block_taken(*lenient, block(call("t", good + parameter("bad", "false", "{}")))));
  EXPECT_FALSE(block_taken(*lenient, block(call("t", parameter("good", "false", "6")))));
}

TEST(DsmlTools, NamesThatATagCannotHoldAreRefused) {
  auto bad = compile_tools({tool(R"({"name":"t","parameters":{"properties":{"a\"b":{}}}})")});
  ASSERT_FALSE(bad);
  EXPECT_NE(bad.error().message.find("/parameters/properties/a\"b"), std::string::npos)
      << bad.error().message;
  EXPECT_FALSE(compile_tools({tool(R"({"name":"a<b"})")}));
}

// What a client's parser makes of random blocks: always calls of offered tools with the required arguments.
TEST_F(DsmlGrammar, RandomBlocksAreCallsForTheParser) {
  const Vocabulary& v = *v4_vocabulary();
  std::mt19937 random(3);
  const std::vector<JsonValue> tools = {parse_json(kWeather), parse_json(kNow)};
  for (int round = 0; round < 20; ++round) {
    GrammarMatcher matcher(grammar_, shared_cache());
    OutputParser parser({.tools = tools});
    std::vector<Delta> deltas;
    std::vector<uint32_t> mask(v.mask_words());
    for (size_t n = 0;; ++n) {
      ASSERT_LT(n, 5000u);
      matcher.fill_mask(mask);
      std::vector<int32_t> tokens, closing;
      for (int32_t t = 0; t < v.size(); ++t) {
        if ((mask[static_cast<size_t>(t) / 32] >> (t % 32) & 1) == 0) continue;
        tokens.push_back(t);
        const std::string_view bytes = v.bytes(t);
        if (bytes == "</" || bytes == "}" || bytes == "]" || bytes == "\"" || t == v.dsml())
          closing.push_back(t);
      }
      ASSERT_FALSE(tokens.empty());
      int32_t token = tokens[random() % tokens.size()];
      if (n > 40 && !closing.empty() && random() % 4 != 0) token = closing[random() % closing.size()];
      if (token == v.eos()) break;
      ASSERT_TRUE(matcher.accept(token));
      const bool special = token == v.dsml();
      for (Delta& d :
           parser.push(v4_tokenizer().token_bytes(token), special ? TextKind::kSpecial : TextKind::kPlain)) {
        deltas.push_back(std::move(d));
      }
    }
    for (Delta& d : parser.finish(EndCause::kStop)) deltas.push_back(std::move(d));
    EXPECT_EQ(parser.unusable(), nullptr);
    EXPECT_EQ(parser.finish_reason(), FinishReason::kToolCalls);
    for (size_t i = 0; i + 1 < deltas.size(); i += 2) {
      ASSERT_EQ(deltas[i].kind, Delta::Kind::kToolCall);
      const JsonValue arguments = parse_json(deltas[i + 1].text);
      if (deltas[i].text == "now") {
        EXPECT_TRUE(arguments.as_object().empty());
      } else {
        ASSERT_NE(arguments.find("city"), nullptr);
        EXPECT_TRUE(arguments.find("city")->is_string());
      }
    }
  }
}

}  // namespace
}  // namespace kvasir
