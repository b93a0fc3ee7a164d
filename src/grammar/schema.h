// SchemaDocument: a JSON Schema as a client sent it, read into facts; and the check of a value against it.
//
// Every keyword is understood, an annotation (ignored on purpose), or refused with its JSON pointer; nothing
// is dropped. docs/grammar.md has the table. Schemas are read when first asked for, so a definition that
// nothing refers to is never looked at. Values only; one thread at a time.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/result.h"
#include "grammar/code_point_dfa.h"
#include "grammar/number_dfa.h"
#include "text/json_value.h"

namespace kvasir {

// JSON types, as bits. An integer is a number too.
enum JsonTypes : uint32_t {
  kNullType = 1,
  kBoolType = 2,
  kNumberType = 4,  // every number, integers included
  kIntegerType = 8,
  kStringType = 16,
  kArrayType = 32,
  kObjectType = 64,
  kAllTypes = kNullType | kBoolType | kNumberType | kStringType | kArrayType | kObjectType,
};

// A schema object's own keywords. Subschemas are named by their value in the document.
struct Schema {
  std::string path;    // JSON pointer, for messages
  bool never = false;  // the schema `false`

  uint32_t types = kAllTypes;
  std::optional<std::vector<JsonValue>> values;  // enum, const
  NumberBounds bounds;
  std::vector<std::shared_ptr<const CodePointDfa>> patterns;  // pattern and format
  uint32_t min_length = 0;
  uint32_t max_length = kUnbounded;

  std::vector<std::pair<std::string, const JsonValue*>> properties;
  std::vector<std::string> required;
  const JsonValue* additional = nullptr;  // null: anything
  const JsonValue* names = nullptr;       // propertyNames
  uint32_t min_properties = 0;
  uint32_t max_properties = kUnbounded;

  std::vector<const JsonValue*> prefix;  // prefixItems
  const JsonValue* items = nullptr;      // of the rest; null: anything
  uint32_t min_items = 0;
  uint32_t max_items = kUnbounded;

  const JsonValue* ref = nullptr;
  std::vector<const JsonValue*> all_of;
  std::vector<const JsonValue*> any_of;
  std::vector<const JsonValue*> one_of;

  const JsonValue* property(std::string_view name) const;
};

// What a schema may cost. Hostile ones end at one of these with kUnsupported.
struct SchemaLimits {
  size_t max_depth = 100;           // schemas inside one another
  size_t max_schemas = 20'000;      // read
  size_t max_alternatives = 256;    // of one value, after anyOf is multiplied out
  size_t max_steps = 200'000;       // of multiplying out, in all
  size_t max_nodes = 20'000;        // different values in the grammar
  size_t max_text_states = 20'000;  // of one automaton
  size_t max_states = 400'000;      // of all
  size_t max_length = 4096;         // minLength, maxLength beside a pattern
};

class SchemaDocument {
 public:
  // `path`: where the root is in the request, for messages.
  SchemaDocument(JsonValue root, std::string path, SchemaLimits limits = {});
  SchemaDocument(const SchemaDocument&) = delete;
  SchemaDocument& operator=(const SchemaDocument&) = delete;

  const JsonValue& root() const { return root_; }
  const SchemaLimits& limits() const { return limits_; }

  // `value` is a part of the root, or of a synthetic schema.
  Result<const Schema*> read(const JsonValue* value);
  // The root's property `name`, readable even where the root as a whole is not; the root has it.
  const JsonValue* property_of_root(std::string_view name);
  // Adds `value` to what can be read: {"const": ...} for a part of an enum.
  const JsonValue* add_constant(const JsonValue& value, const std::string& path);

  // Whether `value` is valid against the schema, everything it refers to included.
  Result<bool> admits(const JsonValue* schema, const JsonValue& value);
  // Whether enum and const list it.
  Result<bool> admits_listed(const Schema& schema, const JsonValue& value);
  // Its other own keywords and what they say of children; not allOf, anyOf, oneOf, $ref.
  Result<bool> admits_own(const Schema& schema, const JsonValue& value);

 private:
  friend class SchemaReader;

  void add_path(const JsonValue* value, std::string path) { paths_.emplace(value, std::move(path)); }
  Result<const JsonValue*> resolve(std::string_view reference, const std::string& from);
  Result<bool> admits_children(const Schema& schema, const JsonValue& value);
  Result<size_t> count_matches(const std::vector<const JsonValue*>& schemas, const JsonValue& value);

  JsonValue root_;
  SchemaLimits limits_;
  std::vector<std::unique_ptr<JsonValue>> constants_;
  std::unordered_map<const JsonValue*, std::string> paths_;
  std::unordered_map<const JsonValue*, std::unique_ptr<Schema>> schemas_;
  std::map<std::string, std::shared_ptr<const CodePointDfa>, std::less<>> patterns_;
  size_t pattern_states_ = 0;
  size_t checks_ = 0;  // of a value against a schema
  size_t check_depth_ = 0;
};

uint32_t type_of(const JsonValue& value);
// By value, as JSON Schema compares: 1 and 1.0 are equal, order of keys does not count.
bool equal(const JsonValue& a, const JsonValue& b);
// Appends "/key" with the escapes of a JSON pointer.
std::string pointer(const std::string& path, std::string_view key);

}  // namespace kvasir
