// CodePointDfa: a set of texts as a deterministic automaton over code points.
//
// Patterns, formats, lengths and lists of names are made here, where a character is one step, and combined;
// byte_dfa.h turns the result into bytes of JSON or of plain text. Surrogates are in no edge. A value type.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace kvasir {

inline constexpr uint32_t kMaxCodePoint = 0x10ffff;

struct CodePointRange {
  uint32_t lo = 0;
  uint32_t hi = 0;  // included
};

// Ascending, disjoint, not touching, no surrogates.
using CodePointSet = std::vector<CodePointRange>;
CodePointSet normalized(CodePointSet ranges);
CodePointSet complement(const CodePointSet& set);
inline CodePointSet any_code_point() { return normalized({{0, kMaxCodePoint}}); }

// The next code point of valid UTF-8; `at` moves behind it.
uint32_t next_code_point(std::string_view text, size_t& at);
size_t count_code_points(std::string_view text);

struct CodePointDfa {
  static constexpr int32_t kNone = -1;

  struct Edge {
    uint32_t lo = 0;
    uint32_t hi = 0;
    int32_t to = 0;
  };
  struct State {
    std::vector<Edge> edges;  // ascending, disjoint
    int32_t label = kNone;    // of the texts that end here; kNone: none does
  };

  std::vector<State> states;  // the first is the start; none: no text at all

  int32_t next(int32_t state, uint32_t c) const;
  int32_t label_of(std::string_view text) const;  // kNone: the text is not in the set
};

// Texts of `min` to `max` code points (kUnbounded: no upper bound), label 0. As many states as the larger
// bound.
inline constexpr uint32_t kUnbounded = UINT32_MAX;
CodePointDfa text_of_length(uint32_t min, uint32_t max);
// Every text: label i for names[i], names.size() for the rest. Names differ.
CodePointDfa names_and_rest(const std::vector<std::string>& names);

// Every text: label 0 for those of `dfa`, 1 for the rest.
CodePointDfa completed(const CodePointDfa& dfa);

// Texts of both, with the label that `join` makes of theirs (kNone: leave it out). kUnsupported: the result
// has more than `max_states`.
using JoinLabels = std::function<int32_t(int32_t, int32_t)>;
Result<CodePointDfa> intersect(const CodePointDfa& a, const CodePointDfa& b, const JoinLabels& join,
                               size_t max_states);
// Removes what no text passes through.
CodePointDfa trimmed(const CodePointDfa& dfa);

}  // namespace kvasir
