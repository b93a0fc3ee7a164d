// The commands of `kvasir chat`, one row each, and their parser; see chat_command.h.
#include "cli/chat_command.h"

#include <fmt/core.h>

#include <optional>

#include "cli/table.h"

namespace kvasir {
namespace {

struct CommandRow {
  std::string_view name;
  std::string_view argument;  // how /help shows it; empty: takes none
  std::string_view help;
};

constexpr CommandRow kCommands[] = {
    {"/file", "PATH", "put a file, with its name, in front of the next message"},
    {"/think", "off|high|max", "how long the model reasons before it answers"},
    {"/stats", "", "tokens, rates and cache bytes so far"},
    {"/save", "FILE", "write the conversation to a file"},
    {"/load", "FILE", "go on with a saved conversation"},
    {"/help", "", "this list"},
    {"/exit", "", "leave (Ctrl-D does too)"},
};

std::string_view trimmed(std::string_view text) {
  size_t first = text.find_first_not_of(" \t");
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(" \t") - first + 1);
}

// The rest of the line is the path, spaces and all; quotes around it are dropped.
std::string path_of(std::string_view argument, std::string_view home) {
  if (argument.size() >= 2 && argument.front() == '"' && argument.back() == '"') {
    return std::string(argument.substr(1, argument.size() - 2));
  }
  if (argument.substr(0, 2) == "~/" && !home.empty())
    return std::string(home) + std::string(argument.substr(1));
  return std::string(argument);
}

std::optional<ThinkChoice> think_of(std::string_view argument) {
  if (argument == "off") return ThinkChoice::kOff;
  if (argument == "high") return ThinkChoice::kHigh;
  if (argument == "max") return ThinkChoice::kMax;
  return std::nullopt;
}

}  // namespace

Result<ChatCommand> parse_chat_command(std::string_view message, std::string_view home) {
  if (message.empty() || message[0] != '/' || message.find('\n') != std::string_view::npos) {
    return ChatCommand(SayCommand{std::string(message)});
  }
  if (message.substr(0, 2) == "//") return ChatCommand(SayCommand{std::string(message.substr(1))});

  std::string_view line = trimmed(message);
  std::string_view name = line.substr(0, line.find_first_of(" \t"));
  std::string_view argument = trimmed(line.substr(name.size()));
  const CommandRow* row = nullptr;
  for (const CommandRow& c : kCommands) {
    if (c.name == name) row = &c;
  }
  if (!row) {
    return Error{
        ErrorCode::kInvalid,
        fmt::format(
            "no command {}; /help lists them (to say a line that begins with a slash, begin it with two)",
            name)};
  }
  if (row->argument.empty() && !argument.empty()) {
    return Error{ErrorCode::kInvalid, fmt::format("{} takes no argument, got '{}'", name, argument)};
  }
  if (!row->argument.empty() && argument.empty()) {
    return Error{ErrorCode::kInvalid, fmt::format("{} needs {}", name, row->argument)};
  }

  if (name == "/file") return ChatCommand(AttachFileCommand{path_of(argument, home)});
  if (name == "/save") return ChatCommand(SaveCommand{path_of(argument, home)});
  if (name == "/load") return ChatCommand(LoadCommand{path_of(argument, home)});
  if (name == "/stats") return ChatCommand(ShowStatsCommand{});
  if (name == "/help") return ChatCommand(HelpCommand{});
  if (name == "/exit") return ChatCommand(ExitCommand{});
  std::optional<ThinkChoice> think = think_of(argument);  // /think is the only one left
  if (!think)
    return Error{ErrorCode::kInvalid, fmt::format("/think is off, high or max, got '{}'", argument)};
  return ChatCommand(SetThinkCommand{*think});
}

std::string chat_help() {
  Table table({Align::kLeft, Align::kLeft});
  for (const CommandRow& c : kCommands) {
    table.add_row(
        {fmt::format("{}{}{}", c.name, c.argument.empty() ? "" : " ", c.argument), std::string(c.help)});
  }
  return table.text() +
         "A line ending in a backslash goes on; lines between two lines of \"\"\" are one message.\n"
         "Ctrl-C stops an answer.\n";
}

}  // namespace kvasir
