// One function per group of keywords; each says where a bad or unsupported one is.
#include <fmt/core.h>

#include <algorithm>
#include <set>

#include "grammar/format.h"
#include "grammar/pattern.h"
#include "grammar/schema.h"

namespace kvasir {
namespace {

// They say nothing about which values are valid.
constexpr std::string_view kAnnotations[] = {
    "title",    "description",         "default",          "example",   "examples",    "deprecated",
    "readOnly", "writeOnly",           "$schema",          "$comment",  "definitions", "$defs",
    "$anchor",  "markdownDescription", "enumDescriptions", "enumNames", "nullable"};

}  // namespace

class SchemaReader {
 public:
  SchemaReader(SchemaDocument& document, const JsonValue& value, Schema& schema)
      : document_(document), value_(value), schema_(schema) {}

  Status read() {
    if (value_.is_bool()) {
      schema_.never = !value_.as_bool();
      return {};
    }
    if (!value_.is_object()) return wrong("", "a schema: an object, true or false", value_);
    for (const auto& [key, value] : value_.as_object()) {
      key_ = key;
      KVASIR_TRY_STATUS(keyword(key, value));
    }
    return {};
  }

 private:
  std::string at(std::string_view key) const { return pointer(schema_.path, key); }
  Error error(ErrorCode code, std::string_view what) const {
    return {code, fmt::format("{}: {}", at(key_), what)};
  }
  Error unsupported(std::string_view what) const { return error(ErrorCode::kUnsupported, what); }
  Error wrong(std::string_view key, std::string_view wanted, const JsonValue& seen) const {
    return {ErrorCode::kInvalid, fmt::format("{}: expected {}, got {}", key.empty() ? schema_.path : at(key),
                                             wanted, json_kind_name(seen.kind()))};
  }

  Status keyword(const std::string& key, const JsonValue& value) {
    if (key == "type") return read_type(value);
    if (key == "enum" || key == "const") return read_values(key, value);
    if (key == "$ref") return read_ref(value);
    if (key == "allOf") return read_schemas(value, schema_.all_of);
    if (key == "anyOf") return read_schemas(value, schema_.any_of);
    if (key == "oneOf") return read_schemas(value, schema_.one_of);
    if (key == "pattern" || key == "format") return read_text(key, value);
    if (key == "properties") return read_properties(value);
    if (key == "required") return read_required(value);
    if (key == "additionalProperties") return read_schema(value, schema_.additional);
    if (key == "propertyNames") return read_schema(value, schema_.names);
    if (key == "items" || key == "prefixItems" || key == "additionalItems") return read_items(key, value);
    if (key == "minLength") return read_count(value, schema_.min_length);
    if (key == "maxLength") return read_count(value, schema_.max_length);
    if (key == "minItems") return read_count(value, schema_.min_items);
    if (key == "maxItems") return read_count(value, schema_.max_items);
    if (key == "minProperties") return read_count(value, schema_.min_properties);
    if (key == "maxProperties") return read_count(value, schema_.max_properties);
    if (key == "minimum" || key == "maximum" || key == "exclusiveMinimum" || key == "exclusiveMaximum" ||
        key == "multipleOf") {
      return read_bound(key, value);
    }
    if (key == "uniqueItems" && value.is_bool() && !value.as_bool()) return {};
    if (key == "patternProperties" && value.is_object() && value.as_object().empty()) return {};
    if (key == "$id") return read_id(value);
    if (key.starts_with("x-") ||
        std::find(std::begin(kAnnotations), std::end(kAnnotations), key) != std::end(kAnnotations)) {
      return {};
    }
    return unsupported("this keyword is not supported");
  }

  Status read_type(const JsonValue& value) {
    schema_.types = 0;
    const auto add = [&](const JsonValue& name) -> Status {
      static const std::pair<std::string_view, uint32_t> kNames[] = {
          {"null", kNullType},     {"boolean", kBoolType}, {"number", kNumberType}, {"integer", kIntegerType},
          {"string", kStringType}, {"array", kArrayType},  {"object", kObjectType}};
      if (!name.is_string()) return wrong("type", "the name of a type", name);
      for (const auto& [known, bit] : kNames) {
        if (known != name.as_string()) continue;
        schema_.types |= bit;
        return {};
      }
      return error(ErrorCode::kInvalid, fmt::format("'{}' is no type", name.as_string()));
    };
    if (!value.is_array()) {
      KVASIR_TRY_STATUS(add(value));
    } else {
      for (const JsonValue& name : value.as_array()) KVASIR_TRY_STATUS(add(name));
    }
    // OpenAPI 3.0's way to add null to a type.
    const JsonValue* nullable = value_.find("nullable");
    if (nullable != nullptr && nullable->is_bool() && nullable->as_bool()) schema_.types |= kNullType;
    return {};
  }

