// Messages from lines, lines from a pipe, the private history file, and Ctrl-C.
#include "cli/line_reader.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <thread>
#include <vector>

#include "cli/interrupt.h"

namespace kvasir {
namespace {

// What a LineReader makes of `input` arriving through a pipe.
std::vector<std::string> messages(const std::string& input) {
  int ends[2];
  EXPECT_EQ(pipe(ends), 0);
  std::thread writer([&] {
    EXPECT_EQ(write(ends[1], input.data(), input.size()), static_cast<ssize_t>(input.size()));
    close(ends[1]);
  });
  LineReader reader(ends[0], "", nullptr);
  EXPECT_FALSE(reader.is_terminal());
  std::vector<std::string> out;
  std::string message;
  while (reader.read("> ", message) == ReadOutcome::kMessage) out.push_back(message);
  EXPECT_EQ(reader.read("> ", message), ReadOutcome::kEnd) << "the end stays the end";
  writer.join();
  close(ends[0]);
  return out;
}

using Messages = std::vector<std::string>;

TEST(LineReader, EveryLineOfAPipeIsAMessage) {
  EXPECT_EQ(messages("one\ntwo\n\nfour\n"), (Messages{"one", "two", "", "four"}));
  EXPECT_EQ(messages("no line end"), (Messages{"no line end"}));
  EXPECT_EQ(messages("dos\r\nlines\r\n"), (Messages{"dos", "lines"}));
  EXPECT_EQ(messages(""), Messages{});
}

TEST(LineReader, ABackslashAtTheEndOfALineContinuesIt) {
  EXPECT_EQ(messages("a\\\nb\\\nc\nd\n"), (Messages{"a\nb\nc", "d"}));
  EXPECT_EQ(messages("\\\nb\n"), (Messages{"\nb"}));
  EXPECT_EQ(messages("a \\ b\n"), (Messages{"a \\ b"})) << "inside a line it is a character";
}

TEST(LineReader, LinesBetweenTripleQuotesAreOneMessage) {
  EXPECT_EQ(messages("\"\"\"\nint x;\\\n\n/exit\n  \"\"\"  \nnext\n"),
            (Messages{"int x;\\\n\n/exit", "next"}));
  EXPECT_EQ(messages("\"\"\"\n\"\"\"\n"), (Messages{""}));
  EXPECT_EQ(messages("say \"\"\" now\n"), (Messages{"say \"\"\" now"})) << "only a line of its own opens";
}

TEST(LineReader, WhatTheInputEndsInsideOfIsStillDelivered) {
  EXPECT_EQ(messages("\"\"\"\na\nb\n"), (Messages{"a\nb"}));
  EXPECT_EQ(messages("a\\\n"), (Messages{"a"}));
}

TEST(LineReader, LongLinesArriveWhole) {
  std::string line(300'000, 'x');  // several reads, and more than a pipe holds
  EXPECT_EQ(messages(line + "\nend\n"), (Messages{line, "end"}));
}

TEST(LineReader, CtrlCWhileWaitingDropsTheMessage) {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  InterruptGuard guard(SecondInterrupt::kIsIgnored);
  LineReader reader(ends[0], "", [&] { return guard.interrupted(); });
  ASSERT_EQ(write(ends[1], "half\\\n", 6), 6);
  pthread_t self = pthread_self();
  std::thread typist([&] {  // again and again: the first may come before read() waits
    while (!guard.interrupted()) {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      pthread_kill(self, SIGINT);
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    pthread_kill(self, SIGINT);
  });
  std::string message = "before";
  EXPECT_EQ(reader.read("> ", message), ReadOutcome::kInterrupted);
  typist.join();
  guard.clear();
  ASSERT_EQ(write(ends[1], "whole\n", 6), 6);
  EXPECT_EQ(reader.read("> ", message), ReadOutcome::kMessage);
  EXPECT_EQ(message, "whole");
  close(ends[0]);
  close(ends[1]);
}

TEST(LineReader, HistoryFileIsCreatedForItsOwnerOnly) {
  auto dir = std::filesystem::temp_directory_path() / ("kvasir_history_test_" + std::to_string(getpid()));
  std::string path = (dir / "state" / "kvasir" / "history").string();
  mode_t mask = umask(0);
  EXPECT_TRUE(create_private_file(path));
  EXPECT_TRUE(create_private_file(path)) << "twice is fine";
  umask(mask);
  struct stat file, folder;
  ASSERT_EQ(stat(path.c_str(), &file), 0);
  ASSERT_EQ(stat((dir / "state").c_str(), &folder), 0);
  EXPECT_EQ(file.st_mode & 07777, 0600u);
  EXPECT_EQ(folder.st_mode & 07777, 0700u);
  std::filesystem::remove_all(dir);
  EXPECT_FALSE(create_private_file("/proc/kvasir/history"));
}

TEST(LineReader, HistoryLivesInTheStateFolder) {
  setenv("XDG_STATE_HOME", "/s", 1);
  EXPECT_EQ(default_history_path(), "/s/kvasir/history");
  unsetenv("XDG_STATE_HOME");
  setenv("HOME", "/home/ada", 1);
  EXPECT_EQ(default_history_path(), "/home/ada/.local/state/kvasir/history");
  unsetenv("HOME");
  EXPECT_EQ(default_history_path(), "");
}

}  // namespace
}  // namespace kvasir
