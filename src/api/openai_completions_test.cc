// Completions: prompts as text, ids and fill-in-the-middle; answers whole and streamed.
#include "api/api_fixture_test.h"

namespace kvasir {
namespace {

using Kind = Step::Kind;

std::string with(std::string_view members) { return R"({"model":"m",)" + std::string(members) + "}"; }

TEST(CompletionRequest, APlainPromptFollowsTheBeginToken) {
  EXPECT_EQ(prompt_text(parsed(parse_completion, with(R"("prompt":"Once")"))), "<｜begin▁of▁sentence｜>Once");
  EXPECT_EQ(prompt_text(parsed(parse_completion, with(R"("prompt":["Once"])"))),
            "<｜begin▁of▁sentence｜>Once");
  const Prompt templated =
      prompt_of(parsed(parse_completion, with(R"("prompt":"<｜begin▁of▁sentence｜><｜User｜>q")")));
  EXPECT_EQ(templated.ids, (std::vector<int32_t>{0, 128803, 83}));
}

TEST(CompletionRequest, TokenIdsAreTakenAsTheyAre) {
  EXPECT_EQ(prompt_of(parsed(parse_completion, with(R"("prompt":[0,5,7])"))).ids,
            (std::vector<int32_t>{0, 5, 7}));
  EXPECT_EQ(prompt_of(parsed(parse_completion, with(R"("prompt":[[0,5]])"))).ids,
            (std::vector<int32_t>{0, 5}));
}

// Protocol 2.6. What is filled in is somebody's file: special tokens in it are text.
TEST(CompletionRequest, ASuffixMakesItFillInTheMiddle) {
  const Prompt prompt = prompt_of(parsed(parse_completion, with(R"("prompt":"a<think>","suffix":"b")")));
  EXPECT_EQ(v4_tokenizer().decode(prompt.ids),
            "<｜begin▁of▁sentence｜><｜fim▁begin｜>a<think><｜fim▁hole｜>b<｜fim▁end｜>");
  EXPECT_EQ(prompt.ids[1], 128801);
  EXPECT_EQ(prompt.ids[prompt.ids.size() - 3], 128800);
  EXPECT_EQ(prompt.ids.back(), 128802);
  EXPECT_EQ(std::count(prompt.ids.begin(), prompt.ids.end(), 128821), 0);
}

TEST(CompletionRequest, NeverThinksAndHonoursSampling) {
  const ChatRequest r =
      parsed(parse_completion, with(R"("prompt":"x","temperature":0,"max_tokens":3,"stop":"\n")"));
  EXPECT_FALSE(r.thinks() || r.offers_tools());
  EXPECT_FLOAT_EQ(r.sampling.temperature, 0);
  EXPECT_EQ(r.max_tokens, 3);
  EXPECT_EQ(r.stop, std::vector<std::string>{"\n"});
}

TEST(CompletionRequest, SaysWhereWhatAndInsteadOfWhat) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {with(R"("max_tokens":1)"), "prompt: expected a string or an array of token ids, saw nothing"},
      {with(R"("prompt":["a","b"])"), "prompt: expected one prompt, saw 2"},
      {with(R"("prompt":[1,"a"])"), "prompt[1]: expected a token id, saw \"a\""},
      {with(R"("prompt":[1,-1])"), "prompt[1]: expected a token id, saw -1"},
      {with(R"("prompt":[1,2],"suffix":"s")"), "suffix: expected a prompt of text beside it, saw \"s\""},
      {with(R"("prompt":"a","echo":true,"logprobs":1)"),
       "echo: expected false with a prompt of token ids or with logprobs, saw true"}};
  for (const auto& [body, message] : cases) EXPECT_EQ(parse_error(parse_completion, body), message) << body;
}

TEST(CompletionAnswer, IsTextCompletionObjects) {
  const std::string head =
      R"({"id":"cmpl-aaaaaaaaaaaaaaaaaaaaaaaa","object":"text_completion","created":1700000000,"model":"m",)"
      R"("system_fingerprint":"fp_test","choices":[{"text":")";
  const ChatRequest stream = parsed(parse_completion, with(R"("prompt":"P","echo":true,"stream":true)"));
  const Finish finish{.ending = Ending::kLength, .usage = test_usage()};
  const std::vector<Step> steps = {{Kind::kContent, "a"}, {Kind::kContent, "b"}};
  const Written streamed =
      write_answer(stream, make_completion_formatter(stream, test_context()), steps, finish);
  ASSERT_EQ(streamed.events.size(), 5u);
  EXPECT_EQ(streamed.events[0].data, head + R"(P","index":0,"logprobs":null,"finish_reason":null}]})");
  EXPECT_EQ(streamed.events[1].data, head + R"(a","index":0,"logprobs":null,"finish_reason":null}]})");
  EXPECT_TRUE(streamed.events[3].data.starts_with(
      head + R"(","index":0,"logprobs":null,"finish_reason":"length"}],"usage":{"prompt_tokens":300,)"));
  EXPECT_EQ(streamed.events[4].data, "[DONE]");

  const ChatRequest whole = parsed(parse_completion, with(R"("prompt":"P","echo":true)"));
  EXPECT_EQ(
      text_at(
          json_of(write_answer(whole, make_completion_formatter(whole, test_context()), steps, finish).whole),
          "choices.0.text"),
      "Pab");
}

TEST(CompletionAnswer, HasTheOldFormOfLogprobs) {
  const ChatRequest r = parsed(parse_completion, with(R"("prompt":"P","logprobs":1)"));
  const std::vector<Step> steps = {
      {Kind::kContent, "ab", {{"a", -0.5, {{"a", -0.5}}}, {"b", -1, {{"c", -0.25}}}}}};
  const Written written =
      write_answer(r, make_completion_formatter(r, test_context()), steps, {.usage = test_usage()});
  EXPECT_EQ(
      at_path(json_of(written.whole), "choices.0.logprobs").dump(),
      R"({"tokens": ["a", "b"], "token_logprobs": [-0.5, -1], "top_logprobs": [{"a": -0.5}, {"c": -0.25}], )"
      R"("text_offset": [0, 1]})");
}

}  // namespace
}  // namespace kvasir