  Status read_values(std::string_view key, const JsonValue& value) {
    std::vector<JsonValue> values;
    if (key == "const") {
      values.push_back(value);
    } else if (value.is_array()) {
      values = value.as_array();
    } else {
      return wrong(key, "an array of values", value);
    }
    if (schema_.values) {  // enum and const: what is in both
      std::erase_if(*schema_.values, [&](const JsonValue& have) {
        return std::none_of(values.begin(), values.end(), [&](const JsonValue& v) { return equal(have, v); });
      });
    } else {
      schema_.values = std::move(values);
    }
    return {};
  }

  Status read_ref(const JsonValue& value) {
    if (!value.is_string()) return wrong("$ref", "a string", value);
    KVASIR_TRY(schema_.ref, document_.resolve(value.as_string(), at("$ref")));
    return {};
  }

  // Inside a resource with an id of its own, "#/..." would mean that resource and not the document.
  Status read_id(const JsonValue& value) {
    if (!value.is_string()) return wrong("$id", "a string", value);
    if (&value_ == &document_.root()) return {};
    return unsupported("a schema with an id of its own inside another is not supported");
  }

  Status read_schema(const JsonValue& value, const JsonValue*& out) {
    document_.add_path(&value, at(key_));
    out = &value;
    return {};
  }

  Status read_schemas(const JsonValue& value, std::vector<const JsonValue*>& out) {
    if (!value.is_array() || value.as_array().empty()) return wrong(key_, "an array of schemas", value);
    for (size_t i = 0; i < value.as_array().size(); ++i) {
      document_.add_path(&value.as_array()[i], fmt::format("{}/{}", at(key_), i));
      out.push_back(&value.as_array()[i]);
    }
    return {};
  }

  Status read_text(std::string_view key, const JsonValue& value) {
    if (!value.is_string()) return wrong(key, "a string", value);
    std::string_view pattern = value.as_string();
    if (key == "format") {
      if (const auto bounds = format_bounds(pattern)) return add_bounds(*bounds);
      pattern = format_pattern(pattern);
      if (pattern.empty())
        return unsupported(fmt::format("the format '{}' is not supported", value.as_string()));
    }
    auto known = document_.patterns_.find(pattern);
    if (known == document_.patterns_.end()) {
      auto dfa = pattern_dfa(pattern);
      if (!dfa) return error(dfa.error().code, dfa.error().message);
      document_.pattern_states_ += dfa->states.size();
      if (document_.pattern_states_ > document_.limits_.max_states)
        return unsupported("too many patterns in all");
      known = document_.patterns_.emplace(pattern, std::make_shared<CodePointDfa>(*std::move(dfa))).first;
    }
    schema_.patterns.push_back(known->second);
    return {};
  }

  Status read_properties(const JsonValue& value) {
    if (!value.is_object()) return wrong(key_, "an object", value);
    for (const auto& [name, property] : value.as_object()) {
      document_.add_path(&property, pointer(at(key_), name));
      schema_.properties.emplace_back(name, &property);
    }
    return {};
  }

  Status read_required(const JsonValue& value) {
    if (!value.is_array()) return wrong(key_, "an array of names", value);
    for (const JsonValue& name : value.as_array()) {
      if (!name.is_string()) return wrong(key_, "an array of names", name);
      schema_.required.push_back(name.as_string());
    }
    return {};
  }

  // Until draft 2019-09 an array under `items` was what prefixItems is now.
  Status read_items(std::string_view key, const JsonValue& value) {
    const JsonValue* items = value_.find("items");
    const bool old_form = items != nullptr && items->is_array();
    if (key == "additionalItems") return old_form ? read_schema(value, schema_.items) : Status();
    if (key == "items" && !value.is_array()) return read_schema(value, schema_.items);
    if (key == "items" && value_.find("prefixItems") != nullptr) return wrong(key, "a schema", value);
    if (!value.is_array()) return wrong(key, "an array of schemas", value);
    if (value.as_array().empty()) return {};
    return read_schemas(value, schema_.prefix);
  }

  Status read_count(const JsonValue& value, uint32_t& out) {
    const double count = value.is_number() ? value.as_double() : -1;
    if (count < 0 || count != static_cast<double>(static_cast<uint64_t>(std::min(count, 1e15)))) {
      return error(ErrorCode::kInvalid, "expected a whole number, zero or more");
    }
    // A larger one is never reached; kUnbounded itself means "no bound".
    out = static_cast<uint32_t>(std::min(count, 4e9));
    return {};
  }

