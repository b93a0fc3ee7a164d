// Recursive descent over the code points of a pattern.
#include <fmt/core.h>

#include <optional>
#include <string>
#include <utility>

#include "grammar/pattern_tree.h"

namespace kvasir {
namespace {

constexpr int kMaxNesting = 100;
constexpr uint32_t kMaxRepeat = 5000;
constexpr uint32_t kEndOfPattern = UINT32_MAX;

CodePointSet digits() { return {{'0', '9'}}; }
CodePointSet word() { return normalized({{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}}); }
CodePointSet blanks() {  // WhiteSpace and LineTerminator of ECMA-262
  return normalized({{9, 13},
                     {32, 32},
                     {0xa0, 0xa0},
                     {0x1680, 0x1680},
                     {0x2000, 0x200a},
                     {0x2028, 0x2029},
                     {0x202f, 0x202f},
                     {0x205f, 0x205f},
                     {0x3000, 0x3000},
                     {0xfeff, 0xfeff}});
}
CodePointSet line_ends() { return normalized({{10, 10}, {13, 13}, {0x2028, 0x2029}}); }

PatternNode set_node(CodePointSet set) { return {PatternNode::Kind::kSet, std::move(set)}; }

class PatternParser {
 public:
  explicit PatternParser(std::string_view pattern) {
    for (size_t at = 0; at < pattern.size();) text_.push_back(next_code_point(pattern, at));
  }

  Result<PatternNode> parse() {
    KVASIR_TRY(PatternNode node, choice(0));
    if (at_ < text_.size()) return invalid("')' without '('");
    return node;
  }

 private:
  uint32_t peek(size_t ahead = 0) const {
    return at_ + ahead < text_.size() ? text_[at_ + ahead] : kEndOfPattern;
  }
  bool take(uint32_t c) {
    if (peek() != c) return false;
    ++at_;
    return true;
  }
  Error invalid(std::string_view what) const {
    return {ErrorCode::kInvalid, fmt::format("{} at character {} of the pattern", what, at_)};
  }
  Error unsupported(std::string_view what) const {
    return {ErrorCode::kUnsupported,
            fmt::format("{} (character {} of the pattern) is not supported", what, at_)};
  }

  Result<PatternNode> choice(int nesting) {
    if (nesting > kMaxNesting) return unsupported("a group this deep");
    PatternNode out{PatternNode::Kind::kChoice};
    do {
      KVASIR_TRY(PatternNode one, sequence(nesting));
      out.children.push_back(std::move(one));
    } while (take('|'));
    if (out.children.size() == 1) return std::move(out.children[0]);
    return out;
  }

  Result<PatternNode> sequence(int nesting) {
    PatternNode out{PatternNode::Kind::kSequence};
    while (peek() != kEndOfPattern && peek() != '|' && peek() != ')') {
      KVASIR_TRY(PatternNode item, atom(nesting));
      KVASIR_TRY(item, repeated(std::move(item)));
      out.children.push_back(std::move(item));
    }
    return out;
  }

  Result<PatternNode> repeated(PatternNode item) {
    PatternNode out{PatternNode::Kind::kRepeat};
    if (take('*')) {
      out.min = 0;
    } else if (take('+')) {
      out.min = 1;
    } else if (take('?')) {
      out.max = 1;
    } else if (peek() == '{') {
      ++at_;
      const std::optional<uint32_t> min = number();
      if (!min) return invalid("a '{' that is no repetition");
      out.min = out.max = *min;
      if (take(',')) out.max = number().value_or(kUnbounded);
      if (!take('}') || out.max < out.min) return invalid("a bad repetition");
      if (out.min > kMaxRepeat || (out.max != kUnbounded && out.max > kMaxRepeat)) {
        return unsupported("a repetition this large");
      }
    } else {
      return item;
    }
    if (item.kind == PatternNode::Kind::kBegin || item.kind == PatternNode::Kind::kEnd) {
      return invalid("an anchor that is repeated");
    }
    take('?');  // lazy or not, the texts are the same
    out.children.push_back(std::move(item));
    if (peek() == '*' || peek() == '+' || peek() == '?') return invalid("nothing to repeat");
    return out;
  }

  // Digits; a value too large for the bound stays too large.
  std::optional<uint32_t> number() {
    if (peek() < '0' || peek() > '9') return std::nullopt;
    uint32_t value = 0;
    for (; peek() >= '0' && peek() <= '9'; ++at_) {
      value = value > kMaxRepeat ? value : value * 10 + (peek() - '0');
    }
    return value;
  }

  Result<PatternNode> atom(int nesting) {
    const uint32_t c = peek();
    switch (c) {
      case '^':
        ++at_;
        return PatternNode{PatternNode::Kind::kBegin};
      case '$':
        ++at_;
        return PatternNode{PatternNode::Kind::kEnd};
      case '.':
        ++at_;
        return set_node(complement(line_ends()));
      case '(':
        return group(nesting);
      case '[':
        return char_class();
      case '*':
      case '+':
      case '?':
        return invalid("nothing to repeat");
      case '\\': {
        KVASIR_TRY(CodePointSet set, escape(false));
        return set_node(std::move(set));
      }
      default:
        ++at_;
        return set_node({{c, c}});
    }
  }

