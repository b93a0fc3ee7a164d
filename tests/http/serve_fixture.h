// For tests of the whole server: one with the bundled model on a free port, and requests to it in JSON.
#pragma once

#include <fmt/core.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "../placed_model.h"
#include "io/temp_dir.h"
#include "net/server_fixture_test.h"
#include "server/serve.h"

namespace kvasir {

using Json = nlohmann::json;

struct Reply {
  int status = 0;
  std::string head, text;
  Json json;  // of the body; null if it is none

  // The `data:` payloads of an event stream, [DONE] left out.
  std::vector<Json> events() const {
    std::vector<Json> out;
    size_t at = 0;
    while ((at = text.find("data: ", at)) != std::string::npos) {
      at += 6;
      std::string line = text.substr(at, text.find('\n', at) - at);
      if (line != "[DONE]") out.push_back(Json::parse(line));
    }
    return out;
  }
};

class ServeTest : public testing::Test {
 protected:
  Settings settings() const {
    Settings s;
    s.backend = tested_backend();
    s.model_dir = KVASIR_SOURCE_DIR "/models/nano";
    s.model_name = "nano";
    s.port = 0;
    s.threads = 2;
    s.cache_dir = dir_.file("cache");
    s.log_level = LogLevel::kError;
    s.drain_seconds = 5;
    return s;
  }
  void start(const Settings& settings) {
    auto started = Server::start(settings, nullptr);
    ASSERT_TRUE(started) << started.error().message;
    server_ = *std::move(started);
  }
  void stop() {
    server_->stop(steady_clock::now() + 10s);
    server_.reset();
  }

  std::string head(const std::string& method, const std::string& path, size_t body_bytes,
                   const std::string& more = "") const {
    return fmt::format(
        "{} {} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nContent-Type: application/json\r\nContent-Length: "
        "{}\r\n{}\r\n",
        method, path, server_->port(), body_bytes, more);
  }
  Reply ask(const std::string& method, const std::string& path, const std::string& body = "",
            const std::string& more = "") {
    TestClient client(server_->port());
    TestResponse response = client.ask(head(method, path, body.size(), more) + body, method == "HEAD");
    Reply reply{response.status, response.head, response.body, Json::parse(response.body, nullptr, false)};
    if (reply.json.is_discarded()) reply.json = Json();
    return reply;
  }
  Reply post(const std::string& path, const Json& body, const std::string& more = "") {
    return ask("POST", path, body.dump(), more);
  }
  double metric(const std::string& line) {
    std::string text = ask("GET", "/metrics").text;
    size_t at = text.find("\n" + line + " ");
    return at == std::string::npos ? -1 : std::stod(text.substr(at + line.size() + 2));
  }
  // Metrics are as of the engine's last step.
  bool becomes(const std::string& line, double value) {
    for (int i = 0; i < 500; ++i) {
      if (metric(line) == value) return true;
      std::this_thread::sleep_for(10ms);
    }
    return false;
  }

  // A chat request that is short and greedy.
  static Json chat(const std::string& text, int max_tokens = 16) {
    return {{"model", "nano"},
            {"messages", {{{"role", "user"}, {"content", text}}}},
            {"max_tokens", max_tokens},
            {"temperature", 0},
            {"thinking", {{"type", "disabled"}}}};
  }
  // About `tokens` tokens of the bundled tokenizer.
  static std::string filler(int tokens) {
    std::string text;
    for (int i = 0; i * 8 < tokens; ++i) text += fmt::format("int value_{} = {};\n", i, i * 37);
    return text;
  }

  TempDir dir_;
  std::unique_ptr<Server> server_;
};

}  // namespace kvasir
