// The TOML form of the settings; the only file that includes toml++.
#include <fmt/core.h>

#define TOML_EXCEPTIONS 0
#include <toml++/toml.h>

#include <string>

#include "io/file.h"
#include "server/settings.h"

namespace kvasir {
namespace {

constexpr int64_t kMaxFileBytes = 1 << 20;

// The text of a value as a flag would give it. Tables and dates have none.
bool value_text(const toml::node& node, std::string& out) {
  if (auto* text = node.as_string()) return out = text->get(), true;
  if (auto* number = node.as_integer()) return out = fmt::format("{}", number->get()), true;
  if (auto* number = node.as_floating_point()) return out = fmt::format("{}", number->get()), true;
  if (auto* flag = node.as_boolean()) return out = flag->get() ? "true" : "false", true;
  auto* array = node.as_array();
  if (!array) return false;
  out.clear();
  for (const toml::node& item : *array) {
    if (!item.is_string()) return false;
    out += (out.empty() ? "" : ",") + item.as_string()->get();
  }
  return true;
}

Error at(const std::string& file, const toml::source_position& where, std::string_view what) {
  return Error{ErrorCode::kInvalid, fmt::format("{}:{}:{}: {}", file, where.line, where.column, what)};
}

}  // namespace

Status read_settings_file(const std::string& file, Settings& settings) {
  KVASIR_TRY(std::string text, read_text_file(file, kMaxFileBytes));
  toml::parse_result parsed = toml::parse(text, file);
  if (!parsed) return at(file, parsed.error().source().begin, parsed.error().description());
  for (const auto& [table_name, node] : parsed.table()) {
    const toml::table* table = node.as_table();
    if (!table)
      return at(file, node.source().begin,
                fmt::format("{}: settings stand in tables such as [server]", table_name.str()));
    for (const auto& [name, value] : *table) {
      std::string key = fmt::format("{}.{}", table_name.str(), name.str());
      std::string value_as_text;
      if (!value_text(value, value_as_text)) {
        return at(file, value.source().begin,
                  fmt::format("{}: expected a string, number, boolean or list of strings", key));
      }
      if (auto status = set_setting(settings, key, value_as_text); !status) {
        return at(file, value.source().begin, fmt::format("{}: {}", key, status.error().message));
      }
    }
  }
  return {};
}

}  // namespace kvasir
