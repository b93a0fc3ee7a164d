// finish() drops states that lead nowhere and merges bytes that no state tells apart, so that a row is as
// wide as the automaton needs and not 256 entries.
#include "grammar/byte_dfa.h"

#include <atomic>
#include <map>
#include <string>
#include <utility>

namespace kvasir {

bool ByteDfa::same_as(const ByteDfa& other) const {
  return class_of_ == other.class_of_ && table_ == other.table_ && labels_ == other.labels_;
}

size_t ByteDfa::content_hash() const {
  uint64_t h = 14695981039346656037u;
  for (const auto* part : {&table_, &labels_}) {
    for (int32_t x : *part) h = (h ^ static_cast<uint32_t>(x)) * 1099511628211u;
  }
  return h;
}

int32_t ByteDfaBuilder::add_state(int32_t label) {
  rows_.emplace_back().fill(ByteDfa::kNone);
  labels_.push_back(label);
  return static_cast<int32_t>(rows_.size()) - 1;
}

void ByteDfaBuilder::set_range(int32_t from, uint8_t lo, uint8_t hi, int32_t to) {
  for (int b = lo; b <= hi; ++b) set(from, static_cast<uint8_t>(b), to);
}

void ByteDfaBuilder::add_word(std::string_view word, int32_t label) {
  if (rows_.empty()) add_state();
  int32_t state = 0;
  for (char c : word) {
    const auto byte = static_cast<uint8_t>(c);
    if (next(state, byte) == ByteDfa::kNone) {
      const int32_t fresh = add_state();
      set(state, byte, fresh);
    }
    state = next(state, byte);
  }
  set_label(state, label);
}

SharedDfa ByteDfaBuilder::finish() const {
  static std::atomic<uint64_t> next_id = 1;
  const size_t n = rows_.size();
  std::vector<std::vector<int32_t>> from(n);
  std::vector<int32_t> useful;
  std::vector<int32_t> renamed(n, ByteDfa::kNone);
  for (size_t i = 0; i < n; ++i) {
    int32_t before = ByteDfa::kNone;
    for (int32_t to : rows_[i]) {
      if (to != ByteDfa::kNone && to != before)
        from[static_cast<size_t>(to)].push_back(static_cast<int32_t>(i));
      before = to;
    }
    if (labels_[i] == ByteDfa::kNone) continue;
    useful.push_back(static_cast<int32_t>(i));
    renamed[i] = 0;
  }
  for (size_t i = 0; i < useful.size(); ++i) {
    for (int32_t s : from[static_cast<size_t>(useful[i])]) {
      if (renamed[static_cast<size_t>(s)] != ByteDfa::kNone) continue;
      renamed[static_cast<size_t>(s)] = 0;
      useful.push_back(s);
    }
  }
  if (n == 0 || renamed[0] == ByteDfa::kNone) return nullptr;
  std::vector<size_t> kept;
  for (size_t i = 0; i < n; ++i) {
    if (renamed[i] == ByteDfa::kNone) continue;
    renamed[i] = static_cast<int32_t>(kept.size());
    kept.push_back(i);
  }
  const auto target = [&](size_t state, size_t byte) {
    const int32_t to = rows_[state][byte];
    return to == ByteDfa::kNone ? ByteDfa::kNone : renamed[static_cast<size_t>(to)];
  };
  auto dfa = std::make_shared<ByteDfa>();
  std::map<std::vector<int32_t>, uint8_t> classes;
  std::vector<const std::vector<int32_t>*> columns;
  for (size_t b = 0; b < 256; ++b) {
    std::vector<int32_t> column;
    for (size_t i : kept) column.push_back(target(i, b));
    const auto [at, added] = classes.try_emplace(std::move(column), static_cast<uint8_t>(columns.size()));
    if (added) columns.push_back(&at->first);
    dfa->class_of_[b] = at->second;
  }
  dfa->num_classes_ = columns.size();
  for (size_t i = 0; i < kept.size(); ++i) {
    for (const auto* column : columns) dfa->table_.push_back((*column)[i]);
    dfa->labels_.push_back(labels_[kept[i]]);
  }
  dfa->id_ = next_id++;
  return dfa;
}

namespace {

constexpr char kLowerHex[] = "0123456789abcdef";
constexpr char kUpperHex[] = "0123456789ABCDEF";
constexpr std::pair<char, uint32_t> kShortEscapes[] = {{'"', '"'}, {'\\', '\\'}, {'b', 8}, {'f', 12},
                                                       {'n', 10},  {'r', 13},    {'t', 9}};

// Spells one CodePointDfa. Every state of it becomes a byte state; between them are the states inside a
// character or an escape.
class Speller {
 public:
  Speller(const CodePointDfa& text, TextForm form, size_t max_states)
      : text_(text), form_(form), max_states_(max_states) {}

