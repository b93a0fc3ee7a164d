// JsonValue: one JSON value as a client sent it: keys in the order received, numbers with all digits.
//
// It exists because prompts contain JSON text (tool schemas, arguments) whose every byte counts: the
// writer reproduces Python's json.dumps(ensure_ascii=False), which is what the model was trained on.
// Source: spec protocol.md 2.2. A value owns everything under it; no threading of its own.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "base/result.h"

namespace kvasir {

// What parse() refuses to look at. The depth bound also bounds the recursion of every walk over a value.
struct JsonValueLimits {
  size_t max_bytes = size_t{256} << 20;
  size_t max_depth = 256;  // arrays and objects inside one another; a scalar alone has depth 0
};

class JsonValue {
 public:
  enum class Kind { kNull, kBool, kNumber, kString, kArray, kObject };

  struct Member;
  using Array = std::vector<JsonValue>;
  using Object = std::vector<Member>;  // no key twice

  JsonValue();  // null
  explicit JsonValue(bool value);
  explicit JsonValue(int64_t value);
  explicit JsonValue(double value);  // finite
  explicit JsonValue(std::string value);
  explicit JsonValue(std::string_view value);
  explicit JsonValue(const char* value);
  explicit JsonValue(Array value);
  explicit JsonValue(Object value);
  // Defined where Member is complete.
  JsonValue(const JsonValue&);
  JsonValue(JsonValue&&) noexcept;
  JsonValue& operator=(const JsonValue&);
  JsonValue& operator=(JsonValue&&) noexcept;
  ~JsonValue();

  // Strict RFC 8259, valid UTF-8, nothing but blanks after the value. A key given twice keeps its first
  // place and its last value. An integer may have any number of digits; a float must fit a double.
  static Result<JsonValue> parse(std::string_view text, const JsonValueLimits& limits = {});

  Kind kind() const { return static_cast<Kind>(v_.index()); }
  bool is_null() const { return kind() == Kind::kNull; }
  bool is_bool() const { return kind() == Kind::kBool; }
  bool is_number() const { return kind() == Kind::kNumber; }
  bool is_integer() const;  // a number written without fraction and exponent
  bool is_string() const { return kind() == Kind::kString; }
  bool is_array() const { return kind() == Kind::kArray; }
  bool is_object() const { return kind() == Kind::kObject; }

  // The value of that kind; asking for another kind is a bug and aborts.
  bool as_bool() const;
  const std::string& as_string() const;
  const Array& as_array() const;
  const Object& as_object() const;
  Object& as_object();
  double as_double() const;                 // any number
  std::optional<int64_t> as_int64() const;  // nothing: not an integer, or too large

  // The member `key` of an object; null when it is absent or this is no object.
  const JsonValue* find(std::string_view key) const;
  // Replaces or appends a member. This must be an object.
  void set(std::string_view key, JsonValue value);

  // Python's text form: ", " and ": " between things, non-ASCII raw, floats by shortest round trip.
  // A string that is not UTF-8 (only our own can be) is written with U+FFFD for the bytes at fault.
  std::string dump() const;
  void dump_to(std::string& out) const;

 private:
  friend class JsonReader;

  struct Number {
    std::string text;  // the digits that dump() writes
  };

  std::variant<std::monostate, bool, Number, std::string, Array, Object> v_;
};

struct JsonValue::Member {
  std::string key;
  JsonValue value;
};

// "an object", "a string": for messages about what was seen.
std::string_view json_kind_name(JsonValue::Kind kind);

// Appends `text` as a JSON string with its quotes, escaped as dump() does.
void append_json_string(std::string& out, std::string_view text);

}  // namespace kvasir
