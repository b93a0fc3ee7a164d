// Reading lines from a pipe by hand and from a terminal through libedit; see line_reader.h.
#include "cli/line_reader.h"

#include <fcntl.h>
#include <histedit.h>
#include <langinfo.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <clocale>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>

namespace kvasir {
namespace {

constexpr std::string_view kQuotes = "\"\"\"";
constexpr int kHistoryEntries = 1000;

std::string_view trimmed(std::string_view text) {
  size_t first = text.find_first_not_of(" \t\r");
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(" \t\r") - first + 1);
}

// Waits until `fd` has something to read, or its end. False: Ctrl-C came first. It looks up ten times a
// second, because the signal may be taken by another thread, or just before the wait, and then wakes nobody
// here.
bool await_input(int fd, const std::function<bool()>& interrupted) {
  for (;;) {
    if (interrupted && interrupted()) return false;
    pollfd p = {fd, POLLIN, 0};
    int ready = poll(&p, 1, interrupted ? 100 : -1);
    if (ready > 0 || (ready < 0 && errno != EINTR)) return true;
  }
}

}  // namespace

bool MessageJoiner::push(std::string_view line) {
  if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
  bool fence = trimmed(line) == kQuotes;
  if (fence && quoted_) {
    open_ = quoted_ = false;
    return true;
  }
  if (fence && !open_) {
    open_ = quoted_ = true;
    return false;
  }
  bool continues = quoted_;
  if (!quoted_ && !line.empty() && line.back() == '\\') {
    line.remove_suffix(1);
    continues = true;
  }
  if (any_line_) text_ += '\n';
  text_ += line;
  any_line_ = true;
  open_ = continues;
  return !continues;
}

std::string MessageJoiner::take() {
  std::string out = std::move(text_);
  *this = MessageJoiner();
  return out;
}

struct LineReader::Terminal {
  EditLine* edit = nullptr;
  History* history = nullptr;
  std::string history_path;
  std::string prompt;
  int fd = -1;
  std::function<bool()>* interrupted = nullptr;

  ~Terminal() {
    if (edit) el_end(edit);
    if (history) history_end(history);
  }
  static Terminal* of(EditLine* e) {
    void* data = nullptr;
    el_get(e, EL_CLIENTDATA, &data);
    return static_cast<Terminal*>(data);
  }
  static char* show_prompt(EditLine* e) { return of(e)->prompt.data(); }
  static int read_char(EditLine* e, wchar_t* out);
  bool start(int input, const std::string& path);
};

// libedit's own reader retries after a signal; this one lets Ctrl-C end the line. Decodes UTF-8 itself, so
// input does not depend on the locale. Returns 1, or 0 at the end, or -1.
int LineReader::Terminal::read_char(EditLine* e, wchar_t* out) {
  Terminal* self = of(e);
  auto next = [self]() -> int {
    unsigned char byte = 0;
    return await_input(self->fd, *self->interrupted) && ::read(self->fd, &byte, 1) == 1 ? byte : -1;
  };
  int lead = next();
  if (lead < 0) return 0;
  int more = lead < 0xC2 ? 0 : lead < 0xE0 ? 1 : lead < 0xF0 ? 2 : lead < 0xF5 ? 3 : 0;
  wchar_t code = more == 0 ? lead : lead & (0x3F >> more);
  if (lead >= 0x80 && more == 0) code = 0xFFFD;
  for (int i = 0; i < more; ++i) {
    int byte = next();
    if (byte < 0) return 0;
    code = code << 6 | (byte & 0x3F);
  }
  if (code > 0x10FFFF || (code >= 0xD800 && code <= 0xDFFF)) code = 0xFFFD;
  *out = code;
  return 1;
}

bool LineReader::Terminal::start(int input, const std::string& path) {
  // libedit prints through the locale; without UTF-8 it would show every accent as an escape.
  std::setlocale(LC_CTYPE, "");
  if (std::strcmp(nl_langinfo(CODESET), "UTF-8") != 0) std::setlocale(LC_CTYPE, "C.UTF-8");
  fd = input;
  edit = el_init_fd("kvasir", stdin, stdout, stderr, input, STDOUT_FILENO, STDERR_FILENO);
  history = history_init();
  if (!edit || !history) return false;
  el_set(edit, EL_CLIENTDATA, this);
  el_set(edit, EL_PROMPT, &Terminal::show_prompt);
  el_set(edit, EL_EDITOR, "emacs");
  el_set(edit, EL_GETCFN, &Terminal::read_char);
  HistEvent event;
  ::history(history, &event, H_SETSIZE, kHistoryEntries);
  ::history(history, &event, H_SETUNIQUE, 1);
  el_set(edit, EL_HIST, ::history, history);
  el_set(edit, EL_BIND, "^R", "em-inc-search-prev", nullptr);
  if (!path.empty() && create_private_file(path)) {
    history_path = path;
    ::history(history, &event, H_LOAD,
              path.c_str());  // fails on the empty file of a first start: nothing to load
  }
  return true;
}

