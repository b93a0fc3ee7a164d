// Log: one line per event, with the request's id, for people ("text") or machines ("json").
//
//   log.info("request", {{"id", id}, {"status", 200}, {"ms", 12.5}});
//
// Nobody passes a prompt, an answer or a key here unless Log::prompts() says so. Values are escaped, so that
// nothing a client sends can end a line or steer a terminal. Any thread.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <string>
#include <string_view>
#include <variant>

#include "server/settings.h"

namespace kvasir {

struct LogField {
  std::string_view name;
  std::variant<int64_t, double, std::string_view> value;

  LogField(std::string_view field, std::string_view text) : name(field), value(text) {}
  LogField(std::string_view field, const std::string& text) : name(field), value(std::string_view(text)) {}
  LogField(std::string_view field, const char* text) : name(field), value(std::string_view(text)) {}
  LogField(std::string_view field, double number) : name(field), value(number) {}
  LogField(std::string_view field, int64_t number) : name(field), value(number) {}
  LogField(std::string_view field, int number) : name(field), value(int64_t{number}) {}
};

class Log {
 public:
  // Writes to standard error.
  Log(LogLevel level, LogFormat format, bool prompts);
  ~Log();

  using Fields = std::initializer_list<LogField>;
  void debug(std::string_view event, Fields fields) { write(LogLevel::kDebug, event, fields); }
  void info(std::string_view event, Fields fields) { write(LogLevel::kInfo, event, fields); }
  void warning(std::string_view event, Fields fields) { write(LogLevel::kWarning, event, fields); }
  void error(std::string_view event, Fields fields) { write(LogLevel::kError, event, fields); }

  // Whether prompts and answers may be logged.
  bool prompts() const { return prompts_; }

 private:
  void write(LogLevel level, std::string_view event, Fields fields);

  struct Sink;
  std::unique_ptr<Sink> sink_;
  LogLevel level_;
  LogFormat format_;
  bool prompts_;
};

// The line of one event, without time and level: `event name=value ...` or a JSON object's members.
std::string log_line(LogFormat format, std::string_view event, Log::Fields fields);

}  // namespace kvasir
