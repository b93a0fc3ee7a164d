// What was sampled stands in the next prompt (RPL-1 to RPL-4, THK-3), for as long as nobody edited it.
#include "api/replay_memory.h"

#include <map>

#include "api/api_fixture_test.h"

namespace kvasir {
namespace {

constexpr std::string_view kTools = R"("tools":[{"type":"function","function":{"name":"f"}}])";

std::string body(std::string_view messages) {
  return R"({"model":"m",)" + std::string(kTools) + R"(,"messages":[{"role":"user","content":"q"})" +
         std::string(messages) + "]}";
}

// Sampled with a number form, blanks and separators that no rendering would give.
const std::string kSampled =
    "why </think>I look.\n\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"f\">\n"
    "<｜DSML｜parameter name=\"b\" string=\"false\">1.0</｜DSML｜parameter>\n\n"
    "<｜DSML｜parameter name=\"a\" "
    "string=\"true\">x</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>";

SampledTurn sampled_turn() {
  SampledTurn turn{.tokens = v4_tokenizer().encode(kSampled),
                   .in_reasoning = true,
                   .reasoning = "why ",
                   .content = "I look."};
  turn.calls = {{.id = "call_00_x", .name = "f", .arguments = JsonValue(R"({"b": 1.0, "a": "x"})")}};
  return turn;
}

// The same answer as a client sends it back: keys in another order, 1 for 1.0.
std::string answer_back(std::string_view arguments = R"({\"a\":\"x\",\"b\":1})", std::string_view more = "") {
  return R"(,{"role":"assistant","content":"I look.")" + std::string(more) +
         R"(,"tool_calls":[{"id":"call_00_x","type":"function","function":{"name":"f","arguments":")" +
         std::string(arguments) + R"("}}]},{"role":"tool","tool_call_id":"call_00_x","content":"r"})";
}

const std::string kEnd = "<｜end▁of▁sentence｜><｜User｜><tool_result>r</tool_result><｜Assistant｜><think>";

TEST(Replay, Rpl1TheNextPromptIsThisOnePlusWhatWasSampled) {
  ReplayMemory memory(1 << 20);
  memory.remember(0, sampled_turn());
  const Prompt first = prompt_of(parsed(parse_chat, body("")));
  for (const std::string& more : {std::string(R"(,"reasoning_content":"why")"), std::string()}) {
    const Prompt next = prompt_of(parsed(parse_chat, body(answer_back(R"({\"a\":\"x\",\"b\":1})", more))),
                                  {.memory = &memory});
    std::vector<int32_t> expected = first.ids;
    for (int32_t id : v4_tokenizer().encode(kSampled + kEnd)) expected.push_back(id);
    EXPECT_EQ(next.ids, expected);
    EXPECT_EQ(next.replayed_turns, 1);
    EXPECT_EQ(next.resume_points.back(), static_cast<int64_t>(next.ids.size()) - 1);
    EXPECT_TRUE(next.in_reasoning);
  }
}

TEST(Replay, Rpl3AnEditedCallOrTextIsRendered) {
  ReplayMemory memory(1 << 20);
  memory.remember(0, sampled_turn());
  const auto replayed = [&](const std::string& b) {
    return prompt_of(parsed(parse_chat, b), {.memory = &memory}).replayed_turns;
  };
  EXPECT_EQ(replayed(body(answer_back())), 1);
  EXPECT_EQ(replayed(body(answer_back(R"({\"a\":\"y\",\"b\":1})"))), 0);
  EXPECT_EQ(replayed(body(answer_back(R"({\"a\":\"x\"})"))), 0);
  EXPECT_EQ(replayed(body(answer_back(R"({\"a\":\"x\",\"b\":1})", R"(,"reasoning_content":"edited")"))), 0);
  std::string renamed = body(answer_back());
  renamed.replace(renamed.rfind("\"f\""), 3, "\"g\"");
  EXPECT_EQ(replayed(renamed), 0);
}

