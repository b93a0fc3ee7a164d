// Runs an OutputParser over a completion, cut in every way the tests promise: whole tokens, each 2-way split
// and single bytes. All of them must give the same output.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include "text/output_parser.h"
#include "text/special_text.h"

namespace kvasir {

struct Piece {
  std::string text;
  TextKind kind = TextKind::kPlain;
};
using Sample = std::vector<Piece>;

// Text in which the contents of the tokens that structure a completion are those tokens.
inline Sample sample(std::string_view text) {
  static constexpr std::array<std::string_view, 4> kTokens = {kThinkText, kEndThinkText, kDsmlText, kEosText};
  Sample out;
  while (!text.empty()) {
    size_t at = text.size();
    std::string_view token;
    for (std::string_view t : kTokens) {
      if (const size_t found = text.find(t); found < at) {
        at = found;
        token = t;
      }
    }
    if (at > 0) out.push_back({std::string(text.substr(0, at)), TextKind::kPlain});
    if (!token.empty()) out.push_back({std::string(token), TextKind::kSpecial});
    text.remove_prefix(at + token.size());
  }
  return out;
}

// The same characters made of ordinary tokens.
inline Sample ordinary(std::string_view text) { return {{std::string(text), TextKind::kPlain}}; }

inline Sample operator+(Sample a, const Sample& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

struct Output {
  std::string reasoning;
  std::string content;
  std::vector<std::pair<std::string, std::string>> calls;  // name, arguments
  FinishReason finish = FinishReason::kStop;
  std::string unusable;  // its reason
  size_t cut_at = 0;
  std::string block;  // the executed one
  size_t after_block = 0;
  size_t think_tokens = 0;

  bool operator==(const Output&) const = default;
};

inline void PrintTo(const Output& o, std::ostream* out) {
  *out << "reasoning " << JsonValue(o.reasoning).dump() << " content " << JsonValue(o.content).dump();
  for (const auto& [name, arguments] : o.calls) *out << " call " << name << " " << arguments;
  *out << " finish " << static_cast<int>(o.finish) << " unusable '" << o.unusable << "' at " << o.cut_at
       << " block " << JsonValue(o.block).dump() << " after " << o.after_block << " think " << o.think_tokens;
}

inline void add_deltas(const std::vector<Delta>& deltas, Output& out) {
  for (const Delta& delta : deltas) {
    switch (delta.kind) {
      case Delta::Kind::kReasoning:
        out.reasoning += delta.text;
        break;
      case Delta::Kind::kContent:
        out.content += delta.text;
        break;
      case Delta::Kind::kToolCall:
        EXPECT_EQ(delta.call, static_cast<int>(out.calls.size()));
        out.calls.push_back({delta.text, ""});
        break;
      case Delta::Kind::kArguments:
        out.calls.at(delta.call).second += delta.text;
        break;
    }
  }
}

inline void add_outcome(const OutputParser& parser, Output& out) {
  out.finish = parser.finish_reason();
  if (const UnusableBlock* unusable = parser.unusable()) {
    out.unusable = unusable->reason;
    out.cut_at = unusable->cut_at;
  }
  if (const auto block = parser.block()) {
    out.block = parser.sampled().substr(block->begin, block->end - block->begin);
  }
  out.after_block = parser.dropped().after_block;
  out.think_tokens = parser.dropped().think_tokens;
}

inline Output parse_whole(const Sample& pieces, const OutputFormat& format,
                          EndCause cause = EndCause::kStop) {
  OutputParser parser(format);
  Output out;
  for (const Piece& p : pieces) add_deltas(parser.push(p.text, p.kind), out);
  add_deltas(parser.finish(cause), out);
  add_outcome(parser, out);
  return out;
}

// Cuts each piece at byte `at` of the whole sample; at every byte if `at` is npos.
inline Sample cut(const Sample& pieces, size_t at) {
  Sample out;
  size_t begin = 0;
  for (const Piece& p : pieces) {
    if (at == std::string::npos) {
      for (char c : p.text) out.push_back({std::string(1, c), p.kind});
    } else if (at > begin && at < begin + p.text.size()) {
      out.push_back({p.text.substr(0, at - begin), p.kind});
      out.push_back({p.text.substr(at - begin), p.kind});
    } else {
      out.push_back(p);
    }
    begin += p.text.size();
  }
  return out;
}

// PAR-6: the output, after checking that it does not depend on where the text was cut.
inline Output parse_every_way(const Sample& pieces, const OutputFormat& format,
                              EndCause cause = EndCause::kStop) {
  const Output whole = parse_whole(pieces, format, cause);
  size_t bytes = 0;
  for (const Piece& p : pieces) bytes += p.text.size();
  EXPECT_EQ(parse_whole(cut(pieces, std::string::npos), format, cause), whole) << "in single bytes";
  Sample joined;  // neighbours of one kind in one push, so that a split has two long sides
  for (const Piece& p : pieces) {
    if (!joined.empty() && joined.back().kind == p.kind) {
      joined.back().text += p.text;
    } else {
      joined.push_back(p);
    }
  }
  for (size_t at = 0; at < bytes; ++at) {
    const Output split = parse_whole(cut(joined, at), format, cause);
    if (split == whole) continue;
    EXPECT_EQ(split, whole) << "split at byte " << at;
    break;
  }
  const bool quotes_markup = std::any_of(pieces.begin(), pieces.end(), [](const Piece& p) {
    return p.kind == TextKind::kPlain && p.text.find(kDsmlText) != std::string::npos;
  });
  for (const std::string* text : {&whole.reasoning, &whole.content}) {
    EXPECT_TRUE(quotes_markup || text->find(kDsmlText) == std::string::npos) << *text;
  }
  for (const auto& [name, arguments] : whole.calls) {
    const auto parsed = JsonValue::parse(arguments);
    EXPECT_TRUE(parsed && parsed->is_object()) << arguments;
    EXPECT_TRUE(quotes_markup || arguments.find(kDsmlText) == std::string::npos) << arguments;
  }
  return whole;
}

}  // namespace kvasir
