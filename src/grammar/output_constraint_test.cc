// One completion from the prompt's end to the end token, in every mode.
#include "grammar/output_constraint.h"

#include "grammar/grammar_test_data.h"

namespace kvasir {
namespace {

using ToolUse = OutputRequest::ToolUse;

OutputRequest with_tools(ToolUse use) {
  OutputRequest request;
  request.tool_use = use;
  request.named_tool = "b";
  request.tools = {{parse_json(R"({"name":"a"})"), "/tools/0", true},
                   {parse_json(R"({"name":"b"})"), "/tools/1", true}};
  return request;
}

class Completion {
 public:
  explicit Completion(const OutputRequest& request, bool in_reasoning = false, std::string_view begun = {}) {
    auto plan = plan_output(request, grammars_);
    EXPECT_TRUE(plan) << plan.error().message;
    auto made = OutputConstraint::make(*plan, shared_cache(), in_reasoning, begun);
    EXPECT_TRUE(made) << made.error().message;
    constraint_ = *std::move(made);
  }

  // Feeds the tokens of `text`, special ones included; false at the first that the mask forbids.
  bool feed(std::string_view text) {
    for (TokenId token : v4_tokenizer().encode(text)) {
      if (!allows(token)) return false;
      constraint_->accept(token);
    }
    return true;
  }
  bool allows(int32_t token) {
    std::vector<uint32_t> mask(v4_vocabulary()->mask_words(), ~0u);
    const std::vector<uint32_t> all = mask;
    const bool restricted = constraint_->restrict(mask);
    EXPECT_TRUE(restricted || mask == all);
    if (int32_t banned = constraint_->only_ban(); banned >= 0) {
      std::vector<uint32_t> without = all;
      without[static_cast<size_t>(banned) / 32] ^= 1u << (banned % 32);
      EXPECT_EQ(mask, without);
    }
    EXPECT_TRUE(std::any_of(mask.begin(), mask.end(), [](uint32_t word) { return word != 0; }));
    return (mask[static_cast<size_t>(token) / 32] >> (token % 32) & 1) != 0;
  }
  bool can_end() { return allows(v4_vocabulary()->eos()); }
  bool allows_text(std::string_view token) { return allows(v4_tokenizer().id_of(token)); }
  OutputConstraint& constraint() { return *constraint_; }

