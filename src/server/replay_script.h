// ReplayScript: answers written down beforehand, for tests of clients (`kvasir serve --replay FILE.jsonl`).
//
// Each line of the file is one answer, {"match": "...", "text": "...", "repeat": true}:
//   "text"   what is sampled, special tokens written out ("</think>", "<｜DSML｜tool_calls>"); the end token
//   follows it "match"  optional: only a request whose last message holds this text takes the line "repeat"
//   optional, true: the line is not used up
// A request takes the first line that fits and has not been used; with none left it is generated as usual.
// The model really computes every step and the cache really fills: only the choice of each token is forced.
// Any thread.
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace kvasir {

class ReplayScript {
 public:
  // Errors name the file and the line.
  static Result<std::unique_ptr<ReplayScript>> load(const std::string& file);

  // The text for a request whose last message is `last_message`. False: no line is left for it.
  bool take(std::string_view last_message, bool offers_tools, std::string& text);

 private:
  struct Line {
    std::string match, text;
    std::optional<bool> tools;
    bool repeat = false, used = false;
  };
  std::mutex mutex_;
  std::vector<Line> lines_;  // guarded by mutex_
};

}  // namespace kvasir
