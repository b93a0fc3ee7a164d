// The JSON itself is judged by JsonValue::parse; only when that refuses a body is it walked once more here,
// by an iterative recogniser, to say at which byte.
#include "api/json_fields.h"

#include <fmt/format.h>

#include <cmath>

namespace kvasir {
namespace {

std::string describe(const JsonValue* value) {
  if (value == nullptr) return "nothing";
  if (value->is_string() && value->as_string().size() <= 40) return value->dump();
  if (value->is_number() || value->is_bool()) return value->dump();
  return std::string(json_kind_name(value->kind()));
}

// Reads one JSON text without recursion; `at` is where it stopped.
class JsonScan {
 public:
  explicit JsonScan(std::string_view text) : text_(text) {}

  std::optional<size_t> error_position() {
    while (true) {
      if (!value()) return at_;
      // After a value: close what ends here, until a comma asks for the next one.
      while (true) {
        blanks();
        if (open_.empty()) return at_ == text_.size() ? std::nullopt : std::optional(at_);
        if (take(',')) {
          if (open_.back() == '{' && !key()) return at_;
          break;
        }
        if (!take(open_.back() == '{' ? '}' : ']')) return at_;
        open_.pop_back();
      }
    }
  }

 private:
  bool is(char c) const { return at_ < text_.size() && text_[at_] == c; }
  bool take(char c) {
    if (!is(c)) return false;
    ++at_;
    return true;
  }
  void blanks() {
    while (is(' ') || is('\t') || is('\n') || is('\r')) ++at_;
  }
  bool digits() {
    const size_t begin = at_;
    while (at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9') ++at_;
    return at_ > begin;
  }

  // A scalar, an empty container, or the openings of containers up to the first scalar in them.
  bool value() {
    while (true) {
      blanks();
      if (take('[')) {
        blanks();
        if (take(']')) return true;
        open_ += '[';
      } else if (take('{')) {
        blanks();
        if (take('}')) return true;
        open_ += '{';
        if (!key()) return false;
      } else {
        return scalar();
      }
    }
  }

  bool key() {
    blanks();
    if (!string()) return false;
    blanks();
    return take(':');
  }

  bool scalar() {
    if (is('"')) return string();
    for (std::string_view word : {"true", "false", "null"}) {
      if (text_.substr(at_, word.size()) == word) {
        at_ += word.size();
        return true;
      }
    }
    take('-');
    if (!take('0') && !digits()) return false;
    if (take('.') && !digits()) return false;
    if (take('e') || take('E')) {
      if (!take('+')) take('-');
      return digits();
    }
    return true;
  }

  bool string() {
    if (!take('"')) return false;
    while (at_ < text_.size() && static_cast<unsigned char>(text_[at_]) >= 0x20) {
      if (take('"')) return true;
      if (!take('\\')) {
        ++at_;
      } else if (take('u')) {
        for (int i = 0; i < 4; ++i, ++at_) {
          if (at_ >= text_.size() || !std::isxdigit(static_cast<unsigned char>(text_[at_]))) return false;
        }
      } else {
        if (at_ >= text_.size() ||
            std::string_view("\"\\/bfnrt").find(text_[at_]) == std::string_view::npos) {
          return false;
        }
        ++at_;
      }
    }
    return false;
  }

  std::string_view text_;
  size_t at_ = 0;
  std::string open_;  // the containers around at_, outermost first
};

}  // namespace

std::optional<size_t> json_error_position(std::string_view text) { return JsonScan(text).error_position(); }

Result<JsonValue> parse_body(std::string_view body, const ApiLimits& limits) {
  Result<JsonValue> json = JsonValue::parse(body, {.max_depth = limits.json_depth});
  if (!json) {
    const std::optional<size_t> at = json_error_position(body);
    if (!at) return Error{json.error().code, "body: " + json.error().message};
    return Error{json.error().code,
                 fmt::format("body: {} at byte {} of {}", json.error().message, *at, body.size())};
  }
  if (!json->is_object()) return expected_at("body", "a JSON object", &*json);
  return json;
}

Error expected_at(std::string_view path, std::string_view expected, const JsonValue* seen) {
  return {ErrorCode::kInvalid, fmt::format("{}: expected {}, saw {}", path, expected, describe(seen))};
}

Status JsonFields::check_object() const {
  if (object_.is_object()) return {};
  return expected_at(path_.empty() ? "body" : path_, "an object", &object_);
}

const JsonValue* JsonFields::find(std::string_view key) const {
  const JsonValue* value = object_.find(key);
  return value != nullptr && value->is_null() ? nullptr : value;
}

std::string JsonFields::path_of(std::string_view key) const {
  return path_.empty() ? std::string(key) : fmt::format("{}.{}", path_, key);
}

Error JsonFields::wrong(std::string_view key, std::string_view expected) const {
  return expected_at(path_of(key), expected, find(key));
}

Result<std::string> JsonFields::text(std::string_view key) const {
  const JsonValue* value = find(key);
  if (value == nullptr) return std::string();
  if (!value->is_string()) return wrong(key, "a string");
  return value->as_string();
}

Result<std::string> JsonFields::required_text(std::string_view key) const {
  const JsonValue* value = find(key);
  if (value == nullptr || !value->is_string() || value->as_string().empty()) {
    return wrong(key, "a string that is not empty");
  }
  return value->as_string();
}

Result<bool> JsonFields::flag(std::string_view key, bool absent) const {
  const JsonValue* value = find(key);
  if (value == nullptr) return absent;
  if (!value->is_bool()) return wrong(key, "true or false");
  return value->as_bool();
}

Result<std::optional<double>> JsonFields::number(std::string_view key, double min, double max) const {
  const JsonValue* value = find(key);
  if (value == nullptr) return std::optional<double>();
  if (!value->is_number() || !(value->as_double() >= min && value->as_double() <= max)) {
    return wrong(key, fmt::format("a number from {} to {}", min, max));
  }
  return std::optional(value->as_double());
}

Result<std::optional<int64_t>> JsonFields::integer(std::string_view key, int64_t min, int64_t max) const {
  const JsonValue* value = find(key);
  if (value == nullptr) return std::optional<int64_t>();
  std::optional<int64_t> read;
  if (value->is_number()) {
    read = value->as_int64();
    // Clients whose numbers are all doubles write 32000.0.
    if (!read && std::abs(value->as_double()) < 9e15 &&
        std::floor(value->as_double()) == value->as_double()) {
      read = static_cast<int64_t>(value->as_double());
    }
  }
  if (!read || *read < min || *read > max) {
    return wrong(key, fmt::format("an integer from {} to {}", min, max));
  }
  return read;
}

Result<const JsonValue::Array*> JsonFields::array(std::string_view key) const {
  const JsonValue* value = find(key);
  if (value == nullptr) return static_cast<const JsonValue::Array*>(nullptr);
  if (!value->is_array()) return wrong(key, "an array");
  return &value->as_array();
}

Result<const JsonValue*> JsonFields::object(std::string_view key) const {
  const JsonValue* value = find(key);
  if (value != nullptr && !value->is_object()) return wrong(key, "an object");
  return value;
}

}  // namespace kvasir
