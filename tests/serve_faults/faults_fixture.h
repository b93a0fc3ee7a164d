// What the tests with the real binary share: its path, a folder, conversations with known answers (computed
// once).
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "io/temp_dir.h"
#include "serve_faults/conversations.h"

namespace kvasir {

using namespace std::chrono_literals;
using SteadyClock = std::chrono::steady_clock;

class FaultsTest : public testing::Test {
 protected:
  using Words = std::vector<std::string>;

  std::string cache() const { return dir_.file("cache"); }
  std::string errors() const { return dir_.file("errors"); }
  ChildServer::Start start(Words more = {}, unsigned user = 0) const {
    Words words = {"--cache-dir", cache(), "--numerics", "native", "--log-level", "warning"};
    words.insert(words.end(), more.begin(), more.end());
    return {KVASIR_BINARY, words, errors(), user, false};
  }
  // `kvasir` with these words and nothing else.
  ChildServer::Start program(Words words, unsigned user = 0) const {
    return {KVASIR_BINARY, words, errors(), user, true};
  }

  static const std::vector<KnownPrompt>& prompts() {
    static const Conversations known({KVASIR_BINARY,
                                      {"--disk-cache", "off", "--numerics", "native", "--log-level", "error"},
                                      "",
                                      0,
                                      false},
                                     4, 5);
    EXPECT_EQ(known.error(), "");
    return known.prompts();
  }
  // Every known prompt is answered, and right.
  static void expect_all_right(int port, const char* when) {
    for (const KnownPrompt& prompt : prompts()) {
      Answer answer = post(port, "/v1/chat/completions", prompt.request);
      ASSERT_EQ(answer.status, 200) << when << ": " << answer.body;
      ASSERT_EQ(Conversations::difference(prompt, answer), "") << when;
    }
  }
  static double events(int port, const std::string& event) {
    return metric(port, "kvasir_cache_events_total{event=\"" + event + "\"}");
  }
  static void stop(ChildServer& server) {
    server.signal(SIGTERM);
    ExitStatus ended = server.wait(20s);
    EXPECT_TRUE(ended.exited && ended.code == 0) << "code " << ended.code << ", signal " << ended.signal;
  }
  std::string error_text() const { return dir_.read("errors"); }

  TempDir dir_;
};

}  // namespace kvasir
