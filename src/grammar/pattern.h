// Patterns: the regular expressions of JSON Schema (ECMA-262 with flag u) as automata over code points.
//
// Understood: characters, `.`, classes, \d \w \s \t \n \r \f \v \0 \cX \xHH \uHHHH \u{H} and escaped
// punctuation, groups (capturing, named and not), |, * + ? {n} {n,} {n,m} also lazy, ^ and $ anywhere.
// Refused, with what and where: look-around, \b \B, back references, \p{}. As the standard says, a pattern
// may match anywhere in the text unless it is anchored. Pure functions.
#pragma once

#include <string_view>

#include "base/result.h"
#include "grammar/code_point_dfa.h"

namespace kvasir {

// The texts that match, label 0. kInvalid: not a pattern. kUnsupported: one that cannot be honoured, because
// of what it says or because its automaton would have more than a few thousand states.
Result<CodePointDfa> pattern_dfa(std::string_view pattern);

}  // namespace kvasir
