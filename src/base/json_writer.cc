// Escaping and punctuation of JSON output; see json_writer.h for the rules.
#include "base/json_writer.h"

#include <charconv>
#include <cmath>

#include "base/check.h"

namespace kvasir {
namespace {

// Bytes of the well-formed UTF-8 sequence at the start of `text` (Unicode table 3-7), 0 if there is none.
size_t utf8_sequence(std::string_view text) {
  auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  unsigned lead = byte(0);
  if (lead < 0x80) return 1;
  size_t length = lead >= 0xC2 && lead <= 0xDF   ? 2
                  : (lead & 0xF0) == 0xE0        ? 3
                  : lead >= 0xF0 && lead <= 0xF4 ? 4
                                                 : 0;
  if (length == 0 || text.size() < length) return 0;
  unsigned low = 0x80,
           high = 0xBF;  // of the second byte: no overlong form, no surrogate, nothing past U+10FFFF
  if (lead == 0xE0) low = 0xA0;
  if (lead == 0xED) high = 0x9F;
  if (lead == 0xF0) low = 0x90;
  if (lead == 0xF4) high = 0x8F;
  if (byte(1) < low || byte(1) > high) return 0;
  for (size_t i = 2; i < length; ++i) {
    if (byte(i) < 0x80 || byte(i) > 0xBF) return 0;
  }
  return length;
}

void append_escaped(std::string& out, char c) {
  switch (c) {
    case '"':
      out += "\\\"";
      return;
    case '\\':
      out += "\\\\";
      return;
    case '\n':
      out += "\\n";
      return;
    case '\r':
      out += "\\r";
      return;
    case '\t':
      out += "\\t";
      return;
    default:
      break;
  }
  auto byte = static_cast<unsigned char>(c);
  if (byte < 0x20 || byte == 0x7F) {
    out += fmt::format("\\u{:04x}", byte);
  } else {
    out += c;
  }
}

}  // namespace

std::string json_quote(std::string_view text) {
  std::string out = "\"";
  out.reserve(text.size() + 2);
  while (!text.empty()) {
    size_t length = utf8_sequence(text);
    if (length == 0) {
      out += "\xEF\xBF\xBD";
      length = 1;
    } else if (length == 1) {
      append_escaped(out, text[0]);
    } else {
      out += text.substr(0, length);
    }
    text.remove_prefix(length);
  }
  out += '"';
  return out;
}

void JsonWriter::new_line() {
  if (layout_ == Layout::kCompact) return;
  out_ += '\n';
  out_.append(2 * levels_.size(), ' ');
}

void JsonWriter::before_value() {
  KVASIR_CHECK(!done_, "a second top-level JSON value");
  if (levels_.empty()) return;
  Level& level = levels_.back();
  if (level.object) {
    KVASIR_CHECK(after_key_, "a JSON value inside an object needs a key first");
    after_key_ = false;
    return;
  }
  if (!level.empty) out_ += ',';
  level.empty = false;
  new_line();
}

JsonWriter& JsonWriter::key(std::string_view name) {
  KVASIR_CHECK(!levels_.empty() && levels_.back().object && !after_key_, "JSON key \"{}\" outside an object",
               name);
  if (!levels_.back().empty) out_ += ',';
  levels_.back().empty = false;
  new_line();
  out_ += json_quote(name);
  out_ += layout_ == Layout::kCompact ? ":" : ": ";
  after_key_ = true;
  return *this;
}

JsonWriter& JsonWriter::begin_object() {
  before_value();
  out_ += '{';
  levels_.push_back({.object = true});
  return *this;
}

JsonWriter& JsonWriter::begin_array() {
  before_value();
  out_ += '[';
  levels_.push_back({.object = false});
  return *this;
}

void JsonWriter::end(bool object) {
  KVASIR_CHECK(!levels_.empty() && levels_.back().object == object && !after_key_, "unbalanced JSON");
  bool empty = levels_.back().empty;
  levels_.pop_back();
  if (!empty) new_line();
  out_ += object ? '}' : ']';
  done_ = levels_.empty();
}

JsonWriter& JsonWriter::end_object() {
  end(true);
  return *this;
}

JsonWriter& JsonWriter::end_array() {
  end(false);
  return *this;
}

JsonWriter& JsonWriter::raw(std::string_view text) {
  before_value();
  out_ += text;
  done_ = levels_.empty();
  return *this;
}

JsonWriter& JsonWriter::value(std::string_view text) { return raw(json_quote(text)); }

JsonWriter& JsonWriter::value(bool flag) { return raw(flag ? "true" : "false"); }

JsonWriter& JsonWriter::value(double number) {
  if (!std::isfinite(number)) return null();
  char buffer[40];
  auto [end, error] = std::to_chars(buffer, buffer + sizeof(buffer), number);
  KVASIR_CHECK(error == std::errc(), "a double needs more than {} characters", sizeof(buffer));
  return raw({buffer, static_cast<size_t>(end - buffer)});
}

const std::string& JsonWriter::text() const {
  KVASIR_CHECK(done_, "JSON read before its end");
  return out_;
}

}  // namespace kvasir
