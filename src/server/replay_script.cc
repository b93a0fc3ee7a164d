// Reading and handing out scripted answers; see replay_script.h.
#include "server/replay_script.h"

#include <fmt/core.h>

#include "io/file.h"
#include "text/json_value.h"

namespace kvasir {
namespace {

constexpr int64_t kMaxFileBytes = int64_t{256} << 20;

}  // namespace

Result<std::unique_ptr<ReplayScript>> ReplayScript::load(const std::string& file) {
  KVASIR_TRY(std::string text, read_text_file(file, kMaxFileBytes));
  auto script = std::make_unique<ReplayScript>();
  std::string_view rest = text;
  for (int number = 1; !rest.empty(); ++number) {
    size_t end = std::min(rest.find('\n'), rest.size());
    std::string_view line = rest.substr(0, end);
    rest.remove_prefix(std::min(end + 1, rest.size()));
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    auto fail = [&](std::string_view what) {
      return Error{ErrorCode::kInvalid, fmt::format("{}:{}: {}", file, number, what)};
    };
    auto value = JsonValue::parse(line);
    if (!value) return fail(value.error().message);
    if (!value->is_object())
      return fail("expected an object with \"text\" and perhaps \"match\" and \"repeat\"");
    Line entry;
    bool has_text = false;
    for (const auto& [key, member] : value->as_object()) {
      if (key == "text" && member.is_string()) {
        entry.text = member.as_string();
        has_text = true;
      } else if (key == "match" && member.is_string()) {
        entry.match = member.as_string();
      } else if (key == "tools" && member.is_bool()) {
        entry.tools = member.as_bool();
      } else if (key == "repeat" && member.is_bool()) {
        entry.repeat = member.as_bool();
      } else {
        return fail(
            fmt::format("\"{}\" is {}; there are \"text\" and \"match\", strings, \"tools\" and \"repeat\", "
                        "true or false",
                        key, json_kind_name(member.kind())));
      }
    }
    if (!has_text) return fail("no \"text\"");
    script->lines_.push_back(std::move(entry));
  }
  return script;
}

bool ReplayScript::take(std::string_view last_message, bool offers_tools, std::string& text) {
  std::lock_guard lock(mutex_);
  for (Line& line : lines_) {
    if (line.used || line.tools.value_or(offers_tools) != offers_tools) continue;
    if (last_message.find(line.match) == std::string_view::npos) continue;
    line.used = !line.repeat;
    text = line.text;
    return true;
  }
  return false;
}

}  // namespace kvasir
