// JsonFields: the members of one JSON object of a request, each read with its type and its path.
//
// An absent member and a null are the same. An error says where, what was expected and what was there.
// Borrows the object; no threading of its own.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "api/chat_request.h"
#include "base/result.h"
#include "text/json_value.h"

namespace kvasir {

// The request body as a JSON object. An error in the JSON names the byte (ERR-4).
Result<JsonValue> parse_body(std::string_view body, const ApiLimits& limits);

// Byte where `text` stops being JSON: its size if it only ends too early, nothing if nothing is wrong.
std::optional<size_t> json_error_position(std::string_view text);

// "messages[2].role: expected X, saw Y".
Error expected_at(std::string_view path, std::string_view expected, const JsonValue* seen);

class JsonFields {
 public:
  // `path` is empty for the body itself.
  JsonFields(const JsonValue& object, std::string path) : object_(object), path_(std::move(path)) {}

  // Error unless it is an object.
  Status check_object() const;

  const JsonValue* find(std::string_view key) const;  // null: absent or null
  bool has(std::string_view key) const { return find(key) != nullptr; }
  const std::string& path() const { return path_; }
  std::string path_of(std::string_view key) const;
  Error wrong(std::string_view key, std::string_view expected) const;

  Result<std::string> text(std::string_view key) const;           // "" if absent
  Result<std::string> required_text(std::string_view key) const;  // not empty
  Result<bool> flag(std::string_view key, bool absent) const;
  Result<std::optional<double>> number(std::string_view key, double min, double max) const;
  Result<std::optional<int64_t>> integer(std::string_view key, int64_t min, int64_t max) const;
  Result<const JsonValue::Array*> array(std::string_view key) const;  // null if absent
  Result<const JsonValue*> object(std::string_view key) const;        // null if absent

 private:
  const JsonValue& object_;
  std::string path_;
};

}  // namespace kvasir