  Status read_bound(std::string_view key, const JsonValue& value) {
    if (!value.is_number()) return wrong(key, "a number", value);
    auto number = Decimal::parse(value.dump());
    if (!number) return error(number.error().code, number.error().message);
    NumberBounds bounds;
    if (key == "minimum" || key == "exclusiveMinimum") bounds.min = *number;
    if (key == "maximum" || key == "exclusiveMaximum") bounds.max = *number;
    bounds.above_min = key == "exclusiveMinimum";
    bounds.below_max = key == "exclusiveMaximum";
    if (key == "multipleOf") {
      if (number->negative || number->is_zero())
        return error(ErrorCode::kInvalid, "expected a number above zero");
      bounds.multiple_of = *number;
    }
    return add_bounds(bounds);
  }

  Status add_bounds(const NumberBounds& bounds) {
    Status status = tighten(schema_.bounds, bounds);
    return status ? status : Status(error(status.error().code, status.error().message));
  }

  SchemaDocument& document_;
  const JsonValue& value_;
  Schema& schema_;
  std::string_view key_;
};

SchemaDocument::SchemaDocument(JsonValue root, std::string path, SchemaLimits limits)
    : root_(std::move(root)), limits_(limits) {
  add_path(&root_, std::move(path));
}

Result<const Schema*> SchemaDocument::read(const JsonValue* value) {
  if (const auto known = schemas_.find(value); known != schemas_.end()) return known->second.get();
  auto schema = std::make_unique<Schema>();
  schema->path = paths_[value];
  if (schemas_.size() >= limits_.max_schemas) {
    return Error{ErrorCode::kUnsupported,
                 fmt::format("{}: more than {} schemas", schema->path, limits_.max_schemas)};
  }
  KVASIR_TRY_STATUS(SchemaReader(*this, *value, *schema).read());
  return schemas_.emplace(value, std::move(schema)).first->second.get();
}

const JsonValue* SchemaDocument::property_of_root(std::string_view name) {
  const JsonValue* property = root_.find("properties")->find(name);
  add_path(property, pointer(paths_[&root_] + "/properties", name));
  return property;
}

const JsonValue* SchemaDocument::add_constant(const JsonValue& value, const std::string& path) {
  JsonValue::Object schema;
  schema.push_back({"const", value});
  constants_.push_back(std::make_unique<JsonValue>(std::move(schema)));
  add_path(constants_.back().get(), path);
  return constants_.back().get();
}

Result<const JsonValue*> SchemaDocument::resolve(std::string_view reference, const std::string& from) {
  std::string_view fragment = reference;
  const JsonValue* id = root_.find("$id");
  if (id != nullptr && id->is_string() && !fragment.empty() && fragment.starts_with(id->as_string())) {
    fragment.remove_prefix(id->as_string().size());
    if (fragment.empty()) fragment = "#";
  }
  if (fragment != "#" && !fragment.starts_with("#/")) {
    return Error{ErrorCode::kUnsupported,
                 fmt::format("{}: only references into the same schema (\"#/...\") are "
                             "supported, not '{}'",
                             from, reference)};
  }
  const JsonValue* value = &root_;
  std::string path = paths_[&root_];
  for (size_t i = 1; i < fragment.size();) {
    const size_t end = std::min(fragment.find('/', i + 1), fragment.size());
    std::string key;
    for (size_t j = i + 1; j < end; ++j) {
      const std::string_view rest = fragment.substr(j, end - j);
      unsigned code = 0;
      if (rest.starts_with("~0") || rest.starts_with("~1")) {
        key += rest[1] == '0' ? '~' : '/';
        ++j;
      } else if (rest[0] == '%' && rest.size() >= 3 && std::isxdigit(static_cast<unsigned char>(rest[1])) &&
                 std::isxdigit(static_cast<unsigned char>(rest[2]))) {
        code = static_cast<unsigned>(std::stoul(std::string(rest.substr(1, 2)), nullptr, 16));
        key += static_cast<char>(code);
        j += 2;
      } else {
        key += rest[0];
      }
    }
    const JsonValue* next = value->find(key);
    if (value->is_array() && !key.empty() && key.size() < 7 &&
        std::all_of(key.begin(), key.end(), [](char c) { return c >= '0' && c <= '9'; })) {
      const size_t index = std::stoul(key);
      if (index < value->as_array().size()) next = &value->as_array()[index];
    }
    if (next == nullptr)
      return Error{ErrorCode::kInvalid, fmt::format("{}: nothing is at '{}'", from, reference)};
    value = next;
    path = pointer(path, key);
    i = end;
  }
  add_path(value, std::move(path));
  return value;
}

std::string pointer(const std::string& path, std::string_view key) {
  std::string out = path + "/";
  for (char c : key) {
    if (c == '~') {
      out += "~0";
    } else if (c == '/') {
      out += "~1";
    } else {
      out += c;
    }
  }
  return out;
}

}  // namespace kvasir
