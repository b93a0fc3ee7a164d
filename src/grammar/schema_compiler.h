// SchemaCompiler: a JSON Schema becomes values of a grammar.
//
// A value of the grammar stands for a set of schemas that must all hold. Its $ref, allOf, anyOf and oneOf are
// multiplied out into alternatives, each a set of plain schemas; these are split by JSON type and merged:
// bounds tightened, automata intersected, and each property's or item's own set of schemas compiled in turn.
// Equal sets are one value, so recursive schemas end.
//
// oneOf is honoured as anyOf after a proof that its branches exclude each other: the value of each two
// branches together is compiled as well, and must have no text. One thread; lives as long as one compilation.
#pragma once

#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "grammar/grammar_builder.h"
#include "grammar/schema.h"

namespace kvasir {

// Which texts of a value are wanted.
enum class ValueMode {
  kJson,        // JSON text
  kNotString,   // JSON text of everything but strings
  kRawString,   // strings only, without quotes and escapes
  kObjectOnly,  // JSON text of objects
};

class SchemaCompiler {
 public:
  // Both outlive the compiler.
  SchemaCompiler(SchemaDocument& document, GrammarBuilder& builder)
      : document_(document), builder_(builder) {}

  // The value of one schema of the document, with everything below it.
  Result<uint32_t> compile(const JsonValue* schema, ValueMode mode);
  // The parameters of a tool: an object rule for each alternative of the schema, with a raw and a JSON value
  // for each property. Keys of no property are taken only where `additionalProperties` says so.
  Result<std::vector<uint32_t>> compile_parameters(const JsonValue* schema);
  // After GrammarBuilder::settle(): whether each oneOf was one.
  Status check_exclusive() const;

 private:
  using Schemas = std::vector<const JsonValue*>;  // all must hold; in a Key ascending, none twice
  struct Key {
    Schemas schemas;
    ValueMode mode;
    bool probe;  // part of a proof: superset, and no proofs of its own
    auto operator<=>(const Key&) const = default;
  };
  struct Alternative {
    std::vector<const Schema*> schemas;
    std::vector<const JsonValue*> sources;
  };
  struct Proof {
    uint32_t value = 0;  // must have no text
    std::string message;
  };

  class Expansion;

  Result<uint32_t> value_of(Schemas schemas, ValueMode mode, bool probe);
  Status compile_pending();
  Status compile_value(const Key& key, uint32_t value);
  Result<std::vector<Alternative>> alternatives(const Key& key);
  Status prove_exclusive(const Key& key, const Schema& schema);

  Status add_alternative(const Alternative& alternative, const Key& key, uint32_t value);
  Status add_values(const Alternative& alternative, const std::vector<JsonValue>& values, const Key& key,
                    uint32_t value);
  Status add_number(const Alternative& alternative, bool integer, uint32_t value);
  Result<CodePointDfa> text_of(const Alternative& alternative);
  Result<CodePointDfa> names_allowed(const JsonValue* schema);
  Result<bool> says_no_other(const Alternative& alternative);
  Status add_string(const Alternative& alternative, ValueMode mode, uint32_t value);
  Status add_array(const Alternative& alternative, bool probe, uint32_t value);
  Status add_object(const Alternative& alternative, bool probe, uint32_t value);
  Result<ObjectDraft> object_draft(const Alternative& alternative, bool probe, bool parameters);
  Status add_names(const Alternative& alternative, ObjectDraft& draft);
  Status literal_words(const JsonValue& value, std::vector<std::string>& words);
  Result<ObjectRule::Value> child(Schemas schemas, bool probe, bool parameters);

  SchemaDocument& document_;
  GrammarBuilder& builder_;
  std::map<Key, uint32_t> values_;
  std::vector<std::pair<Key, uint32_t>> pending_;
  std::vector<Proof> proofs_;
  std::set<uint32_t> proved_;  // their values
  std::map<std::string, SharedDfa> numbers_;
  size_t steps_ = 0;
};

}  // namespace kvasir
