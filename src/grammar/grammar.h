// Grammar: what a constrained text may be, compiled: values, objects, arrays and tool blocks over byte
// automata.
//
// A value is a choice of alternatives; objects and arrays refer to values by number, so recursion is a loop
// in the numbers. Every alternative can be finished: what no text satisfies was removed. `height` is how many
// levels an alternative needs below itself at least; beyond a depth only the lowest are taken, so that every
// text ends within JsonValue's own limit on depth.
// Immutable and shared between requests and threads. Built by GrammarBuilder; run by StackMachine.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "grammar/byte_dfa.h"

namespace kvasir {

inline constexpr uint32_t kNoNode = UINT32_MAX;

// Names of an object, by number.
struct PropertySet {
  static constexpr size_t kMaxSize = 256;
  std::array<uint64_t, 4> words{};

  bool operator==(const PropertySet&) const = default;
  bool has(size_t i) const { return (words[i / 64] >> (i % 64) & 1) != 0; }
  void add(size_t i) { words[i / 64] |= uint64_t{1} << (i % 64); }
  bool empty() const { return (words[0] | words[1] | words[2] | words[3]) == 0; }
  size_t count() const;
  bool intersects(const PropertySet& other) const;
  PropertySet operator&(const PropertySet& other) const;
  PropertySet operator|(const PropertySet& other) const;
  PropertySet without(const PropertySet& other) const;
};

struct Alternative {
  enum class Kind : uint8_t { kDfa, kCounted, kObject, kArray };

  Kind kind = Kind::kDfa;
  uint32_t index = 0;  // into the table of its kind
  uint32_t height = 0;
};

struct ValueRule {
  std::vector<Alternative> alternatives;
  uint32_t height = 0;  // the lowest alternative's
};

// Any text of min to max code points.
struct CountedRule {
  SharedDfa dfa;
  int32_t body = 0;  // state between two characters
  uint32_t min = 0;
  uint32_t max = UINT32_MAX;
};

struct ObjectRule {
  // Labels of the key automaton: a property's number, or values.size() - 1 for a key of no property.
  SharedDfa keys;
  struct Reach {  // what may become of a key that has come to a state of `keys`
    PropertySet properties;
    bool other = false;
  };
  std::vector<Reach> reach;
  bool takes_other = false;

  struct Value {
    uint32_t json = kNoNode;
    uint32_t raw = kNoNode;  // tool parameters: as string="true"
  };
  std::vector<Value> values;
  PropertySet properties;  // all that may appear
  PropertySet required;
  uint32_t min_properties = 0;
  uint32_t max_properties = UINT32_MAX;
};

struct ArrayRule {
  std::vector<uint32_t> prefix;
  uint32_t rest = kNoNode;
  uint32_t min = 0;
  uint32_t max = UINT32_MAX;

  uint32_t item(uint32_t i) const { return i < prefix.size() ? prefix[i] : rest; }
};

// One tool block, from some point of its opening on, to its closing tag.
struct BlockRule {
  SharedDfa tool_names;                      // with the closing quote; label: index into tools
  std::vector<std::vector<uint32_t>> tools;  // the object rules of a tool's parameters: a choice
  bool one_call = false;
};

// Where the constrained text begins.
struct GrammarStart {
  uint32_t value = kNoNode;  // one JSON value
  bool block = false;        // a tool block
};

struct Grammar {
  std::vector<ValueRule> values;
  std::vector<SharedDfa> dfas;
  std::vector<CountedRule> counted;
  std::vector<ObjectRule> objects;
  std::vector<ArrayRule> arrays;
  BlockRule block;
  GrammarStart start;
  uint64_t id = 0;  // tells grammars apart, in the whole process

  // Where something weaker than asked for was compiled, and why: only if the caller allowed it.
  std::vector<std::string> weakened;

  size_t bytes() const;
};

using SharedGrammar = std::shared_ptr<const Grammar>;

}  // namespace kvasir