LineReader::LineReader(int fd, std::string history_path, std::function<bool()> interrupted)
    : fd_(fd), interrupted_(std::move(interrupted)) {
  if (!isatty(fd) || !isatty(STDOUT_FILENO)) return;
  terminal_ = std::make_unique<Terminal>();
  terminal_->interrupted = &interrupted_;
  if (!terminal_->start(fd, history_path))
    terminal_.reset();  // a terminal without editing is still one to read
}

LineReader::~LineReader() = default;

ReadOutcome LineReader::read_plain_line(std::string& line) {
  for (;;) {
    size_t end = buffered_.find('\n', searched_);
    if (end != std::string::npos) {
      line = buffered_.substr(0, end);
      buffered_.erase(0, end + 1);
      searched_ = 0;
      return ReadOutcome::kMessage;
    }
    searched_ = buffered_.size();
    if (!await_input(fd_, interrupted_)) return ReadOutcome::kInterrupted;
    char chunk[65536];
    ssize_t n = ::read(fd_, chunk, sizeof(chunk));
    if (n > 0) {
      buffered_.append(chunk, static_cast<size_t>(n));
    } else if (n == 0 || errno != EINTR) {
      if (buffered_.empty()) return ReadOutcome::kEnd;
      line = std::move(buffered_);  // a last line without its end
      buffered_.clear();
      searched_ = 0;
      return ReadOutcome::kMessage;
    }
  }
}

ReadOutcome LineReader::read_line(std::string_view prompt, std::string& line) {
  if (!terminal_) return read_plain_line(line);
  el_resize(terminal_->edit);  // the window may have changed while an answer was printed
  terminal_->prompt = prompt;
  int count = 0;
  const char* text = el_gets(terminal_->edit, &count);
  if (!text || count <= 0) {
    std::fputc('\n', stdout);
    std::fflush(stdout);
    return interrupted_ && interrupted_() ? ReadOutcome::kInterrupted : ReadOutcome::kEnd;
  }
  line.assign(text, static_cast<size_t>(count));
  if (!line.empty() && line.back() == '\n') line.pop_back();
  if (!trimmed(line).empty()) {
    HistEvent event;
    ::history(terminal_->history, &event, H_ENTER, line.c_str());
    if (!terminal_->history_path.empty()) {
      ::history(terminal_->history, &event, H_SAVE, terminal_->history_path.c_str());
    }
  }
  return ReadOutcome::kMessage;
}

ReadOutcome LineReader::read(std::string_view prompt, std::string& message) {
  MessageJoiner joiner;
  for (;;) {
    std::string line;
    ReadOutcome outcome = read_line(joiner.open() ? "... " : prompt, line);
    if (outcome == ReadOutcome::kInterrupted) return outcome;
    if (outcome == ReadOutcome::kEnd && !joiner.open()) return outcome;
    if (outcome == ReadOutcome::kEnd || joiner.push(line)) {
      message = joiner.take();
      return ReadOutcome::kMessage;
    }
  }
}

std::string default_history_path() {
  const char* state = std::getenv("XDG_STATE_HOME");
  const char* home = std::getenv("HOME");
  if (state && state[0] == '/') return std::string(state) + "/kvasir/history";
  if (home && home[0]) return std::string(home) + "/.local/state/kvasir/history";
  return {};
}

bool create_private_file(const std::string& path) {
  std::filesystem::path folder = std::filesystem::path(path).parent_path();
  std::filesystem::path made;
  for (const auto& part : folder) {
    made /= part;
    if (mkdir(made.c_str(), 0700) != 0 && errno != EEXIST) return false;
  }
  int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (fd < 0) return false;
  close(fd);
  return true;
}

}  // namespace kvasir
