// Which line is which command, and what is wrong with the others.
#include "cli/chat_command.h"

#include <gtest/gtest.h>

namespace kvasir {
namespace {

template <class Command>
Command expect(std::string_view line) {
  auto r = parse_chat_command(line, "/home/ada");
  if (!r) {
    ADD_FAILURE() << line << ": " << r.error().message;
    return {};
  }
  if (!std::holds_alternative<Command>(*r)) {
    ADD_FAILURE() << line << " is command " << r->index();
    return {};
  }
  return std::get<Command>(*r);
}

std::string error_of(std::string_view line) {
  auto r = parse_chat_command(line, "/home/ada");
  return r ? "no error" : r.error().message;
}

TEST(ChatCommand, WhatIsNoCommandIsSaidAsItIs) {
  for (const char* text : {"hello", "", " /file x", "a /stats b", "/file x\nand more", "\n/exit"}) {
    EXPECT_EQ(expect<SayCommand>(text).text, text);
  }
}

TEST(ChatCommand, TwoSlashesSayALineThatBeginsWithOne) {
  EXPECT_EQ(expect<SayCommand>("//etc is what?").text, "/etc is what?");
}

TEST(ChatCommand, PathsKeepTheirSpacesAndLoseTheirQuotes) {
  EXPECT_EQ(expect<AttachFileCommand>("/file src/a.cc").path, "src/a.cc");
  EXPECT_EQ(expect<AttachFileCommand>("/file   my notes.txt \t").path, "my notes.txt");
  EXPECT_EQ(expect<AttachFileCommand>("/file \" odd \"").path, " odd ");
  EXPECT_EQ(expect<SaveCommand>("/save ~/talk.json").path, "/home/ada/talk.json");
  EXPECT_EQ(expect<LoadCommand>("/load ~talk").path, "~talk");
}

TEST(ChatCommand, WithoutAHomeATildeStays) {
  auto r = parse_chat_command("/load ~/x", "");
  ASSERT_TRUE(r);
  EXPECT_EQ(std::get<LoadCommand>(*r).path, "~/x");
}

TEST(ChatCommand, ThinkTakesThreeWords) {
  EXPECT_EQ(expect<SetThinkCommand>("/think off").think, ThinkChoice::kOff);
  EXPECT_EQ(expect<SetThinkCommand>("/think  high").think, ThinkChoice::kHigh);
  EXPECT_EQ(expect<SetThinkCommand>("/think max ").think, ThinkChoice::kMax);
  EXPECT_EQ(error_of("/think hard"), "/think is off, high or max, got 'hard'");
}

TEST(ChatCommand, CommandsWithoutArgumentsRefuseThem) {
  expect<ShowStatsCommand>("/stats");
  expect<HelpCommand>("/help ");
  expect<ExitCommand>("/exit");
  EXPECT_EQ(error_of("/exit now"), "/exit takes no argument, got 'now'");
}

TEST(ChatCommand, MissingArgumentsAndUnknownCommandsAreErrors) {
  EXPECT_EQ(error_of("/file"), "/file needs PATH");
  EXPECT_EQ(error_of("/save  "), "/save needs FILE");
  EXPECT_EQ(error_of("/think"), "/think needs off|high|max");
  EXPECT_NE(error_of("/quit").find("no command /quit"), std::string::npos);
  EXPECT_NE(error_of("/").find("no command /;"), std::string::npos);
}

TEST(ChatCommand, HelpNamesEveryCommand) {
  std::string help = chat_help();
  for (const char* name : {"/file", "/think", "/stats", "/save", "/load", "/help", "/exit"}) {
    EXPECT_NE(help.find(name), std::string::npos) << name;
  }
}

}  // namespace
}  // namespace kvasir
