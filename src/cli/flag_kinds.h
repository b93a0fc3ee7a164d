// Kinds of flags, for the files that declare them: numbers in a range, a few words. Shows CLI11: only for
// command_line.cc and server_commands.cc.
#pragma once

#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <charconv>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace kvasir {

// The whole of `text` as a decimal number.
template <class T>
bool parse_number(std::string_view text, T& out) {
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out);
  return error == std::errc() && end == text.data() + text.size();
}

// A number within [low, high], for Option::transform. CLI11's own conversions take -1 for an unsigned number,
// 010 for 8, and let NaN through its Range; so the text is parsed here and handed on in plain form.
template <class T>
CLI::Validator between(T low, T high) {
  auto check = [=](std::string& text) {
    T value{};
    if (!parse_number(text, value) || !(value >= low && value <= high)) {
      return fmt::format("'{}' is not a number from {} to {}", text, low, high);
    }
    text = fmt::format("{}", value);
    return std::string();
  };
  return CLI::Validator(check, "");
}

// An option whose value is one of a few words. `target` may be the enum or an optional of it.
template <class Enum, class Target>
CLI::Option* add_choice(CLI::App& app, const std::string& flag, Target& target,
                        std::vector<std::pair<std::string, Enum>> choices, const std::string& help) {
  std::string names;
  for (const auto& choice : choices) names += (names.empty() ? "" : "|") + choice.first;
  auto check = [choices, names](std::string& text) {
    for (const auto& choice : choices) {
      if (choice.first == text) return std::string();
    }
    return fmt::format("'{}' is not one of {}", text, names);
  };
  auto assign = [choices, &target](const std::string& text) {
    for (const auto& choice : choices) {
      if (choice.first == text) target = choice.second;
    }
  };
  return app.add_option_function<std::string>(flag, assign, help)
      ->check(CLI::Validator(check, ""))
      ->type_name(names);
}

inline void declare_model(CLI::App& app, std::string& model_dir) {
  app.add_option("-m,--model", model_dir, "Checkpoint folder (default: the bundled model)")->type_name("DIR");
}

inline void declare_json(CLI::App& app, bool& json, const std::string& help) {
  app.add_flag("--json", json, help);
}

}  // namespace kvasir