  Result<PatternNode> group(int nesting) {
    ++at_;
    if (take('?')) {
      if (peek() == '=' || peek() == '!') return unsupported("look-ahead");
      if (take('<')) {
        if (peek() == '=' || peek() == '!') return unsupported("look-behind");
        while (peek() != '>' && peek() != kEndOfPattern) ++at_;
        if (!take('>')) return invalid("a group name without '>'");
      } else if (!take(':')) {
        return unsupported("a group of this kind");
      }
    }
    KVASIR_TRY(PatternNode node, choice(nesting + 1));
    if (!take(')')) return invalid("'(' without ')'");
    return node;
  }

  Result<PatternNode> char_class() {
    ++at_;
    const bool inverted = take('^');
    CodePointSet set;
    while (!take(']')) {
      if (peek() == kEndOfPattern) return invalid("'[' without ']'");
      KVASIR_TRY(CodePointSet lo, class_item());
      if (peek() == '-' && peek(1) != ']' && peek(1) != kEndOfPattern) {
        ++at_;
        KVASIR_TRY(CodePointSet hi, class_item());
        if (!is_single(lo) || !is_single(hi) || lo[0].lo > hi[0].lo) return invalid("a bad range");
        lo = {{lo[0].lo, hi[0].lo}};
      }
      set.insert(set.end(), lo.begin(), lo.end());
    }
    set = normalized(std::move(set));
    return set_node(inverted ? complement(set) : set);
  }

  static bool is_single(const CodePointSet& set) { return set.size() == 1 && set[0].lo == set[0].hi; }

  Result<CodePointSet> class_item() {
    if (peek() == '\\') return escape(true);
    const uint32_t c = peek();
    ++at_;
    return CodePointSet{{c, c}};
  }

  Result<CodePointSet> escape(bool in_class) {
    ++at_;
    const uint32_t c = peek();
    if (c == kEndOfPattern) return invalid("a '\\' at the end");
    ++at_;
    switch (c) {
      case 'd':
        return digits();
      case 'D':
        return complement(digits());
      case 'w':
        return word();
      case 'W':
        return complement(word());
      case 's':
        return blanks();
      case 'S':
        return complement(blanks());
      case 'b':
        if (in_class) return CodePointSet{{8, 8}};
        return unsupported("\\b");
      case 'B':
        return unsupported("\\B");
      case 'p':
      case 'P':
        return unsupported("\\p{}");
      case 'k':
        return unsupported("a back reference");
      default:
        return single_escape(c);
    }
  }

  Result<CodePointSet> single_escape(uint32_t c) {
    if (c >= '1' && c <= '9') return unsupported("a back reference");
    uint32_t value = c;
    if (c == 't') value = 9;
    if (c == 'n') value = 10;
    if (c == 'v') value = 11;
    if (c == 'f') value = 12;
    if (c == 'r') value = 13;
    if (c == '0') value = 0;
    if (c == 'c') {
      const uint32_t letter = peek() | 32;
      if (letter < 'a' || letter > 'z') return invalid("a bad \\c");
      ++at_;
      value = letter - 'a' + 1;
    } else if (c == 'x' || c == 'u') {
      KVASIR_TRY(value, hex_escape(c == 'x' ? 2 : 4));
    } else if (value == c && (c > 127 || (c | 32) - 'a' < 26)) {
      return invalid("an unknown escape");
    }
    return CodePointSet{{value, value}};
  }

  Result<uint32_t> hex_escape(int digits_wanted) {
    if (digits_wanted == 4 && take('{')) {
      uint32_t value = 0;
      for (int digit; (digit = hex_digit()) >= 0;) {
        value = value * 16 + static_cast<uint32_t>(digit);
        if (value > kMaxCodePoint) return invalid("a code point that does not exist");
      }
      if (!take('}')) return invalid("a bad \\u{}");
      return value;
    }
    KVASIR_TRY(uint32_t value, hex_digits(digits_wanted));
    if (value >= 0xd800 && value < 0xdc00 && peek() == '\\' && peek(1) == 'u') {  // a pair is one character
      at_ += 2;
      KVASIR_TRY(const uint32_t low, hex_digits(4));
      if (low < 0xdc00 || low > 0xdfff) return invalid("half a surrogate pair");
      return 0x10000 + ((value - 0xd800) << 10) + (low - 0xdc00);
    }
    return value;
  }

  Result<uint32_t> hex_digits(int wanted) {
    uint32_t value = 0;
    for (int i = 0; i < wanted; ++i) {
      const int digit = hex_digit();
      if (digit < 0) return invalid("a bad \\x or \\u");
      value = value * 16 + static_cast<uint32_t>(digit);
    }
    return value;
  }

  int hex_digit() {
    const uint32_t c = peek();
    const uint32_t lower = c | 32;
    int value = -1;
    if (c >= '0' && c <= '9') value = static_cast<int>(c - '0');
    if (lower >= 'a' && lower <= 'f' && c < 128) value = static_cast<int>(lower - 'a') + 10;
    if (value >= 0) ++at_;
    return value;
  }

  std::vector<uint32_t> text_;
  size_t at_ = 0;
};

}  // namespace

Result<PatternNode> parse_pattern(std::string_view pattern) { return PatternParser(pattern).parse(); }

}  // namespace kvasir
