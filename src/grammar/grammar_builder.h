// GrammarBuilder: collects values and rules while schemas are compiled, then finishes them into a Grammar.
//
// finish() finds the height of every value, removes what no text satisfies, and only then builds the automata
// of keys, from which a property that has no value must be absent. One thread, one grammar.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/result.h"
#include "grammar/code_point_dfa.h"
#include "grammar/grammar.h"
#include "grammar/schema.h"

namespace kvasir {

// An object before its keys are an automaton.
struct ObjectDraft {
  struct Property {
    std::string name;
    ObjectRule::Value value;
    bool allowed = true;  // by propertyNames
    bool required = false;
  };
  std::vector<Property> properties;
  ObjectRule::Value other;                          // of keys that are no property; none: there are none
  std::shared_ptr<const CodePointDfa> other_names;  // null: any
  uint32_t min_properties = 0;
  uint32_t max_properties = kUnbounded;
  TextForm form = TextForm::kKey;
  std::string path;
};

class GrammarBuilder {
 public:
  explicit GrammarBuilder(SchemaLimits limits = {});

  const SchemaLimits& limits() const { return limits_; }
  Grammar& grammar() { return *grammar_; }

  // A value without alternatives yet. kUnsupported: there are too many.
  Result<uint32_t> add_value(const std::string& path);
  void add_dfa(uint32_t value, SharedDfa dfa);
  Status add_text(uint32_t value, const CodePointDfa& text, TextForm form, const std::string& path);
  void add_counted(uint32_t value, CountedRule rule);
  void add_array(uint32_t value, ArrayRule rule);
  void add_object(uint32_t value, ObjectDraft draft);
  // An object rule that belongs to no value: the parameters of a tool.
  uint32_t add_parameters(ObjectDraft draft);

  // Makes every height final; add nothing afterwards.
  void settle();
  bool has_text(uint32_t value) const { return grammar_->values[value].height != kNever; }
  bool parameters_have_text(uint32_t object) const { return heights_[object] != kNever; }
  Result<SharedGrammar> finish();

 private:
  static constexpr uint32_t kNever = UINT32_MAX;

  uint32_t height_of(const ObjectRule::Value& value) const;
  uint32_t object_height(const ObjectDraft& draft) const;
  uint32_t array_height(const ArrayRule& rule) const;
  bool usable(const ObjectDraft::Property& p) const { return p.allowed && height_of(p.value) != kNever; }
  Status finish_object(uint32_t index);
  void finish_array(ArrayRule& rule);
  Status count_states(size_t states, const std::string& path);

  SchemaLimits limits_;
  std::shared_ptr<Grammar> grammar_;
  std::vector<ObjectDraft> drafts_;  // [object]
  std::vector<uint32_t> heights_;    // [object]
  // By content: many properties of many tools are the same, and masks are remembered by automaton.
  SharedDfa shared(SharedDfa dfa);

  std::unordered_multimap<size_t, SharedDfa> known_dfas_;
  std::map<const ByteDfa*, uint32_t> dfa_ids_;
  size_t states_ = 0;
};

}  // namespace kvasir
