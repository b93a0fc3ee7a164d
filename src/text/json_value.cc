// JsonValue's parser and writer. Parsing is simdjson's DOM, which is strict and bounded in depth, with one
// addition: simdjson refuses integers of 2^64 and more, while Python, and so the prompt, keeps their digits.
// Long integers are therefore blanked out to 0 in the copy that simdjson reads and put back by their ordinal
// among all numbers of the document. simdjson still judges everything else, so nothing malformed gets in.
#include "text/json_value.h"

#include <simdjson.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>
#include <unordered_map>

#include "base/check.h"

namespace kvasir {
namespace {

constexpr size_t kShortIntegerDigits = 18;  // always below 2^63

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool continues_number(char c) {
  return is_digit(c) || c == '.' || c == 'e' || c == 'E' || c == '+' || c == '-';
}

// Python's repr of a finite double: the shortest digits that read back as the same value, in positional form
// while the decimal exponent is in [-4, 16).
std::string python_float(double value) {
  char buffer[40];
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::scientific).ptr;
  std::string_view s(buffer, end - buffer);
  std::string out;
  if (s[0] == '-') {
    out += '-';
    s.remove_prefix(1);
  }
  const size_t e = s.find('e');
  int exponent = 0;
  const char* exponent_begin = s.data() + e + 1 + (s[e + 1] == '+' ? 1 : 0);
  std::from_chars(exponent_begin, s.data() + s.size(), exponent);
  std::string digits(1, s[0]);
  if (e > 2) digits += s.substr(2, e - 2);

  const int count = static_cast<int>(digits.size());
  if (exponent < -4 || exponent >= 16) {
    out += digits[0];
    if (count > 1) out += '.' + digits.substr(1);
    out += exponent < 0 ? "e-" : "e+";
    const std::string power = std::to_string(std::abs(exponent));
    if (power.size() < 2) out += '0';
    return out + power;
  }
  if (exponent < 0) return out + "0." + std::string(-exponent - 1, '0') + digits;
  if (count <= exponent + 1) return out + digits + std::string(exponent + 1 - count, '0') + ".0";
  return out + digits.substr(0, exponent + 1) + '.' + digits.substr(exponent + 1);
}

// Length of the valid UTF-8 sequence at the start of `s`; 0 when there is none.
size_t utf8_length(std::string_view s) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(s[i]); };
  const unsigned char c = byte(0);
  if (c < 0x80) return 1;
  const size_t n = c >= 0xF0 ? 4 : c >= 0xE0 ? 3 : 2;
  if (c < 0xC2 || c > 0xF4 || s.size() < n) return 0;
  for (size_t i = 1; i < n; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return 0;
  }
  // Overlong forms, surrogates, and code points above U+10FFFF.
  if ((c == 0xE0 && byte(1) < 0xA0) || (c == 0xED && byte(1) > 0x9F) || (c == 0xF0 && byte(1) < 0x90) ||
      (c == 0xF4 && byte(1) > 0x8F)) {
    return 0;
  }
  return n;
}

}  // namespace

// Builds a JsonValue from simdjson's tape; knows which numbers of the document were too long for it.
class JsonReader {
 public:
  explicit JsonReader(std::string_view text) : copy_(text), bytes_(text.size()) {
    blank_long_integers(text);
    copy_.append(simdjson::SIMDJSON_PADDING, ' ');
  }

  Result<JsonValue> read(const JsonValueLimits& limits) {
    simdjson::dom::parser parser;
    // One level more than allowed, so that the limit is ours, with our message, and not simdjson's.
    if (auto error = parser.allocate(bytes_, limits.max_depth + 2)) return fail(error);
    simdjson::dom::element root;
    if (auto error = parser.parse(copy_.data(), bytes_, false).get(root)) return fail(error);
    max_depth_ = limits.max_depth;
    JsonValue value;
    KVASIR_TRY_STATUS(convert(root, 0, value));
    KVASIR_CHECK(next_long_ == long_integers_.size(), "{} of {} long integers placed", next_long_,
                 long_integers_.size());
    return value;
  }

 private:
  struct LongInteger {
    size_t ordinal;  // among the document's numbers
    std::string_view digits;
  };

  void blank_long_integers(std::string_view text) {
    size_t ordinal = 0;
    for (size_t i = 0; i < text.size();) {
      if (text[i] == '"') {
        for (++i; i < text.size() && text[i] != '"'; ++i) i += text[i] == '\\';
        ++i;
      } else if (is_digit(text[i]) || text[i] == '-') {
        const size_t begin = i;
        size_t digits_end = i + (text[i] == '-');
        while (digits_end < text.size() && is_digit(text[digits_end])) ++digits_end;
        i = std::max(digits_end, begin + 1);
        while (i < text.size() && continues_number(text[i])) ++i;
        const size_t first = begin + (text[begin] == '-');
        if (i == digits_end && digits_end - first > kShortIntegerDigits && text[first] != '0') {
          long_integers_.push_back({ordinal, text.substr(begin, i - begin)});
          std::memset(copy_.data() + begin, ' ', i - begin);
          copy_[begin] = '0';
        }
        ++ordinal;
      } else {
        ++i;
      }
    }
  }

