// The running server, over its socket: every dialect, usage, errors, hang-ups, keys and restarts.
#include <atomic>
#include <thread>

#include "http/serve_fixture.h"
#include "server/api_keys.h"

namespace kvasir {
namespace {

TEST_F(ServeTest, AnswersTheSmallPaths) {
  start(settings());
  EXPECT_EQ(ask("GET", "/health").json["status"], "ok");
  EXPECT_EQ(ask("HEAD", "/").status, 200);
  Reply models = ask("GET", "/v1/models");
  ASSERT_EQ(models.status, 200);
  EXPECT_EQ(models.json["data"][0]["id"], "nano");
  EXPECT_EQ(ask("GET", "/models/nano").status, 200);
  Reply metrics = ask("GET", "/metrics");
  EXPECT_NE(metrics.text.find("kvasir_healthy 1"), std::string::npos) << metrics.text;
  EXPECT_EQ(ask("GET", "/v1/nothing").status, 404);
  EXPECT_EQ(ask("GET", "/v1/chat/completions").status, 405);
  EXPECT_EQ(ask("OPTIONS", "/v1/chat/completions").status, 405);
}

TEST_F(ServeTest, TokenizeAndDetokenizeAreInverse) {
  start(settings());
  Reply ids = post("/tokenize", {{"text", "Hello, world!\n  int x;"}});
  ASSERT_EQ(ids.status, 200) << ids.text;
  Reply text = post("/detokenize", {{"tokens", ids.json["tokens"]}});
  EXPECT_EQ(text.json["content"], "Hello, world!\n  int x;") << text.text;
}

TEST_F(ServeTest, AStreamJoinsToTheWholeAnswer) {
  start(settings());
  Json request = chat("What does this file do?\n" + filler(300), 24);
  Reply whole = post("/v1/chat/completions", request);
  ASSERT_EQ(whole.status, 200) << whole.text;
  std::string content = whole.json["choices"][0]["message"]["content"];
  EXPECT_FALSE(content.empty());
  request["stream"] = true;
  Reply stream = post("/chat/completions", request);
  std::string joined;
  Json last;
  for (const Json& event : stream.events()) {
    joined += event["choices"][0]["delta"].value("content", Json("")).is_string()
                  ? event["choices"][0]["delta"].value("content", "")
                  : "";
    last = event;
  }
  EXPECT_EQ(joined, content);
  EXPECT_EQ(last["usage"]["prompt_tokens"], whole.json["usage"]["prompt_tokens"]);
  EXPECT_EQ(last["usage"]["completion_tokens"], whole.json["usage"]["completion_tokens"]);
  EXPECT_NE(stream.text.find("data: [DONE]"), std::string::npos);
}

// CACHE-1, CACHE-2, CACHE-7.
TEST_F(ServeTest, ARepeatedRequestHitsAllFullPagesAndSaysTheSame) {
  start(settings());
  Json request = chat(filler(1500));
  Reply cold = post("/v1/chat/completions", request), warm = post("/v1/chat/completions", request);
  ASSERT_EQ(warm.status, 200) << warm.text;
  Json usage = warm.json["usage"];
  int n = usage["prompt_tokens"], hit = usage["prompt_cache_hit_tokens"],
      miss = usage["prompt_cache_miss_tokens"];
  EXPECT_EQ(cold.json["usage"]["prompt_cache_hit_tokens"], 0);
  EXPECT_EQ(hit + miss, n);
  EXPECT_GE(hit, (n - 1) / 128 * 128);
  EXPECT_LT(hit, n);
  EXPECT_EQ(usage["prompt_tokens_details"]["cached_tokens"], hit);
  EXPECT_EQ(usage["kvasir"]["tier"], "memory");
  EXPECT_EQ(warm.json["choices"][0]["message"]["content"], cold.json["choices"][0]["message"]["content"]);
}

TEST_F(ServeTest, ThreeDialectsBuildTheSamePrompt) {
  start(settings());
  std::string text = filler(400);
  Reply first = post("/v1/chat/completions", chat(text, 4));
  Reply messages = post("/v1/messages", {{"model", "nano"},
                                         {"max_tokens", 4},
                                         {"thinking", {{"type", "disabled"}}},
                                         {"temperature", 0},
                                         {"messages", {{{"role", "user"}, {"content", text}}}}});
  Reply responses = post("/v1/responses", {{"model", "nano"},
                                           {"max_output_tokens", 4},
                                           {"reasoning", {{"effort", "none"}}},
                                           {"temperature", 0},
                                           {"input", text}});
  ASSERT_EQ(messages.status, 200) << messages.text;
  ASSERT_EQ(responses.status, 200) << responses.text;
  int n = first.json["usage"]["prompt_tokens"];
  Json u = messages.json["usage"];
  EXPECT_EQ(u["input_tokens"].get<int>() + u["cache_read_input_tokens"].get<int>() +
                u.value("cache_creation_input_tokens", 0),
            n);
  EXPECT_GT(u["cache_read_input_tokens"].get<int>(), 0);
  EXPECT_EQ(responses.json["usage"]["input_tokens"], n);
  EXPECT_GT(responses.json["usage"]["input_tokens_details"]["cached_tokens"].get<int>(), 0);
  Reply count = post("/v1/messages/count_tokens", {{"model", "nano"},
                                                   {"thinking", {{"type", "disabled"}}},
                                                   {"messages", {{{"role", "user"}, {"content", text}}}}});
  EXPECT_EQ(count.json["input_tokens"], n) << count.text;
}

// ENC-10, THK-4, PAR-9: what is demanded of the sampler holds even for a model that knows nothing of it.
TEST_F(ServeTest, ForcedToolsAndFormatsAreProduced) {
  start(settings());
  Json tool = {{"type", "function"},
               {"function",
                {{"name", "set_color"},
                 {"parameters",
                  {{"type", "object"},
                   {"properties",
                    {{"color", {{"enum", {"red", "green"}}}},
                     {"level", {{"type", "integer"}, {"minimum", 1}, {"maximum", 9}}}}},
                   {"required", {"color", "level"}},
                   {"additionalProperties", false}}}}}};
  for (const char* thinking : {"disabled", "enabled"}) {
    Json request = chat("Choose a colour.", 400);
    request["thinking"]["type"] = thinking;
    request["tools"] = {tool};
    request["tool_choice"] = "required";
    Reply reply = post("/v1/chat/completions", request);
    ASSERT_EQ(reply.status, 200) << reply.text;
    Json choice = reply.json["choices"][0];
    if (choice["finish_reason"] == "length") continue;  // the reasoning took all
    ASSERT_EQ(choice["finish_reason"], "tool_calls") << reply.text;
    Json arguments =
        Json::parse(choice["message"]["tool_calls"][0]["function"]["arguments"].get<std::string>());
    EXPECT_TRUE(arguments["color"] == "red" || arguments["color"] == "green") << arguments;
    EXPECT_TRUE(arguments["level"] >= 1 && arguments["level"] <= 9) << arguments;
  }
  Json request = chat("An object, in json.", 200);
  request["response_format"] = {{"type", "json_schema"},
                                {"json_schema",
                                 {{"name", "a"},
                                  {"schema",
                                   {{"type", "object"},
                                    {"properties", {{"ok", {{"type", "boolean"}}}}},
                                    {"required", {"ok"}},
                                    {"additionalProperties", false}}}}}};
  Reply reply = post("/v1/chat/completions", request);
  ASSERT_EQ(reply.status, 200) << reply.text;
  EXPECT_TRUE(
      Json::parse(reply.json["choices"][0]["message"]["content"].get<std::string>())["ok"].is_boolean())
      << reply.text;

  request["response_format"]["json_schema"]["schema"]["properties"]["ok"] = {{"not", {{"type", "null"}}}};
  Reply refused = post("/v1/chat/completions", request);
  EXPECT_EQ(refused.status, 400);
  EXPECT_NE(refused.text.find("/properties/ok/not"), std::string::npos) << refused.text;
}

TEST_F(ServeTest, RawCompletionsContinueAPrompt) {
  start(settings());
  Reply reply = post("/v1/completions",
                     {{"model", "nano"}, {"prompt", "#include <"}, {"max_tokens", 8}, {"temperature", 0}});
  ASSERT_EQ(reply.status, 200) << reply.text;
  EXPECT_TRUE(reply.json["choices"][0]["text"].is_string());
  Reply fim = post("/beta/completions",
                   {{"model", "nano"}, {"prompt", "int f() {"}, {"suffix", "}"}, {"max_tokens", 4}});
  EXPECT_TRUE(fim.status == 200 || fim.json.contains("error")) << fim.text;
}

TEST_F(ServeTest, ASeededRequestRepeats) {
  start(settings());
  Json request = chat("Write.", 24);
  request["temperature"] = 1.0;
  request["seed"] = 7;
  EXPECT_EQ(post("/v1/chat/completions", request).json["choices"][0]["message"]["content"],
            post("/v1/chat/completions", request).json["choices"][0]["message"]["content"]);
}

// ERR-1, in the words that clients parse.
TEST_F(ServeTest, AnOverlongPromptIsRefusedBeforePrefillInEachDialect) {
  Settings s = settings();
  s.max_context = 512;
  start(s);
  std::string text = filler(2000);
  Reply openai = post("/v1/chat/completions", chat(text));
  EXPECT_EQ(openai.status, 400);
  EXPECT_EQ(openai.json["error"]["code"], "context_length_exceeded");
  EXPECT_NE(openai.text.find("maximum context length is 512 tokens"), std::string::npos) << openai.text;
  Reply anthropic =
      post("/v1/messages",
           {{"model", "nano"}, {"max_tokens", 4}, {"messages", {{{"role", "user"}, {"content", text}}}}});
  EXPECT_EQ(anthropic.status, 400);
  EXPECT_NE(anthropic.text.find("prompt is too long: "), std::string::npos) << anthropic.text;
  EXPECT_EQ(anthropic.json["type"], "error");
  Reply fits = post("/v1/chat/completions", chat("Hello", 100000));
  EXPECT_EQ(fits.status, 200) << "max_tokens beyond the context is clamped: " << fits.text;
}

TEST_F(ServeTest, WrongBodiesAreRefusedAndSayWhy) {
  start(settings());
  Reply broken = ask("POST", "/v1/chat/completions", "{\"messages\": [}");
  EXPECT_EQ(broken.status, 400);
  EXPECT_NE(broken.text.find("byte"), std::string::npos) << broken.text;
  EXPECT_EQ(ask("POST", "/v1/messages", "[]").json["type"], "error");
  Json wrong = chat("x");
  wrong["messages"] = "x";
  EXPECT_NE(post("/v1/chat/completions", wrong).text.find("messages"), std::string::npos);
  EXPECT_EQ(ask("POST", "/v1/chat/completions", std::string(300, '[') + std::string(300, ']')).status, 400);
}

TEST_F(ServeTest, APageOfAnotherOriginIsRefused) {
  start(settings());
  EXPECT_EQ(post("/v1/chat/completions", chat("x", 1), "Origin: http://evil.example\r\n").status, 403);
  EXPECT_EQ(post("/v1/chat/completions", chat("x", 1), "Origin: null\r\n").status, 403);
  Reply own = post("/v1/chat/completions", chat("x", 1),
                   fmt::format("Origin: http://127.0.0.1:{}\r\n", server_->port()));
  EXPECT_EQ(own.status, 200) << own.text;
  EXPECT_EQ(own.head.find("Access-Control"), std::string::npos);
}

TEST_F(ServeTest, AClientThatHangsUpEndsItsSequence) {
  start(settings());
  Json request = chat(filler(200), 100000);
  request["stream"] = true;
  request["logit_bias"] = {{"6106", -100}};  // the end token: it would go on for long
  {
    TestClient client(server_->port());
    std::string body = request.dump();
    client.send(head("POST", "/v1/chat/completions", body.size()) + body);
    ASSERT_TRUE(client.read_until("data: "));
    EXPECT_TRUE(becomes("kvasir_engine_sequences{state=\"running\"}", 1));
  }
  EXPECT_TRUE(becomes("kvasir_engine_requests_total{outcome=\"cancelled\"}", 1));
  EXPECT_TRUE(becomes("kvasir_engine_sequences{state=\"running\"}", 0));
}

// STR-1.
TEST_F(ServeTest, TheHeadAndACommentComeBeforePrefillEnds) {
  start(settings());
  Json request = chat(filler(30000), 4);
  request["stream"] = true;
  TestClient client(server_->port());
  std::string body = request.dump();
  client.send(head("POST", "/v1/chat/completions", body.size()) + body);
  ASSERT_TRUE(client.read_until(": "));
  EXPECT_EQ(metric("kvasir_engine_tokens_total{kind=\"generated\"}"), 0);
  EXPECT_TRUE(client.read_until("[DONE]", 120s));
}

TEST_F(ServeTest, KeysAreAskedForAndTheirLimitsHold) {
  Settings s = settings();
  s.key_file = dir_.file("keys.toml");
  auto key = make_key();
  ASSERT_TRUE(key);
  ASSERT_TRUE(append_key(s.key_file, "one", hash_key(*key), 1));
  start(s);
  EXPECT_EQ(ask("GET", "/health").status, 200);
  EXPECT_EQ(ask("GET", "/v1/models").status, 401);
  EXPECT_EQ(ask("GET", "/v1/models", "", "Authorization: Bearer nope\r\n").status, 401);
  EXPECT_EQ(post("/v1/messages", {}, "x-api-key: nope\r\n").json["error"]["type"], "authentication_error");
  std::string mine = "Authorization: Bearer " + *key + "\r\n";
  EXPECT_EQ(ask("GET", "/v1/models", "", mine).status, 200);
  EXPECT_EQ(ask("GET", "/v1/models", "", "x-api-key: " + *key + "\r\n").status, 200);

  Json request = chat(filler(200), 100000);
  request["stream"] = true;
  request["logit_bias"] = {{"6106", -100}};
  TestClient running(server_->port());
  std::string body = request.dump();
  running.send(head("POST", "/v1/chat/completions", body.size(), mine) + body);
  ASSERT_TRUE(running.read_until("data: "));
  Reply second = post("/v1/chat/completions", chat("x"), mine);
  EXPECT_EQ(second.status, 429) << second.text;
}

TEST_F(ServeTest, ThePrefixCacheSurvivesARestart) {
  Json request = chat(filler(3000), 8);
  start(settings());
  Reply cold = post("/v1/chat/completions", request);
  ASSERT_EQ(cold.status, 200) << cold.text;
  stop();
  start(settings());
  Reply warm = post("/v1/chat/completions", request);
  ASSERT_EQ(warm.status, 200) << warm.text;
  int n = warm.json["usage"]["prompt_tokens"], hit = warm.json["usage"]["prompt_cache_hit_tokens"];
  EXPECT_GE(hit, (n - 1) / 128 * 128);
  EXPECT_EQ(warm.json["usage"]["kvasir"]["tier"], "disk");
  EXPECT_EQ(warm.json["choices"][0]["message"]["content"], cold.json["choices"][0]["message"]["content"]);
}

TEST_F(ServeTest, DeletingASessionLeavesWhatOthersHaveStored) {
  Json first = chat(filler(1000), 4);
  first["session_id"] = "first";
  start(settings());
  Reply answer = post("/v1/chat/completions", first);
  ASSERT_EQ(answer.status, 200) << answer.text;
  Json second = first;
  second["session_id"] = "second";
  second["messages"].push_back(answer.json["choices"][0]["message"]);
  second["messages"].push_back({{"role", "user"}, {"content", filler(600)}});
  ASSERT_EQ(post("/v1/chat/completions", second).status, 200);
  auto hit = [&](const Json& request) {
    return post("/v1/chat/completions", request).json["usage"]["prompt_cache_hit_tokens"].get<int>();
  };
  int of_first = hit(first), of_second = hit(second);
  ASSERT_EQ(post("/v1/sessions/save", {{"id_prefix", ""}}).status, 400);
  ASSERT_EQ(post("/v1/sessions/save", {{"id", "first"}}).status, 200);
  ASSERT_EQ(post("/v1/sessions/save", {{"id", "second"}}).status, 200);

  ASSERT_EQ(ask("DELETE", "/v1/sessions/first").status, 200);
  EXPECT_EQ(hit(second), of_second) << "its own beginning was deleted with another session";
  ASSERT_EQ(hit(first), of_first);  // a session again
  ASSERT_EQ(post("/v1/sessions/save", {{"id", "first"}}).status, 200);
  ASSERT_EQ(ask("DELETE", "/v1/sessions/second").status, 200);
  EXPECT_EQ(hit(first), of_first) << "it was deleted with what went on from it";
  EXPECT_LT(hit(second), of_second);
}

TEST_F(ServeTest, ASecondServerOnTheSameCacheFolderIsRefused) {
  start(settings());
  auto second = Server::start(settings(), nullptr);
  ASSERT_FALSE(second);
  EXPECT_NE(second.error().message.find(std::to_string(getpid())), std::string::npos)
      << second.error().message;
}

TEST_F(ServeTest, SessionsAreListedForkedSavedAndForgotten) {
  start(settings());
  Json request = chat(filler(1000), 4);
  request["session_id"] = "work";
  ASSERT_EQ(post("/v1/chat/completions", request).status, 200);
  Reply list = ask("GET", "/v1/sessions");
  ASSERT_EQ(list.status, 200) << list.text;
  ASSERT_EQ(list.json["data"].size(), 1u) << list.text;
  EXPECT_EQ(list.json["data"][0]["id"], "work");
  Reply fork = post("/v1/sessions/fork", {{"id", "work"}, {"at_tokens", 256}});
  ASSERT_EQ(fork.status, 200) << fork.text;
  EXPECT_EQ(fork.json["tokens"], 256);
  EXPECT_EQ(post("/v1/sessions/save", {{"id", "work"}}).status, 200);
  stop();
  start(settings());
  list = ask("GET", "/v1/sessions");
  ASSERT_EQ(list.json["data"].size(), 1u) << "only the saved one returns: " << list.text;
  EXPECT_EQ(list.json["data"][0]["id"], "work");
  EXPECT_EQ(ask("DELETE", "/v1/sessions/work").status, 200);
  EXPECT_EQ(ask("DELETE", "/v1/sessions/work").status, 404);
  Reply again = post("/v1/chat/completions", request);
  EXPECT_EQ(again.json["usage"]["prompt_cache_hit_tokens"], 0) << again.text;
}

// STR-1. During a prefill the engine has news all the time, and none of it is for the client.
TEST_F(ServeTest, ALongPrefillIsFullOfSignsOfLife) {
  Settings s = settings();
  s.keep_alive_seconds = 0.1;
  s.step_tokens = 64;
  start(s);
  Json request = chat(filler(12000), 2);
  request["stream"] = true;
  std::string text = post("/v1/chat/completions", request).text;
  EXPECT_NE(text.find("[DONE]"), std::string::npos);
  std::string before = text.substr(0, text.find("\"finish_reason\":\"length\""));
  size_t signs = 0;
  for (size_t at = 0; (at = before.find(": keep-alive\n", at)) != std::string::npos; ++at) ++signs;
  EXPECT_GE(signs, 3u) << "in a prefill of some seconds";

  request["messages"][0]["content"] = "Other. " + filler(12000);
  request["stream"] = false;
  std::string body = post("/v1/chat/completions", request).text;
  EXPECT_EQ(body.substr(0, 3), "\n\n\n");
}

TEST_F(ServeTest, ManyStreamsAtOnceAllEnd) {
  start(settings());
  std::atomic<int> good{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 24; ++i) {
    threads.emplace_back([&, i] {
      Json request = chat(fmt::format("Say {}.\n{}", i, filler(100 + i * 20)), 20);
      request["stream"] = i % 2 == 0;
      Reply reply = post("/v1/chat/completions", request);
      if (reply.status == 200 && (i % 2 == 1 || reply.text.find("[DONE]") != std::string::npos)) ++good;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(good, 24);
}

TEST_F(ServeTest, DeterministicAnswersDoNotDependOnTheMix) {
  Settings s = settings();
  s.deterministic = true;
  start(s);
  auto request = [](int i) {
    Json r = chat(fmt::format("Item {}.\n{}", i, filler(60 * (i + 1))), 24);
    r["temperature"] = 0.9;
    r["seed"] = i;
    return r;
  };
  std::vector<std::string> alone(6), mixed(6);
  for (int i = 0; i < 6; ++i)
    alone[i] = post("/v1/chat/completions", request(i)).json["choices"][0]["message"]["content"];
  std::vector<std::thread> threads;
  for (int i = 0; i < 6; ++i) {
    threads.emplace_back([&, i] {
      mixed[i] = post("/v1/chat/completions", request(i)).json["choices"][0]["message"]["content"];
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(alone, mixed);
}

}  // namespace
}  // namespace kvasir