TEST(Replay, Rpl3AnUnknownCallAsksForTheFullHistory) {
  ReplayMemory memory(1 << 20);
  const ChatRequest request =
      parsed(parse_chat, body(R"(,{"role":"tool","tool_call_id":"call_00_x","content":"r"})"));
  EXPECT_EQ(
      prompt_error(request, {.memory = &memory}),
      "the tool result for call \"call_00_x\" answers no earlier call of the request; send the full history");
  // ENC-9: known from live state. The answer that the client left out is back in its place.
  memory.remember(0, sampled_turn());
  EXPECT_EQ(prompt_text(request, {.memory = &memory}),
            prompt_text(parsed(parse_chat, body("")), {}) + kSampled + kEnd);
}

TEST(Replay, Rpl3AResultAloneIsNoConversation) {
  ReplayMemory memory(1 << 20);
  memory.remember(0, sampled_turn());
  const ChatRequest request = parsed(parse_responses, R"({"model":"m","input":[{"type":"function_call_output",
      "call_id":"call_00_x","output":"r"}]})");
  EXPECT_NE(prompt_error(request, {.memory = &memory}).find("send the full history"), std::string::npos);
}

TEST(Replay, Thk3LenientRecoversReasoningOfEditedCalls) {
  ReplayMemory memory(1 << 20);
  memory.remember(0, sampled_turn());
  const Prompt prompt =
      prompt_of(parsed(parse_chat, body(answer_back(R"({\"a\":\"y\"})"))), {.memory = &memory});
  EXPECT_EQ(prompt.recovered_turns, 1);
  EXPECT_EQ(prompt.replayed_turns, 0);
  EXPECT_NE(v4_tokenizer().decode(prompt.ids).find("<think>why </think>I look.\n\n<｜DSML｜tool_calls>"),
            std::string::npos);
}

TEST(Replay, Rpl1AnswersWithoutCallsAreFoundByTheirTexts) {
  ReplayMemory memory(1 << 20);
  const std::string sampled = "so \n</think>It is  1.";
  memory.remember(0, {.tokens = v4_tokenizer().encode(sampled),
                      .in_reasoning = true,
                      .reasoning = "so \n",
                      .content = "It is  1."});
  const std::string first = prompt_text(parsed(parse_chat, body("")));
  const auto next = [&](std::string_view content) {
    return prompt_text(
        parsed(parse_chat, body(R"(,{"role":"assistant","reasoning_content":"so","content":")" +
                                std::string(content) + R"("},{"role":"user","content":"r"})")),
        {.memory = &memory});
  };
  EXPECT_TRUE(next("It is  1.").starts_with(first + sampled + "<｜end▁of▁sentence｜><｜User｜>r"));
  EXPECT_TRUE(next("It is 2.").starts_with(first + "so</think>It is 2.<"));
}

// CACHE-4: without tools the old reasoning leaves the prompt, and the tokens sampled after <think> fit no
// more.
TEST(Replay, Cache4ATurnWhoseReasoningIsDroppedIsRendered) {
  ReplayMemory memory(1 << 20);
  memory.remember(0, {.tokens = v4_tokenizer().encode("r</think>a"),
                      .in_reasoning = true,
                      .reasoning = "r",
                      .content = "a"});
  const std::string plain = R"({"model":"m","messages":[{"role":"user","content":"q"}]})";
  const std::string longer =
      R"({"model":"m","messages":[{"role":"user","content":"q"},{"role":"assistant","content":"a",
      "reasoning_content":"r"},{"role":"user","content":"q2"}]})";
  const Prompt first = prompt_of(parsed(parse_chat, plain), {.memory = &memory});
  const Prompt next = prompt_of(parsed(parse_chat, longer), {.memory = &memory});
  EXPECT_EQ(next.replayed_turns, 0);
  // They share everything up to the last resume point of the first, and differ right after it.
  const auto shared = static_cast<size_t>(first.resume_points.back());
  ASSERT_EQ(shared + 1, first.ids.size());
  EXPECT_TRUE(std::equal(first.ids.begin(), first.ids.begin() + static_cast<std::ptrdiff_t>(shared),
                         next.ids.begin()));
  EXPECT_NE(first.ids[shared], next.ids[shared]);
}