  static Error fail(simdjson::error_code error) {
    return Error{ErrorCode::kInvalid, std::string("not valid JSON: ") + simdjson::error_message(error)};
  }

  Status convert(simdjson::dom::element element, size_t depth, JsonValue& out) {
    using simdjson::dom::element_type;
    switch (element.type()) {
      case element_type::NULL_VALUE:
        return {};
      case element_type::BOOL:
        out = JsonValue(bool{element.get_bool().value_unsafe()});
        return {};
      case element_type::STRING:
        out = JsonValue(element.get_string().value_unsafe());
        return {};
      case element_type::INT64:
      case element_type::UINT64:
      case element_type::DOUBLE:
        out.v_ = JsonValue::Number{number_text(element)};
        return {};
      case element_type::ARRAY:
        return convert_array(element.get_array().value_unsafe(), depth + 1, out);
      case element_type::OBJECT:
        return convert_object(element.get_object().value_unsafe(), depth + 1, out);
    }
    KVASIR_CHECK(false, "simdjson element type {}", static_cast<int>(element.type()));
    return {};
  }

  std::string number_text(simdjson::dom::element element) {
    const size_t ordinal = next_number_++;
    if (next_long_ < long_integers_.size() && long_integers_[next_long_].ordinal == ordinal) {
      return std::string(long_integers_[next_long_++].digits);
    }
    if (element.is_int64()) return std::to_string(element.get_int64().value_unsafe());
    if (element.is_uint64()) return std::to_string(element.get_uint64().value_unsafe());
    return python_float(element.get_double().value_unsafe());
  }

  Status check_depth(size_t depth) const {
    if (depth <= max_depth_) return {};
    return Error{ErrorCode::kInvalid, "not accepted as JSON: more than " + std::to_string(max_depth_) +
                                          " nested arrays and objects"};
  }

  Status convert_array(simdjson::dom::array array, size_t depth, JsonValue& out) {
    KVASIR_TRY_STATUS(check_depth(depth));
    JsonValue::Array items;
    for (simdjson::dom::element element : array) {
      KVASIR_TRY_STATUS(convert(element, depth, items.emplace_back()));
    }
    out = JsonValue(std::move(items));
    return {};
  }

  Status convert_object(simdjson::dom::object object, size_t depth, JsonValue& out) {
    KVASIR_TRY_STATUS(check_depth(depth));
    JsonValue::Object members;
    std::unordered_map<std::string_view, size_t> place;  // keys live on simdjson's tape
    for (simdjson::dom::key_value_pair pair : object) {
      JsonValue value;
      KVASIR_TRY_STATUS(convert(pair.value, depth, value));
      const auto [at, inserted] = place.emplace(pair.key, members.size());
      if (inserted) {
        members.push_back({std::string(pair.key), std::move(value)});
      } else {
        members[at->second].value = std::move(value);
      }
    }
    out = JsonValue(std::move(members));
    return {};
  }

  std::string copy_;  // the document with long integers blanked, then simdjson's padding
  size_t bytes_;
  std::vector<LongInteger> long_integers_;
  size_t next_long_ = 0;
  size_t next_number_ = 0;
  size_t max_depth_ = 0;
};

JsonValue::JsonValue() = default;
JsonValue::JsonValue(bool value) : v_(value) {}
JsonValue::JsonValue(std::string value) : v_(std::move(value)) {}
JsonValue::JsonValue(std::string_view value) : v_(std::string(value)) {}
JsonValue::JsonValue(const char* value) : v_(std::string(value)) {}
JsonValue::JsonValue(Array value) : v_(std::move(value)) {}
JsonValue::JsonValue(Object value) : v_(std::move(value)) {}
JsonValue::JsonValue(const JsonValue&) = default;
JsonValue::JsonValue(JsonValue&&) noexcept = default;
JsonValue& JsonValue::operator=(const JsonValue&) = default;
JsonValue& JsonValue::operator=(JsonValue&&) noexcept = default;
JsonValue::~JsonValue() = default;

JsonValue::JsonValue(int64_t value) : v_(Number{std::to_string(value)}) {}

JsonValue::JsonValue(double value) {
  KVASIR_CHECK(std::isfinite(value), "JSON has no form for {}", value);
  v_ = Number{python_float(value)};
}

