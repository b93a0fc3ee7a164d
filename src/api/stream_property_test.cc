// For any answer, cut anywhere: the deltas of a stream, joined, are the whole response; usage adds up; the
// calls that a client sees are the same both ways.
#include <random>

#include "api/api_fixture_test.h"

namespace kvasir {
namespace {

struct Seen {
  std::string reasoning;
  std::string content;
  std::vector<std::pair<std::string, std::string>> calls;  // name, arguments

  bool operator==(const Seen&) const = default;
};

void PrintTo(const Seen& seen, std::ostream* out) {
  *out << seen.reasoning << " / " << seen.content;
  for (const auto& [name, arguments] : seen.calls) *out << " / " << name << " " << arguments;
}

std::string text_or_nothing(const JsonValue& json, std::string_view path) {
  const JsonValue value = at_path(json, path);
  return value.is_string() ? value.as_string() : "";
}

Seen join_chat(const SseEvents& events) {
  Seen seen;
  for (const SseEvent& e : events) {
    if (e.data == "[DONE]") continue;
    const JsonValue json = json_of(e.data);
    const std::string reasoning = text_or_nothing(json, "choices.0.delta.reasoning_content");
    const std::string content = text_or_nothing(json, "choices.0.delta.content");
    EXPECT_TRUE(reasoning.empty() || content.empty()) << e.data;
    seen.reasoning += reasoning;
    seen.content += content;
    const JsonValue call = at_path(json, "choices.0.delta.tool_calls.0");
    if (call.is_null()) continue;
    if (call.find("id") != nullptr) seen.calls.push_back({text_at(call, "function.name"), ""});
    EXPECT_EQ(text_at(call, "index"), std::to_string(seen.calls.size() - 1));
    seen.calls.back().second += text_at(call, "function.arguments");
  }
  return seen;
}

Seen whole_chat(const JsonValue& json) {
  Seen seen{text_or_nothing(json, "choices.0.message.reasoning_content"),
            text_or_nothing(json, "choices.0.message.content"),
            {}};
  const JsonValue calls = at_path(json, "choices.0.message.tool_calls");
  for (size_t i = 0; calls.is_array() && i < calls.as_array().size(); ++i) {
    seen.calls.push_back(
        {text_at(calls.as_array()[i], "function.name"), text_at(calls.as_array()[i], "function.arguments")});
  }
  return seen;
}

Seen join_messages(const SseEvents& events) {
  Seen seen;
  for (const SseEvent& e : events) {
    const JsonValue json = json_of(e.data);
    if (text_or_nothing(json, "content_block.type") == "tool_use") {
      seen.calls.push_back({text_at(json, "content_block.name"), ""});
    }
    seen.reasoning += text_or_nothing(json, "delta.thinking");
    seen.content += text_or_nothing(json, "delta.text");
    if (text_or_nothing(json, "delta.type") == "input_json_delta") {
      seen.calls.back().second += text_at(json, "delta.partial_json");
    }
  }
  return seen;
}

Seen whole_messages(const JsonValue& json) {
  Seen seen;
  for (const JsonValue& block : json.find("content")->as_array()) {
    seen.reasoning += text_or_nothing(block, "thinking");
    seen.content += text_or_nothing(block, "text");
    if (text_at(block, "type") == "tool_use")
      seen.calls.push_back({text_at(block, "name"), at_path(block, "input").dump()});
  }
  return seen;
}

Seen join_responses(const SseEvents& events) {
  Seen seen;
  for (size_t i = 0; i < events.size(); ++i) {
    const JsonValue json = json_of(events[i].data);
    EXPECT_EQ(text_at(json, "sequence_number"), std::to_string(i));
    EXPECT_EQ(text_at(json, "type"), events[i].name);
    if (events[i].name == "response.reasoning_text.delta") seen.reasoning += text_at(json, "delta");
    if (events[i].name == "response.output_text.delta") seen.content += text_at(json, "delta");
    if (events[i].name == "response.function_call_arguments.delta")
      seen.calls.back().second += text_at(json, "delta");
    if (events[i].name == "response.output_item.added" && text_at(json, "item.type") == "function_call") {
      seen.calls.push_back({text_at(json, "item.name"), ""});
    }
  }
  return seen;
}

Seen whole_responses(const JsonValue& json) {
  Seen seen;
  for (const JsonValue& item : json.find("output")->as_array()) {
    if (text_at(item, "type") == "reasoning") seen.reasoning += text_at(item, "content.0.text");
    if (text_at(item, "type") == "message") seen.content += text_at(item, "content.0.text");
    if (text_at(item, "type") == "function_call")
      seen.calls.push_back({text_at(item, "name"), text_at(item, "arguments")});
  }
  return seen;
}

// Random text with what JSON must escape.
std::string random_text(std::mt19937& random) {
  static const std::vector<std::string> kPieces = {"a",  " ",  "\n", "\"", "\\",   "é",
                                                   "漢", "😀", "</", "\t", "\x01", "{}"};
  std::string text;
  for (size_t n = random() % 12; n > 0; --n) text += kPieces[random() % kPieces.size()];
  return text;
}

struct RandomAnswer {
  std::vector<Step> steps;
  Seen seen;
};

void add_cut(Step::Kind kind, const std::vector<std::string>& pieces, RandomAnswer& answer) {
  for (const std::string& piece : pieces) answer.steps.push_back({kind, piece});
}

RandomAnswer random_answer(std::mt19937& random) {
  RandomAnswer answer;
  const auto pieces = [&](std::string& whole) {
    std::vector<std::string> out;
    for (size_t n = random() % 4; n > 0; --n) whole += out.emplace_back(random_text(random));
    return out;
  };
  add_cut(Step::Kind::kReasoning, pieces(answer.seen.reasoning), answer);
  add_cut(Step::Kind::kContent, pieces(answer.seen.content), answer);
  for (size_t n = random() % 3; n > 0; --n) {
    const std::string name = random() % 2 ? "f" : "g";
    const std::string arguments = "{\"k\": " + JsonValue(random_text(random)).dump() + "}";
    answer.seen.calls.push_back({name, arguments});
    size_t at = random() % arguments.size();
    while ((arguments[at] & 0xC0) == 0x80) --at;  // deltas are whole characters
    answer.steps.push_back({Step::Kind::kCall, name});
    add_cut(Step::Kind::kArguments, {arguments.substr(0, at), arguments.substr(at)}, answer);
    if (random() % 2) answer.steps.push_back({Step::Kind::kKeepAlive});
  }
  return answer;
}

struct Protocol {
  Parser parse;
  std::string body;
  Seen (*join)(const SseEvents&);
  Seen (*whole)(const JsonValue&);
};

const std::vector<Protocol>& protocols() {
  static const std::vector<Protocol> all = {
      {parse_chat,
       R"("messages":[{"role":"user","content":"q"}],"tools":[{"function":{"name":"f"}},{"function":{"name":"g"}}])",
       join_chat, whole_chat},
      {parse_messages, R"("messages":[{"role":"user","content":"q"}],"tools":[{"name":"f"},{"name":"g"}])",
       join_messages, whole_messages},
      {parse_responses,
       R"("input":"q","tools":[{"type":"function","name":"f"},{"type":"function","name":"g"}])",
       join_responses, whole_responses}};
  return all;
}

TEST(Streams, JoinedAreTheWholeResponse) {
  std::mt19937 random(1);
  for (int round = 0; round < 300; ++round) {
    const RandomAnswer answer = random_answer(random);
    const Finish finish{.ending = answer.seen.calls.empty() ? Ending::kStop : Ending::kToolCalls,
                        .usage = test_usage()};
    for (const Protocol& protocol : protocols()) {
      const ChatRequest stream =
          parsed(protocol.parse, R"({"model":"m","stream":true,)" + protocol.body + "}");
      const ChatRequest whole = parsed(protocol.parse, R"({"model":"m",)" + protocol.body + "}");
      SseEvents events =
          write_answer(stream, make_formatter(stream, test_context()), answer.steps, finish).events;
      std::erase_if(events, [](const SseEvent& e) { return e.comment; });
      EXPECT_EQ(protocol.join(events), answer.seen);
      EXPECT_EQ(protocol.whole(json_of(
                    write_answer(whole, make_formatter(whole, test_context()), answer.steps, finish).whole)),
                answer.seen);
    }
  }
}

// CACHE-1 in every form: hit + miss is the prompt, and the three dialects agree.
TEST(Usage, Cache1AddsUpInEveryDialect) {
  std::mt19937 random(2);
  for (int round = 0; round < 50; ++round) {
    Usage usage;
    usage.prompt_tokens = static_cast<int64_t>(1 + random() % 1000);
    usage.completion_tokens = static_cast<int64_t>(random() % 100);
    usage.cache.hit_tokens = static_cast<int64_t>(random()) % usage.prompt_tokens;
    usage.reasoning_tokens = static_cast<int64_t>(random()) % (usage.completion_tokens + 1);
    JsonWriter chat, responses, messages;
    write_chat_usage(usage, chat);
    write_responses_usage(usage, responses);
    write_messages_usage(usage, messages);
    const auto number = [](const JsonWriter& json, std::string_view path) {
      return at_path(json_of(json.text()), path).as_int64().value_or(-1);
    };
    EXPECT_EQ(number(chat, "prompt_cache_hit_tokens") + number(chat, "prompt_cache_miss_tokens"),
              usage.prompt_tokens);
    EXPECT_EQ(number(chat, "prompt_tokens"), usage.prompt_tokens);
    EXPECT_EQ(number(chat, "prompt_tokens_details.cached_tokens"), usage.cache.hit_tokens);
    EXPECT_EQ(number(chat, "total_tokens"), usage.prompt_tokens + usage.completion_tokens);
    EXPECT_EQ(number(chat, "completion_tokens_details.reasoning_tokens"), usage.reasoning_tokens);
    EXPECT_EQ(number(responses, "input_tokens"), usage.prompt_tokens);
    EXPECT_EQ(number(responses, "input_tokens_details.cached_tokens"), usage.cache.hit_tokens);
    EXPECT_EQ(number(responses, "output_tokens_details.reasoning_tokens"), usage.reasoning_tokens);
    EXPECT_EQ(number(messages, "input_tokens"), number(chat, "prompt_cache_miss_tokens"));
    EXPECT_EQ(number(messages, "cache_creation_input_tokens"), 0);
    EXPECT_EQ(number(messages, "input_tokens") + number(messages, "cache_read_input_tokens"),
              usage.prompt_tokens);
    EXPECT_EQ(number(messages, "output_tokens"), usage.completion_tokens);
  }
}

// Bodies cut short or with a byte changed give a request or a message, never a crash.
TEST(Requests, DamagedBodiesNeverCrash) {
  std::mt19937 random(3);
  const std::vector<Parser> parsers = {parse_chat, parse_responses, parse_messages, parse_completion};
  for (const Protocol& protocol : protocols()) {
    const std::string body =
        R"({"model":"m","stream":true,"stop":["a"],"thinking":{"type":"enabled"},)" + protocol.body + "}";
    for (int round = 0; round < 2000; ++round) {
      std::string damaged = body;
      damaged[random() % damaged.size()] = static_cast<char>(random());
      if (random() % 4 == 0) damaged.resize(random() % damaged.size());
      for (const Parser parse : parsers) {
        const auto request = parse(damaged, {});
        if (request) continue;
        EXPECT_EQ(http_status(api_error(request.error()), Dialect::kChat), 400) << damaged;
        EXPECT_FALSE(request.error().message.empty());
      }
    }
  }
}

}  // namespace
}  // namespace kvasir
