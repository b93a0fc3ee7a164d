// JsonWriter: prints JSON in the order in which it is told, for every --json output and saved file.
//
//   JsonWriter json;
//   json.begin_object().field("tokens", 12).begin_array("ids").value(7).value(9).end_array().end_object();
//   puts(json.text().c_str());
//
// Numbers print as the shortest text that reads back as the same double; NaN and infinities, which JSON
// has not, print as null. Text that is not UTF-8 gets U+FFFD for each byte that does not belong. Unbalanced
// calls are bugs and abort. Threading: none.
#pragma once

#include <concepts>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace kvasir {

class JsonWriter {
 public:
  enum class Layout { kCompact, kIndented };  // one line; or two spaces a level

  explicit JsonWriter(Layout layout = Layout::kCompact) : layout_(layout) {}

  JsonWriter& begin_object();
  JsonWriter& begin_array();
  JsonWriter& end_object();
  JsonWriter& end_array();
  JsonWriter& begin_object(std::string_view name) { return key(name).begin_object(); }
  JsonWriter& begin_array(std::string_view name) { return key(name).begin_array(); }

  // Inside an object: the next value's name. A name given twice is the caller's business.
  JsonWriter& key(std::string_view name);

  JsonWriter& value(std::string_view text);
  JsonWriter& value(const char* text) { return value(std::string_view(text)); }
  JsonWriter& value(bool flag);
  JsonWriter& value(double number);
  template <std::integral Int>
  JsonWriter& value(Int number) {
    return raw(std::to_string(number));
  }
  JsonWriter& null() { return raw("null"); }
  // A finished JSON value, printed as it is.
  JsonWriter& json(std::string_view text) { return raw(text); }

  template <class T>
  JsonWriter& field(std::string_view name, const T& v) {
    return key(name).value(v);
  }

  // The finished text, without a line end. Everything opened must be closed.
  const std::string& text() const;

 private:
  struct Level {
    bool object = false;
    bool empty = true;
  };
  JsonWriter& raw(std::string_view text);  // a complete scalar
  void before_value();
  void new_line();
  void end(bool object);

  Layout layout_;
  std::string out_;
  std::vector<Level> levels_;
  bool after_key_ = false;
  bool done_ = false;  // the one top-level value is complete
};

// `text` in quotes, escaped as JSON wants.
std::string json_quote(std::string_view text);

}  // namespace kvasir
