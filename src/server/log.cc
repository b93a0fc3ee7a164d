// Lines by fmt, delivery by spdlog; the only file that includes it.
#include "server/log.h"

#include <fmt/core.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include "base/json_writer.h"

namespace kvasir {
namespace {

spdlog::level::level_enum spd_level(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return spdlog::level::debug;
    case LogLevel::kInfo:
      return spdlog::level::info;
    case LogLevel::kWarning:
      return spdlog::level::warn;
    case LogLevel::kError:
      return spdlog::level::err;
  }
  return spdlog::level::info;
}

// Bare if it is a plain word, else as a JSON string.
std::string text_value(std::string_view text) {
  bool plain = !text.empty();
  for (char c : text) plain &= c > 0x20 && c < 0x7f && c != '"' && c != '=' && c != '\\';
  return plain ? std::string(text) : json_quote(text);
}

std::string value_text(const LogField& field, LogFormat format) {
  if (auto* number = std::get_if<int64_t>(&field.value)) return fmt::format("{}", *number);
  if (auto* number = std::get_if<double>(&field.value)) return fmt::format("{:.6g}", *number);
  std::string_view text = std::get<std::string_view>(field.value);
  return format == LogFormat::kJson ? json_quote(text) : text_value(text);
}

}  // namespace

struct Log::Sink {
  spdlog::logger logger{"kvasir", std::make_shared<spdlog::sinks::stderr_sink_mt>()};
};

Log::Log(LogLevel level, LogFormat format, bool prompts)
    : sink_(std::make_unique<Sink>()), level_(level), format_(format), prompts_(prompts) {
  sink_->logger.set_level(spd_level(level));
  sink_->logger.set_pattern(format == LogFormat::kJson
                                ? R"({"time":"%Y-%m-%dT%H:%M:%S.%e%z","level":"%l",%v})"
                                : "%Y-%m-%d %H:%M:%S.%e %L %v");
  sink_->logger.flush_on(spdlog::level::trace);
}

Log::~Log() = default;

std::string log_line(LogFormat format, std::string_view event, Log::Fields fields) {
  bool json = format == LogFormat::kJson;
  std::string line = json ? fmt::format(R"("event":{})", json_quote(event)) : std::string(event);
  for (const LogField& field : fields) {
    line += json ? fmt::format(",{}:{}", json_quote(field.name), value_text(field, format))
                 : fmt::format(" {}={}", field.name, value_text(field, format));
  }
  return line;
}

void Log::write(LogLevel level, std::string_view event, Fields fields) {
  if (level < level_) return;
  sink_->logger.log(spd_level(level), spdlog::string_view_t(log_line(format_, event, fields)));
}

}  // namespace kvasir