Result<JsonValue> JsonValue::parse(std::string_view text, const JsonValueLimits& limits) {
  if (text.size() > limits.max_bytes) {
    return Error{ErrorCode::kInvalid, "not accepted as JSON: " + std::to_string(text.size()) +
                                          " bytes, expected at most " + std::to_string(limits.max_bytes)};
  }
  return JsonReader(text).read(limits);
}

bool JsonValue::is_integer() const {
  return is_number() && std::get<Number>(v_).text.find_first_of(".e") == std::string::npos;
}

bool JsonValue::as_bool() const {
  KVASIR_CHECK(is_bool(), "value is {}", json_kind_name(kind()));
  return std::get<bool>(v_);
}

const std::string& JsonValue::as_string() const {
  KVASIR_CHECK(is_string(), "value is {}", json_kind_name(kind()));
  return std::get<std::string>(v_);
}

const JsonValue::Array& JsonValue::as_array() const {
  KVASIR_CHECK(is_array(), "value is {}", json_kind_name(kind()));
  return std::get<Array>(v_);
}

const JsonValue::Object& JsonValue::as_object() const {
  KVASIR_CHECK(is_object(), "value is {}", json_kind_name(kind()));
  return std::get<Object>(v_);
}

JsonValue::Object& JsonValue::as_object() {
  KVASIR_CHECK(is_object(), "value is {}", json_kind_name(kind()));
  return std::get<Object>(v_);
}

double JsonValue::as_double() const {
  KVASIR_CHECK(is_number(), "value is {}", json_kind_name(kind()));
  const std::string& text = std::get<Number>(v_).text;
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  // A long integer may exceed every double; Python compares it as larger than all of them.
  if (error == std::errc::result_out_of_range) return text[0] == '-' ? -HUGE_VAL : HUGE_VAL;
  return value;
}

std::optional<int64_t> JsonValue::as_int64() const {
  if (!is_integer()) return std::nullopt;
  const std::string& text = std::get<Number>(v_).text;
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc()) return std::nullopt;
  return value;
}

const JsonValue* JsonValue::find(std::string_view key) const {
  if (!is_object()) return nullptr;
  for (const Member& member : as_object()) {
    if (member.key == key) return &member.value;
  }
  return nullptr;
}

void JsonValue::set(std::string_view key, JsonValue value) {
  for (Member& member : as_object()) {
    if (member.key == key) {
      member.value = std::move(value);
      return;
    }
  }
  as_object().push_back({std::string(key), std::move(value)});
}

std::string JsonValue::dump() const {
  std::string out;
  dump_to(out);
  return out;
}

void JsonValue::dump_to(std::string& out) const {
  switch (kind()) {
    case Kind::kNull:
      out += "null";
      return;
    case Kind::kBool:
      out += as_bool() ? "true" : "false";
      return;
    case Kind::kNumber:
      out += std::get<Number>(v_).text;
      return;
    case Kind::kString:
      append_json_string(out, as_string());
      return;
    case Kind::kArray: {
      out += '[';
      std::string_view separator;
      for (const JsonValue& item : as_array()) {
        out += separator;
        item.dump_to(out);
        separator = ", ";
      }
      out += ']';
      return;
    }
    case Kind::kObject: {
      out += '{';
      std::string_view separator;
      for (const Member& member : as_object()) {
        out += separator;
        append_json_string(out, member.key);
        out += ": ";
        member.value.dump_to(out);
        separator = ", ";
      }
      out += '}';
      return;
    }
  }
}

std::string_view json_kind_name(JsonValue::Kind kind) {
  switch (kind) {
    case JsonValue::Kind::kNull:
      return "null";
    case JsonValue::Kind::kBool:
      return "a boolean";
    case JsonValue::Kind::kNumber:
      return "a number";
    case JsonValue::Kind::kString:
      return "a string";
    case JsonValue::Kind::kArray:
      return "an array";
    case JsonValue::Kind::kObject:
      return "an object";
  }
  return "unknown";
}

void append_json_string(std::string& out, std::string_view text) {
  constexpr char kHex[] = "0123456789abcdef";
  out += '"';
  for (size_t i = 0; i < text.size();) {
    const char c = text[i];
    const size_t length = utf8_length(text.substr(i));
    switch (c) {
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      case '\n':
        out += "\\n";
        break;
      case '\r':
        out += "\\r";
        break;
      case '\t':
        out += "\\t";
        break;
      case '\b':
        out += "\\b";
        break;
      case '\f':
        out += "\\f";
        break;
      default:
        if (length == 0) {
          out += "\xEF\xBF\xBD";
        } else if (static_cast<unsigned char>(c) < 0x20) {
          out += "\\u00";
          out += kHex[c >> 4];
          out += kHex[c & 15];
        } else {
          out += text.substr(i, length);
        }
    }
    i += length == 0 ? 1 : length;
  }
  out += '"';
}

}  // namespace kvasir
