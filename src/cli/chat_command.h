// ChatCommand: what one message typed into `kvasir chat` asks for.
//
// A single line that begins with a slash is a command; everything else, and anything of several lines, is
// said to the model. A line that begins with two slashes is said with the first one removed.
#pragma once

#include <string>
#include <string_view>
#include <variant>

#include "base/result.h"
#include "cli/sampling_options.h"

namespace kvasir {

struct SayCommand {
  std::string text;
};  // to the model
struct AttachFileCommand {
  std::string path;
};  // /file PATH: goes with the next message
struct SetThinkCommand {
  ThinkChoice think;
};  // /think off|high|max
struct ShowStatsCommand {};  // /stats
struct SaveCommand {
  std::string path;
};  // /save FILE
struct LoadCommand {
  std::string path;
};  // /load FILE
struct HelpCommand {};  // /help
struct ExitCommand {};  // /exit

using ChatCommand = std::variant<SayCommand, AttachFileCommand, SetThinkCommand, ShowStatsCommand,
                                 SaveCommand, LoadCommand, HelpCommand, ExitCommand>;

// `home` stands for a leading "~/" of a path; empty: paths stay as typed. Errors: an unknown command, an
// argument missing, unexpected or not one of the choices.
Result<ChatCommand> parse_chat_command(std::string_view message, std::string_view home);

// What /help prints: one line per command.
std::string chat_help();

}  // namespace kvasir
