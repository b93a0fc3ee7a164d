// A value against a schema: used for the values of enum and const, and for the names of properties. Where the
// grammar constrains by structure this decides by looking, so the two never need to agree on a spelling.
#include <fmt/core.h>

#include <algorithm>

#include "grammar/schema.h"

namespace kvasir {
namespace {

constexpr size_t kMaxChecks = 2'000'000;
constexpr size_t kMaxCheckDepth = 400;

Error too_long(const Schema& schema) {
  return {ErrorCode::kUnsupported,
          fmt::format("{}: the values of enum or const take too long to check", schema.path)};
}

}  // namespace

uint32_t type_of(const JsonValue& value) {
  switch (value.kind()) {
    case JsonValue::Kind::kNull:
      return kNullType;
    case JsonValue::Kind::kBool:
      return kBoolType;
    case JsonValue::Kind::kNumber:
      return kNumberType;
    case JsonValue::Kind::kString:
      return kStringType;
    case JsonValue::Kind::kArray:
      return kArrayType;
    case JsonValue::Kind::kObject:
      return kObjectType;
  }
  return 0;
}

bool equal(const JsonValue& a, const JsonValue& b) {
  if (a.kind() != b.kind()) return false;
  switch (a.kind()) {
    case JsonValue::Kind::kNull:
      return true;
    case JsonValue::Kind::kBool:
      return a.as_bool() == b.as_bool();
    case JsonValue::Kind::kNumber: {
      const auto x = Decimal::parse(a.dump()), y = Decimal::parse(b.dump());
      return x && y ? compare(*x, *y) == 0 : a.dump() == b.dump();
    }
    case JsonValue::Kind::kString:
      return a.as_string() == b.as_string();
    case JsonValue::Kind::kArray:
      return std::equal(a.as_array().begin(), a.as_array().end(), b.as_array().begin(), b.as_array().end(),
                        equal);
    case JsonValue::Kind::kObject:
      return a.as_object().size() == b.as_object().size() &&
             std::all_of(a.as_object().begin(), a.as_object().end(), [&](const JsonValue::Member& m) {
               const JsonValue* other = b.find(m.key);
               return other != nullptr && equal(m.value, *other);
             });
  }
  return false;
}

const JsonValue* Schema::property(std::string_view name) const {
  for (const auto& [key, value] : properties) {
    if (key == name) return value;
  }
  return nullptr;
}

Result<bool> SchemaDocument::admits(const JsonValue* value_schema, const JsonValue& value) {
  KVASIR_TRY(const Schema* schema, read(value_schema));
  if (++checks_ > kMaxChecks || check_depth_ > kMaxCheckDepth) return too_long(*schema);
  ++check_depth_;
  struct Leave {
    size_t& depth;
    ~Leave() { --depth; }
  } leave{check_depth_};
  KVASIR_TRY(const bool listed, admits_listed(*schema, value));
  if (!listed) return false;
  KVASIR_TRY(const bool own, admits_own(*schema, value));
  if (!own) return false;
  if (schema->ref != nullptr) {
    KVASIR_TRY(const bool referred, admits(schema->ref, value));
    if (!referred) return false;
  }
  KVASIR_TRY(const size_t all, count_matches(schema->all_of, value));
  KVASIR_TRY(const size_t any, count_matches(schema->any_of, value));
  KVASIR_TRY(const size_t one, count_matches(schema->one_of, value));
  return all == schema->all_of.size() && (schema->any_of.empty() || any > 0) &&
         (schema->one_of.empty() || one == 1);
}

Result<size_t> SchemaDocument::count_matches(const std::vector<const JsonValue*>& schemas,
                                             const JsonValue& value) {
  size_t count = 0;
  for (const JsonValue* schema : schemas) {
    KVASIR_TRY(const bool match, admits(schema, value));
    count += match ? 1 : 0;
  }
  return count;
}

Result<bool> SchemaDocument::admits_listed(const Schema& schema, const JsonValue& value) {
  if (!schema.values) return true;
  checks_ += schema.values->size();
  if (checks_ > kMaxChecks) return too_long(schema);
  return std::any_of(schema.values->begin(), schema.values->end(),
                     [&](const JsonValue& v) { return equal(v, value); });
}

Result<bool> SchemaDocument::admits_own(const Schema& schema, const JsonValue& value) {
  if (schema.never) return false;
  std::optional<Decimal> number;
  if (value.is_number()) {
    KVASIR_TRY(number, Decimal::parse(value.dump()));
  }
  const bool whole = number && number->fraction.empty();
  if ((schema.types & type_of(value)) == 0 && !(whole && (schema.types & kIntegerType) != 0)) return false;
  if (number) return kvasir::admits(schema.bounds, *number);
  if (value.is_string()) {
    const size_t length = count_code_points(value.as_string());
    return length >= schema.min_length && length <= schema.max_length &&
           std::all_of(schema.patterns.begin(), schema.patterns.end(), [&](const auto& pattern) {
             return pattern->label_of(value.as_string()) != CodePointDfa::kNone;
           });
  }
  return admits_children(schema, value);
}

Result<bool> SchemaDocument::admits_children(const Schema& schema, const JsonValue& value) {
  if (value.is_array()) {
    const JsonValue::Array& items = value.as_array();
    if (items.size() < schema.min_items || items.size() > schema.max_items) return false;
    for (size_t i = 0; i < items.size(); ++i) {
      const JsonValue* item = i < schema.prefix.size() ? schema.prefix[i] : schema.items;
      if (item == nullptr) continue;
      KVASIR_TRY(const bool ok, admits(item, items[i]));
      if (!ok) return false;
    }
    return true;
  }
  if (!value.is_object()) return true;
  const JsonValue::Object& members = value.as_object();
  if (members.size() < schema.min_properties || members.size() > schema.max_properties) return false;
  for (const std::string& name : schema.required) {
    if (value.find(name) == nullptr) return false;
  }
  for (const auto& [name, member] : members) {
    const JsonValue* property = schema.property(name);
    if (property == nullptr) property = schema.additional;
    if (property != nullptr) {
      KVASIR_TRY(const bool ok, admits(property, member));
      if (!ok) return false;
    }
    if (schema.names == nullptr) continue;
    KVASIR_TRY(const bool ok, admits(schema.names, JsonValue(name)));
    if (!ok) return false;
  }
  return true;
}

}  // namespace kvasir
