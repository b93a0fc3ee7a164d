// The contents of the added tokens that structure a conversation, and the tag names of a tool block.
//
// The bars are U+FF5C and the low blanks U+2581, not their ASCII look-alikes. Source: protocol.md 1.3.
#pragma once

#include <string_view>

namespace kvasir {

inline constexpr std::string_view kBosText = "<｜begin▁of▁sentence｜>";
inline constexpr std::string_view kEosText = "<｜end▁of▁sentence｜>";
inline constexpr std::string_view kUserText = "<｜User｜>";
inline constexpr std::string_view kAssistantText = "<｜Assistant｜>";
inline constexpr std::string_view kThinkText = "<think>";
inline constexpr std::string_view kEndThinkText = "</think>";
inline constexpr std::string_view kDsmlText = "｜DSML｜";
inline constexpr std::string_view kLatestReminderText = "<｜latest_reminder｜>";

}  // namespace kvasir
