// LineReader: what a person (or a pipe) types at a prompt, one message at a time.
//
// A message is one line, or several: a line that ends in a backslash continues on the next, and lines between
// two lines of three double quotes belong together as they are. On a terminal lines are edited with
// libedit, with a history that outlives the program; from a pipe or a file they are read plainly.
//
// The history file holds what people typed, so it is created readable by its owner alone.
// Threading: one thread. Ctrl-C during a read, or one before it that nobody cleared, comes back as
// kInterrupted if an InterruptGuard is alive.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

namespace kvasir {

// Puts lines together into messages by the rule above. Pure: no terminal, no files.
class MessageJoiner {
 public:
  // Takes one line without its line end; true when a message is complete (take() it).
  bool push(std::string_view line);
  // True between the first line of a message and its last.
  bool open() const { return open_; }
  // The message; what there is of it when the input ended inside one. Starts afresh.
  std::string take();

 private:
  std::string text_;
  bool open_ = false;
  bool quoted_ = false;  // between lines of three double quotes
  bool any_line_ = false;
};

enum class ReadOutcome : uint8_t {
  kMessage,
  kEnd,          // end of input: Ctrl-D, or the pipe is closed
  kInterrupted,  // Ctrl-C: what was typed of this message is dropped
};

class LineReader {
 public:
  // Reads from `fd`, with editing and history if it is a terminal. `history_path` may be empty: no file.
  // `interrupted` is asked after a signal; null: never interrupted.
  LineReader(int fd, std::string history_path, std::function<bool()> interrupted);
  ~LineReader();
  LineReader(const LineReader&) = delete;
  LineReader& operator=(const LineReader&) = delete;

  // Reads one message into `message` (without the last line end). `prompt` is shown on a terminal only, and
  // "... " for the lines that continue it.
  ReadOutcome read(std::string_view prompt, std::string& message);

  bool is_terminal() const { return terminal_ != nullptr; }

 private:
  struct Terminal;  // libedit's state
  ReadOutcome read_line(std::string_view prompt, std::string& line);
  ReadOutcome read_plain_line(std::string& line);

  int fd_;
  std::function<bool()> interrupted_;
  std::unique_ptr<Terminal> terminal_;  // null when fd is no terminal
  std::string buffered_;                // bytes read from a pipe and not yet handed out
  size_t searched_ = 0;                 // of which so many hold no line end
};

// ~/.local/state/kvasir/history, or under $XDG_STATE_HOME; empty if neither it nor $HOME is set.
std::string default_history_path();

// Makes `path` and its folders (0700) if they are missing, the file 0600. False: it cannot be written.
bool create_private_file(const std::string& path);

}  // namespace kvasir
