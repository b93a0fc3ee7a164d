// Messages from lines, lines from a pipe, the private history file, and Ctrl-C.
#include "cli/line_reader.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
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
  std::thread typist([&] {
    for (int unread = 1; unread > 0; ioctl(ends[0], FIONREAD, &unread))
      std::this_thread::yield();  // the reader took the line
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

// A child process reads messages at a pseudo-terminal, as `kvasir chat` would, and reports them through a
// pipe.
class TerminalChild {
 public:
  explicit TerminalChild(const std::string& history) {
    int report[2];
    EXPECT_EQ(pipe(report), 0);
    pid_ = forkpty(&keyboard_, nullptr, nullptr, nullptr);
    if (pid_ == 0) {
      close(report[0]);
      setenv("TERM", "xterm", 1);
      read_all(history, report[1]);
      _exit(0);
    }
    close(report[1]);
    report_ = report[0];
  }
  ~TerminalChild() {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
    close(keyboard_);
    close(report_);
  }

  // Waits for the next prompt (numbered, since editing redraws old ones), types, and returns what the child
  // reports.
  std::string type(const std::string& keys) {
    await(keyboard_, std::to_string(++prompts_) + "> ", screen_);
    screen_.clear();
    await_raw_mode();
    EXPECT_EQ(write(keyboard_, keys.data(), keys.size()), static_cast<ssize_t>(keys.size()));
    std::string line;
    await(report_, "\n", line);
    return line;
  }

 private:
  static void read_all(const std::string& history, int report) {
    InterruptGuard guard(SecondInterrupt::kIsIgnored);
    LineReader reader(STDIN_FILENO, history, [&] { return guard.interrupted(); });
    for (int prompts = 1;; ++prompts) {
      std::string message;
      ReadOutcome outcome = reader.read(std::to_string(prompts) + "> ", message);
      guard.clear();
      std::string line = outcome == ReadOutcome::kEnd           ? "end\n"
                         : outcome == ReadOutcome::kInterrupted ? "interrupted\n"
                                                                : "said " + message + "\n";
      if (write(report, line.data(), line.size()) < 0 || outcome == ReadOutcome::kEnd) return;
    }
  }
  // libedit shows the prompt before it takes the terminal over; keys typed in between would be the line
  // discipline's.
  void await_raw_mode() {
    termios mode = {};
    for (int ms = 0; ms < 10'000; ++ms) {
      if (tcgetattr(keyboard_, &mode) == 0 && !(mode.c_lflag & ICANON)) return;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    ADD_FAILURE() << "the terminal stays in line mode";
  }
  // Reads from `fd` into `seen` until `text` is there; gives up after ten seconds.
  static void await(int fd, const std::string& text, std::string& seen) {
    while (seen.find(text) == std::string::npos) {
      pollfd p = {fd, POLLIN, 0};
      char chunk[4096];
      ssize_t n = poll(&p, 1, 10'000) == 1 ? ::read(fd, chunk, sizeof(chunk)) : -1;
      if (n <= 0) {
        ADD_FAILURE() << "waited for '" << text << "', saw '" << seen << "'";
        return;
      }
      seen.append(chunk, static_cast<size_t>(n));
    }
  }

  int keyboard_ = -1, report_ = -1;
  int prompts_ = 0;
  pid_t pid_ = -1;
  std::string screen_;
};

TEST(LineReader, EditsLinesAtATerminalAndRemembersThem) {
  auto dir = std::filesystem::temp_directory_path() / ("kvasir_terminal_test_" + std::to_string(getpid()));
  std::string history = (dir / "kvasir" / "history").string();
  {
    TerminalChild child(history);
    EXPECT_EQ(child.type("hello\n"), "said hello\n");
    EXPECT_EQ(child.type("wxrld\x02\x02\x02\x02\x04o\n"), "said world\n")
        << "four back, delete one, type one";
    EXPECT_EQ(child.type("caf\xC3\xA9 \xF0\x9F\x98\x80\n"), "said caf\xC3\xA9 \xF0\x9F\x98\x80\n");
    EXPECT_EQ(child.type("dropped\x03"), "interrupted\n");
    EXPECT_EQ(child.type("\x10\x10\n"), "said world\n") << "two up in the history";
    EXPECT_EQ(child.type("\x04"), "end\n");
  }
  struct stat file;
  ASSERT_EQ(stat(history.c_str(), &file), 0);
  EXPECT_EQ(file.st_mode & 07777, 0600u);
  {
    TerminalChild later(history);
    EXPECT_EQ(later.type("\x10\x10\x10\x10\n"), "said hello\n") << "the history outlives the program";
  }
  std::filesystem::remove_all(dir);
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
