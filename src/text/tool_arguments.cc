// A value's text goes out verbatim where it is JSON and may be, and as a JSON string everywhere else; nothing
// is parsed and printed again, so a number keeps the digits that the model wrote.
#include "text/tool_arguments.h"

#include <algorithm>

namespace kvasir {
namespace {

constexpr std::string_view kBlanks = " \t\r\n";
constexpr int kSchemaDepth = 8;  // anyOf inside anyOf; deeper is taken as "anything"

// Which JSON types a schema admits. 0: it does not say.
enum TypeBit : unsigned {
  kString = 1,
  kNumber = 2,
  kInteger = 4,
  kBoolean = 8,
  kObject = 16,
  kArray = 32,
  kNull = 64
};

unsigned type_named(const JsonValue& name) {
  if (!name.is_string()) return 0;
  const std::string& s = name.as_string();
  if (s == "string") return kString;
  if (s == "number") return kNumber;
  if (s == "integer") return kInteger;
  if (s == "boolean") return kBoolean;
  if (s == "object") return kObject;
  if (s == "array") return kArray;
  if (s == "null") return kNull;
  return 0;
}

unsigned schema_types(const JsonValue& schema, int depth = 0) {
  if (depth > kSchemaDepth) return 0;
  unsigned types = 0;
  if (const JsonValue* type = schema.find("type")) {
    if (!type->is_array()) return type_named(*type);
    for (const JsonValue& name : type->as_array()) types |= type_named(name);
    return types;
  }
  for (std::string_view key : {"anyOf", "oneOf"}) {
    const JsonValue* choices = schema.find(key);
    if (choices == nullptr || !choices->is_array()) continue;
    for (const JsonValue& choice : choices->as_array()) {
      const unsigned more = schema_types(choice, depth + 1);
      if (more == 0) return 0;  // one choice may be anything, so the whole may
      types |= more;
    }
  }
  return types;
}

bool admits(unsigned types, const JsonValue& value) {
  switch (value.kind()) {
    case JsonValue::Kind::kNull:
      return types & kNull;
    case JsonValue::Kind::kBool:
      return types & kBoolean;
    case JsonValue::Kind::kNumber:
      return types & kNumber || (types & kInteger && value.is_integer());
    case JsonValue::Kind::kString:
      return types & kString;
    case JsonValue::Kind::kArray:
      return types & kArray;
    case JsonValue::Kind::kObject:
      return types & kObject;
  }
  return false;
}

const JsonValue* find_property(const JsonValue* function, std::string_view key) {
  const JsonValue* parameters = function == nullptr ? nullptr : function->find("parameters");
  const JsonValue* properties = parameters == nullptr ? nullptr : parameters->find("properties");
  return properties == nullptr ? nullptr : properties->find(key);
}

// One level is kept for the arguments object around the value, so that whoever parses that succeeds too.
Result<JsonValue> parse_value(std::string_view text) {
  JsonValueLimits limits;
  limits.max_depth -= 1;
  return JsonValue::parse(text, limits);
}

// Whether the parameter's text stands for itself as JSON; if not, it is a string.
bool is_json_value(const Parameter& p, const JsonValue* property) {
  const unsigned types = property == nullptr ? 0 : schema_types(*property);
  switch (p.is_string) {
    case Parameter::IsString::kNo:  // MAL-5: a string if it is not JSON
      return parse_value(p.text).has_value();
    case Parameter::IsString::kYes: {  // MAL-6: the schema wants another type, and the text is of that type
      if (types == 0 || types & kString) return false;
      const auto value = parse_value(p.text);
      return value && admits(types, *value);
    }
    case Parameter::IsString::kUnsaid: {  // MAL-3: the schema's type; else JSON if it parses; else a string
      if (types == kString) return false;
      const auto value = parse_value(p.text);
      if (!value) return false;
      return types == 0 || (!value->is_string() && admits(types, *value));
    }
  }
  return false;
}

std::string_view trim(std::string_view text) {
  const size_t begin = text.find_first_not_of(kBlanks);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kBlanks) + 1 - begin);
}

// MAL-7: a wrapper that the schema knows nothing of.
bool is_wrapper(const Parameter& p, const JsonValue* function) {
  if (function == nullptr || (p.key != "arguments" && p.key != "input")) return false;
  if (find_property(function, p.key) != nullptr) return false;
  const auto value = parse_value(p.text);
  return value && value->is_object();
}

}  // namespace

std::string arguments_text(const std::vector<Parameter>& parameters, const JsonValue* function) {
  std::vector<Parameter> unique;  // MAL-8: first place, last value
  for (const Parameter& p : parameters) {
    const auto same =
        std::find_if(unique.begin(), unique.end(), [&](const Parameter& u) { return u.key == p.key; });
    if (same == unique.end()) {
      unique.push_back(p);
    } else {
      *same = p;
    }
  }
  if (unique.size() == 1 && is_wrapper(unique[0], function)) return std::string(trim(unique[0].text));

  std::string out = "{";
  for (const Parameter& p : unique) {
    if (out.size() > 1) out += ", ";
    append_json_string(out, p.key);
    out += ": ";
    if (is_json_value(p, find_property(function, p.key))) {
      out += p.text;
    } else {
      append_json_string(out, p.text);
    }
  }
  return out + "}";
}

}  // namespace kvasir
