// Text ends before a stop text, however it was cut into pieces.
#include "text/stop_text.h"

#include <gtest/gtest.h>

namespace kvasir {
namespace {

std::string run(std::vector<std::string> stops, const std::string& text, size_t chunk, bool& found) {
  StopText stop(std::move(stops));
  std::string out;
  for (size_t at = 0; at < text.size() && !stop.found(); at += chunk)
    out += stop.push(std::string_view(text).substr(at, chunk));
  out += stop.finish();
  found = stop.found();
  return out;
}

TEST(StopText, EndsBeforeTheFirstStringForAnyChunking) {
  for (size_t chunk = 1; chunk < 12; ++chunk) {
    bool found = false;
    EXPECT_EQ(run({"END", "stop"}, "one two stop three END", chunk, found), "one two ") << chunk;
    EXPECT_TRUE(found);
    EXPECT_EQ(run({"\n\n"}, "a\nb\n\nc", chunk, found), "a\nb") << chunk;
    EXPECT_TRUE(found);
  }
}

TEST(StopText, ShowsEverythingWhenNothingMatches) {
  for (size_t chunk = 1; chunk < 8; ++chunk) {
    bool found = true;
    EXPECT_EQ(run({"ENDING"}, "the END", chunk, found), "the END")
        << "a tail that begins a stop string comes at the end";
    EXPECT_FALSE(found);
  }
}

TEST(StopText, AFailedBeginningIsShownAndMayBeginAgain) {
  StopText stop({"aab"});
  EXPECT_EQ(stop.push("aa"), "");
  EXPECT_EQ(stop.push("a"), "a");  // "aa" is still a possible beginning
  EXPECT_EQ(stop.push("b"), "");
  EXPECT_TRUE(stop.found());
}

}  // namespace
}  // namespace kvasir