  Result<SharedDfa> spell() {
    if (text_.states.empty()) return SharedDfa();
    const bool quoted = form_ == TextForm::kJson;
    if (quoted) builder_.add_state();
    for (size_t i = 0; i < text_.states.size(); ++i) states_.push_back(builder_.add_state());
    if (quoted) builder_.set(0, '"', states_[0]);
    for (size_t i = 0; i < text_.states.size(); ++i) {
      add_characters(static_cast<int32_t>(i));
      if (builder_.num_states() > max_states_) {
        return Error{ErrorCode::kUnsupported, "the strings it allows need too many states"};
      }
      if (form_ == TextForm::kJson || form_ == TextForm::kKey) add_escapes(static_cast<int32_t>(i));
      add_end(i);
    }
    return builder_.finish();
  }

 private:
  bool is_raw(uint32_t c) const {
    switch (form_) {
      case TextForm::kJson:
      case TextForm::kKey:
        return c >= 0x20 && c != '"' && c != '\\';
      case TextForm::kName:
        return c >= 0x20 && c != '"' && c != '<' && c != '>';
      case TextForm::kRaw:
        return true;
    }
    return false;
  }

  void add_end(size_t i) {
    const int32_t label = text_.states[i].label;
    if (label == CodePointDfa::kNone) return;
    if (form_ == TextForm::kRaw) return builder_.set_label(states_[i], label);
    const auto [end, added] = ends_.try_emplace(label, 0);
    if (added) end->second = builder_.add_state(label);
    builder_.set(states_[i], '"', end->second);
  }

  int32_t after(int32_t state, uint32_t c) const {
    const int32_t to = text_.next(state, c);
    return to == CodePointDfa::kNone ? ByteDfa::kNone : states_[static_cast<size_t>(to)];
  }

  void add_characters(int32_t i) {
    const int32_t from = states_[static_cast<size_t>(i)];
    for (uint32_t c = 0; c < 0x80; ++c) {
      if (is_raw(c)) builder_.set(from, static_cast<uint8_t>(c), after(i, c));
    }
    for (uint32_t lead = 0xc2; lead < 0xf5; ++lead) {
      const int more = lead < 0xe0 ? 1 : lead < 0xf0 ? 2 : 3;
      const uint32_t bits = lead & (more == 1 ? 31u : more == 2 ? 15u : 7u);
      const uint32_t lowest = more == 1 ? 0x80u : more == 2 ? 0x800u : 0x10000u;
      builder_.set(from, static_cast<uint8_t>(lead), block(i, bits << (6 * more), more, lowest));
    }
  }

  // The byte state from which `more` continuation bytes choose one of the characters from `base` on.
  // Characters below `lowest` are spelled shorter.
  int32_t block(int32_t i, uint32_t base, int more, uint32_t lowest) {
    if (more == 0) return base < lowest ? ByteDfa::kNone : after(i, base);
    const uint32_t last = base + (1u << (6 * more)) - 1;
    const auto& edges = text_.states[static_cast<size_t>(i)].edges;
    bool any = false;
    for (const auto& e : edges) {  // few
      if (e.hi < base || e.lo > last) continue;
      if (e.lo <= base && e.hi >= last && base >= lowest)
        return uniform(states_[static_cast<size_t>(e.to)], more);
      any = true;
    }
    if (!any || last < lowest) return ByteDfa::kNone;
    const int32_t state = builder_.add_state();
    for (uint32_t j = 0; j < 64; ++j) {
      const int32_t to = block(i, base + (j << (6 * (more - 1))), more - 1, lowest);
      builder_.set(state, static_cast<uint8_t>(0x80 + j), to);
    }
    return state;
  }

  // Any `more` continuation bytes lead to `to`.
  int32_t uniform(int32_t to, int more) {
    if (more == 0) return to;
    const auto [at, added] = uniform_.try_emplace({to, more}, 0);
    if (!added) return at->second;
    const int32_t rest = uniform(to, more - 1);
    const int32_t state = builder_.add_state();
    builder_.set_range(state, 0x80, 0xbf, rest);
    return uniform_[{to, more}] = state;
  }

