#include "server/replay_script.h"

#include <gtest/gtest.h>

#include "io/temp_dir.h"

namespace kvasir {
namespace {

std::string write_file(const TempDir& dir, const std::string& text) {
  dir.write("answers.jsonl", text);
  return dir.file("answers.jsonl");
}

TEST(ReplayScript, TheFirstUnusedLineThatFitsIsTaken) {
  TempDir dir;
  auto script = ReplayScript::load(write_file(dir,
                                              "{\"text\":\"one\",\"match\":\"weather\"}\n\n{\"text\":\"two\"}"
                                              "\n{\"text\":\"three\",\"repeat\":true}\n"));
  ASSERT_TRUE(script) << script.error().message;
  std::string text;
  EXPECT_TRUE((*script)->take("hello", true, text));
  EXPECT_EQ(text, "two");
  EXPECT_TRUE((*script)->take("the weather", true, text));
  EXPECT_EQ(text, "one");
  for (int i = 0; i < 2; ++i) {
    EXPECT_TRUE((*script)->take("the weather", true, text));
    EXPECT_EQ(text, "three");
  }
}

TEST(ReplayScript, NothingLeftSaysSo) {
  TempDir dir;
  auto script = ReplayScript::load(write_file(dir, "{\"text\":\"one\"}"));
  std::string text;
  EXPECT_TRUE((*script)->take("", true, text));
  EXPECT_FALSE((*script)->take("", true, text));
}

TEST(ReplayScript, ALineMayBeForRequestsWithOrWithoutTools) {
  TempDir dir;
  auto script = ReplayScript::load(
      write_file(dir, "{\"text\":\"call\",\"tools\":true}\n{\"text\":\"title\",\"tools\":false}"));
  ASSERT_TRUE(script) << script.error().message;
  std::string text;
  EXPECT_TRUE((*script)->take("x", false, text));
  EXPECT_EQ(text, "title");
  EXPECT_TRUE((*script)->take("x", true, text));
  EXPECT_EQ(text, "call");
}

TEST(ReplayScript, AWrongLineIsNamed) {
  TempDir dir;
  for (const char* bad : {"{\"text\":\"one\"}\n{\"txt\":\"two\"}", "{\"text\":\"one\"}\n[]",
                          "{\"text\":\"one\"}\n{}", "{\"text\":\"one\"}\n{"}) {
    auto script = ReplayScript::load(write_file(dir, bad));
    ASSERT_FALSE(script) << bad;
    EXPECT_NE(script.error().message.find("answers.jsonl:2: "), std::string::npos) << script.error().message;
  }
}

}  // namespace
}  // namespace kvasir
