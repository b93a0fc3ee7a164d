// ByteDfa: a set of byte strings as a deterministic automaton: what a scalar, a key or a raw value may be.
//
// Made from a CodePointDfa by spelling its texts as a JSON string, as a key or as plain text, or byte by byte
// through ByteDfaBuilder. No state is a dead end. Immutable, shared, any thread.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "grammar/code_point_dfa.h"

namespace kvasir {

class ByteDfa {
 public:
  static constexpr int32_t kNone = -1;

  // The start is state 0. kNone: no byte string goes on like this.
  int32_t next(int32_t state, uint8_t byte) const {
    return table_[static_cast<size_t>(state) * num_classes_ + class_of_[byte]];
  }
  int32_t label(int32_t state) const { return labels_[static_cast<size_t>(state)]; }
  bool accepts(int32_t state) const { return label(state) != kNone; }
  size_t num_states() const { return labels_.size(); }
  bool same_as(const ByteDfa& other) const;
  size_t content_hash() const;
  // Tells automata apart, in the whole process.
  uint64_t id() const { return id_; }
  size_t bytes() const {
    return sizeof *this + table_.size() * sizeof(int32_t) + labels_.size() * sizeof(int32_t);
  }

 private:
  friend class ByteDfaBuilder;

  std::array<uint8_t, 256> class_of_{};  // bytes that no state tells apart
  size_t num_classes_ = 0;
  std::vector<int32_t> table_;
  std::vector<int32_t> labels_;
  uint64_t id_ = 0;
};

using SharedDfa = std::shared_ptr<const ByteDfa>;

class ByteDfaBuilder {
 public:
  int32_t add_state(int32_t label = ByteDfa::kNone);
  void set_label(int32_t state, int32_t label) { labels_[static_cast<size_t>(state)] = label; }
  void set(int32_t from, uint8_t byte, int32_t to) { rows_[static_cast<size_t>(from)][byte] = to; }
  void set_range(int32_t from, uint8_t lo, uint8_t hi, int32_t to);
  int32_t next(int32_t state, uint8_t byte) const { return rows_[static_cast<size_t>(state)][byte]; }
  size_t num_states() const { return rows_.size(); }
  // A byte string from state 0; a shared beginning is one path.
  void add_word(std::string_view word, int32_t label = 0);

  // Null: the set is empty.
  SharedDfa finish() const;

 private:
  std::vector<std::array<int32_t, 256>> rows_;
  std::vector<int32_t> labels_;
};

// How a text is spelled.
enum class TextForm {
  kJson,  // a JSON string with both quotes: raw UTF-8; short escapes, \/ and \u00XX for control characters
  kKey,   // after the opening quote, closing one included: spelled as JsonValue::dump() does and no other way
  kName,  // of a DSML parameter: raw, closing quote included
  kRaw,   // a DSML value: raw
};

// Null for no text at all; kUnsupported: more than `max_states`. Labels are kept.
Result<SharedDfa> spelled(const CodePointDfa& text, TextForm form, size_t max_states);

// Any string: in JSON with every escape of RFC 8259 (surrogates in pairs only), and raw. `body` is the state
// between two characters.
struct AnyText {
  SharedDfa dfa;
  int32_t body = 0;
};
const AnyText& any_json_string();
const AnyText& any_raw_text();

}  // namespace kvasir