TEST(Replay, NamespacesDoNotSeeOneAnother) {
  ReplayMemory memory(1 << 20);
  memory.remember(7, sampled_turn());
  EXPECT_EQ(prompt_of(parsed(parse_chat, body(answer_back())), {.memory = &memory}).replayed_turns, 0);
  EXPECT_EQ(prompt_of(parsed(parse_chat, body(answer_back())), {.cache_namespace = 7, .memory = &memory})
                .replayed_turns,
            1);
}

TEST(ReplayMemory, Rpl4SurvivesInAStore) {
  std::map<std::string, std::string> disk;
  const ReplayStore store{
      .save = [&](const std::string& key, const std::string& value) { disk[key] = value; },
      .load = [&](const std::string& key) -> std::optional<std::string> {
        const auto found = disk.find(key);
        return found == disk.end() ? std::nullopt : std::optional(found->second);
      }};
  {
    ReplayMemory(1 << 20, store).remember(3, sampled_turn());
  }
  ReplayMemory after_restart(1 << 20, store);
  EXPECT_EQ(
      prompt_of(parsed(parse_chat, body(answer_back())), {.cache_namespace = 3, .memory = &after_restart})
          .replayed_turns,
      1);
  disk.begin()->second[4] = 99;  // another version
  EXPECT_EQ(ReplayMemory(1 << 20, store).find_call(3, "call_00_x"), nullptr);
}

TEST(ReplayMemory, RecordsReadBackOrNotAtAll) {
  SampledTurn turn = sampled_turn();
  turn.calls.push_back({.id = "call_01_y", .name = "g", .arguments = JsonValue("{}")});
  const std::string bytes = serialize_turn(turn);
  const auto read = parse_turn(bytes);
  ASSERT_TRUE(read);
  EXPECT_EQ(read->tokens, turn.tokens);
  EXPECT_EQ(read->reasoning, turn.reasoning);
  EXPECT_EQ(read->content, turn.content);
  EXPECT_TRUE(read->in_reasoning);
  EXPECT_EQ(read->calls.at(1).name, "g");
  EXPECT_EQ(serialize_turn(*read), bytes);
  for (size_t cut = 0; cut < bytes.size(); ++cut) EXPECT_FALSE(parse_turn(bytes.substr(0, cut))) << cut;
  EXPECT_FALSE(parse_turn(bytes + "x"));
}

TEST(ReplayMemory, ForgetsWhatWasUsedLeastRecently) {
  const auto turn = [](char id) {
    SampledTurn t{.tokens = std::vector<int32_t>(100, 5)};
    t.calls = {{.id = std::string(1, id), .name = "f", .arguments = JsonValue("{}")}};
    return t;
  };
  ReplayMemory one(1 << 20);
  one.remember(0, turn('a'));
  ReplayMemory memory(one.bytes() * 2);
  memory.remember(0, turn('a'));
  memory.remember(0, turn('b'));
  EXPECT_NE(memory.find_call(0, "a"), nullptr);
  memory.remember(0, turn('c'));
  EXPECT_NE(memory.find_call(0, "a"), nullptr);
  EXPECT_EQ(memory.find_call(0, "b"), nullptr);
  EXPECT_NE(memory.find_call(0, "c"), nullptr);
  EXPECT_LE(memory.bytes(), one.bytes() * 2);
}

TEST(JsonEqual, ComparesValuesNotSpelling) {
  const auto equal = [](std::string_view a, std::string_view b) {
    return json_equal(json_of(a), json_of(b));
  };
  EXPECT_TRUE(equal(R"({"a":1,"b":[true,null]})", R"({"b":[true,null],"a":1.0})"));
  EXPECT_FALSE(equal(R"({"a":1})", R"({"a":1,"b":2})"));
  EXPECT_FALSE(equal("[1,2]", "[2,1]"));
  EXPECT_FALSE(equal("\"1\"", "1"));
  EXPECT_FALSE(equal("9007199254740993", "9007199254740992"));
}

}  // namespace
}  // namespace kvasir
