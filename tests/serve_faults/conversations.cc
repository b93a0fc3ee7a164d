// See conversations.h.
#include "serve_faults/conversations.h"

#include <random>

namespace kvasir {
namespace {

constexpr int kAnswerTokens = 12;
constexpr const char* kEndToken =
    "6106";  // of the bundled model: made impossible, so answers have one length

std::string lines(std::mt19937& random, int count) {
  std::string text;
  for (int i = 0; i < count; ++i)
    text +=
        "int value_" + std::to_string(random() % 1000) + " = " + std::to_string(random() % 100000) + ";\n";
  return text;
}

Json message(const char* role, std::string text) { return {{"role", role}, {"content", std::move(text)}}; }

}  // namespace

Conversations::Conversations(const ChildServer::Start& reference, int count, unsigned seed) {
  ChildServer server(reference);
  if (!server.wait_ready()) {
    error_ = "the server without a cache does not start";
    return;
  }
  std::mt19937 random(seed);
  std::string shared = "You review code.\n" + lines(random, 25);
  for (int c = 0; c < count && error_.empty(); ++c) {
    Json messages = Json::array({message("system", c % 2 ? shared : lines(random, 20))});
    Json at_fork;
    for (int turn = 0; turn < 3 && error_.empty(); ++turn) {
      messages.push_back(message("user", lines(random, 15 + static_cast<int>(random() % 50))));
      if (!add(server.port(), c, "c" + std::to_string(c) + "-t" + std::to_string(turn), messages)) return;
      messages.push_back(message("assistant", prompts_.back().expected["message"]["content"]));
      if (turn == 0) at_fork = messages;
    }
    if (c % 3 != 0) continue;
    at_fork.push_back(message("user", lines(random, 40)));
    add(server.port(), c, "c" + std::to_string(c) + "-f", at_fork);
  }
}

bool Conversations::add(int port, int number, const std::string& session, Json messages) {
  KnownPrompt prompt;
  prompt.session = session;
  prompt.conversation = number;
  prompt.request = {{"model", "nano"},
                    {"messages", std::move(messages)},
                    {"max_tokens", kAnswerTokens},
                    {"temperature", 0},
                    {"thinking", {{"type", "disabled"}}},
                    {"logit_bias", {{kEndToken, -100}}},
                    {"logprobs", true},
                    {"top_logprobs", 2},
                    {"session_id", session}};
  Answer answer = post(port, "/v1/chat/completions", prompt.request);
  Json json = answer.json();
  if (answer.status != 200 || json.is_discarded()) {
    error_ = "no reference for " + session + ": status " + std::to_string(answer.status) + " " + answer.body;
    return false;
  }
  if (hit_tokens(answer) != 0) {
    error_ = "the reference for " + session + " was helped by a cache";
    return false;
  }
  prompt.expected = json["choices"][0];
  prompt.tokens = json["usage"]["prompt_tokens"];
  prompts_.push_back(std::move(prompt));
  Answer forgotten = ask(port, "DELETE", "/v1/sessions/" + session);
  if (forgotten.status != 200) error_ = "cannot forget " + session + ": " + forgotten.body;
  return error_.empty();
}

std::string Conversations::difference(const KnownPrompt& prompt, const Answer& answer) {
  Json json = answer.json();
  if (json.is_discarded() || !json.contains("choices"))
    return prompt.session + ": not an answer: " + answer.body;
  const Json& choice = json["choices"][0];
  if (json["usage"]["prompt_tokens"] != prompt.tokens)
    return prompt.session + ": prompt_tokens " + json["usage"].dump();
  if (choice == prompt.expected) return "";
  return prompt.session + " (" + json["usage"].dump() + "): expected " + prompt.expected.dump() + ", saw " +
         choice.dump();
}

int64_t Conversations::hit_tokens(const Answer& answer) {
  Json json = answer.json();
  if (json.is_discarded() || !json.contains("usage")) return -1;
  return json["usage"].value("prompt_cache_hit_tokens", int64_t{-1});
}

}  // namespace kvasir
