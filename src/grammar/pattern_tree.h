// The syntax tree of a pattern, between pattern_parse.cc and pattern.cc. Internal to the two.
#pragma once

#include <string_view>
#include <vector>

#include "base/result.h"
#include "grammar/code_point_dfa.h"

namespace kvasir {

struct PatternNode {
  enum class Kind { kSet, kSequence, kChoice, kRepeat, kBegin, kEnd };

  Kind kind = Kind::kSequence;
  CodePointSet set = {};                   // kSet: one of these characters
  std::vector<PatternNode> children = {};  // kSequence, kChoice; kRepeat: one
  uint32_t min = 0;                        // kRepeat
  uint32_t max = kUnbounded;
};

Result<PatternNode> parse_pattern(std::string_view pattern);

}  // namespace kvasir