  void add_escapes(int32_t i) {
    const int32_t escape = builder_.add_state();
    builder_.set(states_[static_cast<size_t>(i)], '\\', escape);
    for (const auto& [letter, c] : kShortEscapes)
      builder_.set(escape, static_cast<uint8_t>(letter), after(i, c));
    if (form_ == TextForm::kJson) builder_.set(escape, '/', after(i, '/'));
    const int32_t u = builder_.add_state(), u0 = builder_.add_state(), u00 = builder_.add_state();
    builder_.set(escape, 'u', u);
    builder_.set(u, '0', u0);
    builder_.set(u0, '0', u00);
    for (uint32_t high = 0; high < 2; ++high) {
      const int32_t digit = builder_.add_state();
      builder_.set(u00, static_cast<uint8_t>('0' + high), digit);
      for (uint32_t low = 0; low < 16; ++low) {
        const uint32_t c = high * 16 + low;
        const bool has_short = c == 8 || c == 9 || c == 10 || c == 12 || c == 13;
        if (form_ == TextForm::kKey && has_short) continue;
        builder_.set(digit, static_cast<uint8_t>(kLowerHex[low]), after(i, c));
        if (form_ == TextForm::kJson) builder_.set(digit, static_cast<uint8_t>(kUpperHex[low]), after(i, c));
      }
    }
  }

  const CodePointDfa& text_;
  TextForm form_;
  size_t max_states_;
  ByteDfaBuilder builder_;
  std::vector<int32_t> states_;
  std::map<int32_t, int32_t> ends_;
  std::map<std::pair<int32_t, int>, int32_t> uniform_;
};

void set_hex(ByteDfaBuilder& b, int32_t from, int lo, int hi, int32_t to) {
  for (int i = lo; i <= hi; ++i) {
    b.set(from, static_cast<uint8_t>(kLowerHex[i]), to);
    b.set(from, static_cast<uint8_t>(kUpperHex[i]), to);
  }
}

// The characters beyond ASCII in UTF-8, from `body` back to it.
void add_utf8(ByteDfaBuilder& b, int32_t body) {
  const int32_t one = b.add_state(), two = b.add_state(), three = b.add_state();
  const int32_t e0 = b.add_state(), ed = b.add_state(), f0 = b.add_state(), f4 = b.add_state();
  b.set_range(body, 0xc2, 0xdf, one);
  b.set_range(body, 0xe1, 0xef, two);
  b.set(body, 0xe0, e0);
  b.set(body, 0xed, ed);
  b.set_range(body, 0xf1, 0xf3, three);
  b.set(body, 0xf0, f0);
  b.set(body, 0xf4, f4);
  b.set_range(one, 0x80, 0xbf, body);
  b.set_range(two, 0x80, 0xbf, one);
  b.set_range(three, 0x80, 0xbf, two);
  b.set_range(e0, 0xa0, 0xbf, one);
  b.set_range(ed, 0x80, 0x9f, one);
  b.set_range(f0, 0x90, 0xbf, two);
  b.set_range(f4, 0x80, 0x8f, two);
}

AnyText make_json_string() {
  ByteDfaBuilder b;
  const int32_t start = b.add_state(), body = b.add_state(), end = b.add_state(0), escape = b.add_state();
  b.set(start, '"', body);
  b.set_range(body, 0x20, 0x7f, body);
  b.set(body, '"', end);
  b.set(body, '\\', escape);
  add_utf8(b, body);
  for (char c : std::string_view("\"\\/bfnrt")) b.set(escape, static_cast<uint8_t>(c), body);
  // \uHHHH, where D8..DB must be followed by \uDC..DF.
  const int32_t u = b.add_state(), h3 = b.add_state(), h2 = b.add_state(), h1 = b.add_state(),
                d = b.add_state();
  b.set(escape, 'u', u);
  set_hex(b, u, 0, 15, h3);
  set_hex(b, u, 13, 13, d);
  set_hex(b, h3, 0, 15, h2);
  set_hex(b, h2, 0, 15, h1);
  set_hex(b, h1, 0, 15, body);
  const int32_t p2 = b.add_state(), p1 = b.add_state(), slash = b.add_state(), low_u = b.add_state();
  const int32_t low_d = b.add_state(), low_hex = b.add_state();
  set_hex(b, d, 0, 7, h2);
  set_hex(b, d, 8, 11, p2);
  set_hex(b, p2, 0, 15, p1);
  set_hex(b, p1, 0, 15, slash);
  b.set(slash, '\\', low_u);
  const int32_t low_start = b.add_state();
  b.set(low_u, 'u', low_start);
  set_hex(b, low_start, 13, 13, low_d);
  set_hex(b, low_d, 12, 15, low_hex);
  set_hex(b, low_hex, 0, 15, h1);
  return {b.finish(), body};
}

AnyText make_raw_text() {
  ByteDfaBuilder b;
  const int32_t body = b.add_state(0);
  b.set_range(body, 0, 0x7f, body);
  add_utf8(b, body);
  return {b.finish(), body};
}

}  // namespace

Result<SharedDfa> spelled(const CodePointDfa& text, TextForm form, size_t max_states) {
  return Speller(text, form, max_states).spell();
}

const AnyText& any_json_string() {
  static const AnyText text = make_json_string();
  return text;
}

const AnyText& any_raw_text() {
  static const AnyText text = make_raw_text();
  return text;
}

}  // namespace kvasir
