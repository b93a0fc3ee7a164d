// From a request to token ids: the same as one encode of the rendered text, with exact replay where it
// applies.
#include "api/api_fixture_test.h"
#include "text/golden_cases_test.h"
#include "text/special_text.h"

namespace kvasir {
namespace {

class GoldenIds : public testing::TestWithParam<GoldenCase> {};

TEST_P(GoldenIds, Tok3PiecesGiveWhatOneEncodeGives) {
  const GoldenCase& c = GetParam();
  ChatRequest request;
  request.conversation = c.conversation;
  request.render = c.options;
  auto rendered = render_chat(c.conversation, c.options);
  ASSERT_TRUE(rendered);
  auto prompt = build_prompt(request, v4_tokenizer(), {});
  if (!prompt) {  // some cases have results of calls nobody made
    EXPECT_NE(prompt.error().message.find("answers no earlier call of the request"), std::string::npos);
    return;
  }
  EXPECT_EQ(prompt->ids, v4_tokenizer().encode(rendered->text, rendered->protected_ranges));
  EXPECT_EQ(prompt->in_reasoning, rendered->in_reasoning);

  SegmentCache segments(1 << 20);
  for (int round = 0; round < 2; ++round) {
    const int64_t before = segments.encoded_bytes();
    EXPECT_EQ(prompt_of(request, {.segments = &segments}).ids, prompt->ids);
    EXPECT_TRUE(round == 0 || segments.encoded_bytes() - before < int64_t{64} * 40);
  }
}

TEST_P(GoldenIds, SystemTextEndsBeforeTheFirstUserAndResumePointsStandBeforeThinkTokens) {
  const GoldenCase& c = GetParam();
  ChatRequest request;
  request.conversation = c.conversation;
  request.render = c.options;
  auto prompt = build_prompt(request, v4_tokenizer(), {});
  if (!prompt) return;
  std::vector<int64_t> expected;
  int64_t system = 0;
  bool has_user = false;
  for (size_t i = 0; i < prompt->ids.size(); ++i) {
    if (prompt->ids[i] == 128803 && !has_user && i > 1) system = static_cast<int64_t>(i);
    has_user = has_user || prompt->ids[i] == 128803;
    if (prompt->ids[i] == 128804) expected.push_back(static_cast<int64_t>(i) + 1);
  }
  EXPECT_EQ(prompt->system_tokens, system);
  EXPECT_EQ(prompt->resume_points, expected);
}

INSTANTIATE_TEST_SUITE_P(Encoding, GoldenIds, testing::ValuesIn(golden_cases()), golden_case_name);

}  // namespace
}  // namespace kvasir