 private:
  GrammarCache grammars_;
  std::unique_ptr<OutputConstraint> constraint_;
};

const char* const kCallOfB =
    "\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"b\">\n\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>";

TEST(OutputConstraint, AutoIsFreeUntilTheMarkerAndThenTheGrammar) {
  Completion c(with_tools(ToolUse::kAuto));
  EXPECT_TRUE(c.feed("Let me look. 2 < 3 "));
  EXPECT_TRUE(c.can_end());
  EXPECT_FALSE(c.allows_text("｜DSML｜"));
  EXPECT_TRUE(c.feed("\n\n<"));
  EXPECT_TRUE(c.allows_text("｜DSML｜"));
  EXPECT_TRUE(c.feed("｜DSML｜"));
  EXPECT_TRUE(c.constraint().in_grammar());
  EXPECT_FALSE(c.can_end());
  EXPECT_FALSE(c.allows_text(" the"));
  EXPECT_TRUE(c.feed("tool_calls>\n<｜DSML｜invoke name=\"a\">\n\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>"));
  EXPECT_TRUE(c.can_end());
  EXPECT_FALSE(c.allows_text("\n"));
}

TEST(OutputConstraint, AutoTakesAWholeAnswerAsTheModelWritesIt) {
  Completion c(with_tools(ToolUse::kAuto), true);
  EXPECT_TRUE(c.feed(std::string("hm <｜DSML｜tool_calls> in thought</think>I call.") + kCallOfB));
  EXPECT_TRUE(c.can_end());
}

TEST(OutputConstraint, ABlockInReasoningIsFreeText) {
  Completion c(with_tools(ToolUse::kRequired), true);
  EXPECT_TRUE(c.feed("<｜DSML｜tool_calls>\n nonsense ｜DSML｜"));
  EXPECT_FALSE(c.can_end());
  EXPECT_TRUE(c.feed("</think>"));
  EXPECT_FALSE(c.feed("text"));
}

TEST(OutputConstraint, RequiredGoesStraightToTheBlock) {
  Completion c(with_tools(ToolUse::kRequired));
  EXPECT_FALSE(c.can_end());
  EXPECT_FALSE(c.allows_text("Hello"));
  EXPECT_TRUE(c.feed(kCallOfB));
  EXPECT_TRUE(c.can_end());
}

TEST(OutputConstraint, NamedTakesOnlyThatTool) {
  EXPECT_TRUE(Completion(with_tools(ToolUse::kNamed)).feed(kCallOfB));
  EXPECT_FALSE(
      Completion(with_tools(ToolUse::kNamed)).feed("\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"a\">"));
  GrammarCache grammars;
  OutputRequest unknown = with_tools(ToolUse::kNamed);
  unknown.named_tool = "c";
  EXPECT_EQ(plan_output(unknown, grammars).error().code, ErrorCode::kNotFound);
}

TEST(OutputConstraint, WithoutToolsTheMarkerIsBannedEverywhere) {
  Completion c(with_tools(ToolUse::kNone), true);
  EXPECT_FALSE(c.allows_text("｜DSML｜"));
  EXPECT_TRUE(c.can_end());
  EXPECT_TRUE(c.feed("a</think>b <"));
  EXPECT_FALSE(c.allows_text("｜DSML｜"));
  EXPECT_TRUE(c.can_end());
}

TEST(OutputConstraint, JsonObjectIsOneObjectAndThenTheEnd) {
  OutputRequest request;
  request.format = GrammarRequest::Content::kJsonObject;
  Completion c(request, true);
  EXPECT_TRUE(c.feed("thinking { "));
  EXPECT_FALSE(c.can_end());
  EXPECT_TRUE(c.feed("</think>"));
  EXPECT_FALSE(c.allows_text("["));
  EXPECT_FALSE(c.allows_text("</think>"));
  EXPECT_FALSE(c.allows_text("｜DSML｜"));
  EXPECT_TRUE(c.feed("{\"a\": [1, \"<th"));
  EXPECT_TRUE(c.feed("ink> as text\", {}]}"));
  EXPECT_TRUE(c.can_end());
  EXPECT_FALSE(c.allows_text("\n"));
}

TEST(OutputConstraint, AddedTokensAreBannedInsideStrings) {
  OutputRequest request;
  request.format = GrammarRequest::Content::kJsonObject;
  Completion c(request);
  EXPECT_TRUE(c.feed("{\"a\": \"text"));
  for (const int32_t token : {0, 1, 2, 128000, 128803, 128804, 128821, 128822, 128825, 128840, 129279}) {
    ASSERT_TRUE(v4_tokenizer().is_added(token));
    EXPECT_FALSE(c.allows(token)) << token;
  }
  EXPECT_TRUE(c.allows_text("<"));
}

TEST(OutputConstraint, AFormatBesideFreeToolsLeavesBothOpen) {
  OutputRequest request = with_tools(ToolUse::kAuto);
  request.format = GrammarRequest::Content::kJsonSchema;
  request.schema = parse_json(R"({"type":"object","properties":{"x":{"type":"integer"}},"required":["x"]})");
  EXPECT_TRUE(Completion(request).feed(kCallOfB));
  Completion c(request);
  EXPECT_TRUE(c.feed("{\"x\": 1}"));
  EXPECT_TRUE(c.can_end());
  EXPECT_FALSE(Completion(request).feed("text"));
}

TEST(OutputConstraint, ContinuesAnAnswerThatThePromptHasBegun) {
  OutputRequest request;
  request.format = GrammarRequest::Content::kJsonObject;
  EXPECT_TRUE(Completion(request, false, "{\"a\": 1").feed("2}"));
  GrammarCache grammars;
  EXPECT_FALSE(OutputConstraint::make(*plan_output(request, grammars), shared_cache(), false, "Sure: {"));
}

TEST(OutputConstraint, AForcedTokenThatDoesNotFitEndsTheConstraint) {
  Completion c(with_tools(ToolUse::kRequired));
  c.constraint().accept(v4_tokenizer().id_of("Hello"));
  EXPECT_TRUE(c.constraint().derailed());
  EXPECT_TRUE(c.feed("anything｜DSML｜"));
}

TEST(OutputConstraint, AMaskMayBeWiderThanTheVocabulary) {
  OutputRequest request;
  request.format = GrammarRequest::Content::kJsonObject;
  GrammarCache grammars;
  auto constraint = *OutputConstraint::make(*plan_output(request, grammars), shared_cache(), false);
  std::vector<uint32_t> mask(v4_vocabulary()->mask_words() + 3, ~0u);
  ASSERT_TRUE(constraint->restrict(mask));
  EXPECT_EQ(mask.back(), 0u);
}

TEST(GrammarCache, ReturnsTheSameGrammarForTheSameRequestAndStaysInItsBound) {
  GrammarCache grammars(200'000);
  GrammarRequest request;
  request.content = GrammarRequest::Content::kJsonSchema;
  const auto get = [&](int i) {
    request.schema = parse_json("{\"type\":\"object\",\"properties\":{\"p" + std::to_string(i) + "\":{}}}");
    return *grammars.get(request);
  };
  EXPECT_EQ(get(1), get(1));
  EXPECT_NE(get(1), get(2));
  for (int i = 0; i < 200; ++i) get(i);
  EXPECT_LE(grammars.bytes(), 200'000u);
  EXPECT_LT(grammars.size(), 200u);
}

TEST(MaskCache, StaysInItsBound) {
  const auto cache = std::make_shared<MaskCache>(v4_vocabulary(), 100'000);
  GrammarMatcher matcher(*compile_schema(parse_json("{}")), cache);
  std::vector<uint32_t> mask(v4_vocabulary()->mask_words());
  for (char c : std::string("{\"a\": [1, \"\\u00e9x\", {\"b\": null}], \"c\": -1.5e3}")) {
    matcher.fill_mask(mask);
    ASSERT_TRUE(matcher.accept_bytes({&c, 1}));
    EXPECT_LE(cache->bytes(), 100'000u);
  }
}

}  // namespace
}  // namespace kvasir
