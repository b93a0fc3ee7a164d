// Idle streams and slow readers beside active ones, for minutes.
//
//   serve_soak --binary KVASIR [--seconds N] [--idle N] [--slow N] [--active N] [--log FILE]
//
// Active clients stream short answers, one after another. There are kSpare more of them than the server runs
// at once, so that there is always an interactive request waiting and the idle ones, of priority batch, wait
// all the time: open event streams with nothing but keep-alives. Slow readers stream long answers (log
// probabilities of 20 tokens each) through a small receive buffer and read 4 KB a second, much slower than
// they are made. At the end the idle ones get their turn. Fails if a request does, if an idle stream hears
// nothing for kKeepAlive, or if the server's resident memory is not flat: the last tenth of the time against
// the third one. One thread, one epoll. Prints one line a minute; exit code 0 and a line of JSON, or 1 and
// what was wrong.
#include <fcntl.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <random>

#include "serve_faults/child_server.h"

namespace kvasir {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

constexpr int kSpare = 4;
constexpr auto kKeepAlive = 20s;  // the server sends one every 8 s
constexpr auto kTick = 250ms;
constexpr size_t kSlowBytes = 1024;  // a tick
constexpr int kSlowReceiveBuffer = 4096;

struct Options {
  std::string binary, log;
  int seconds = 60, idle = 2000, slow = 200, active = 16;
};

enum class Kind { kIdle, kSlow, kActive };

struct Stream {
  Kind kind;
  std::unique_ptr<Connection> connection;
  std::string tail;  // the last bytes, where an end or an error shows
  int64_t bytes = 0;
  bool open = false, has_data = false;
  Clock::time_point sent, heard;
};

class Soak {
 public:
  Soak(const Options& options, ChildServer& server) : options_(options), server_(server), random_(1) {}
  int run();

 private:
  void open(Stream& stream);
  void take(Stream& stream, const char* bytes, size_t size);
  void read(Stream& stream, size_t most);
  void tick();
  void fail(const std::string& what) {
    if (failure_.empty()) failure_ = what;
  }
  std::string request(Kind kind);
  double mean(double from, double to) const;
  void poll_once();
  double elapsed() const { return std::chrono::duration<double>(Clock::now() - begin_).count(); }

  Options options_;
  ChildServer& server_;
  std::mt19937 random_;
  int epoll_ = -1;
  std::vector<std::unique_ptr<Stream>> streams_;
  bool closing_ = false;
  int slow_waiting_ = 0;
  int open_ = 0;
  int64_t done_[3] = {}, bytes_[3] = {};
  double longest_silence_ = 0, longest_first_ = 0;
  std::vector<std::pair<double, int64_t>> resident_;
  Clock::time_point begin_ = Clock::now(), next_tick_ = begin_;
  std::string failure_;
};

std::string Soak::request(Kind kind) {
  Json body = {{"model", "nano"},
               {"stream", true},
               {"thinking", {{"type", "disabled"}}},
               {"temperature", 0.8},
               {"logit_bias", {{"6106", -100}}}};
  std::string text = "Part " + std::to_string(random_()) + ".";
  if (kind == Kind::kActive) {
    for (int i = 0; i < 12; ++i)
      text += "\nint value_" + std::to_string(i) + " = " + std::to_string(random_() % 10000) + ";";
    body["max_tokens"] = 128;
  } else if (kind == Kind::kSlow) {
    body["max_tokens"] = 200;
    body["logprobs"] = true;
    body["top_logprobs"] = 20;
  } else {
    body["max_tokens"] = 4;
    body["priority"] = "batch";
  }
  body["messages"] = {{{"role", "user"}, {"content", text}}};
  return http_request(server_.port(), "POST", "/v1/chat/completions", body.dump(), "Connection: close\r\n");
}

void Soak::open(Stream& stream) {
  stream.connection =
      std::make_unique<Connection>(server_.port(), stream.kind == Kind::kSlow ? kSlowReceiveBuffer : 0);
  if (!stream.connection->connected()) return fail("cannot connect");
  stream.tail.clear();
  stream.bytes = 0;
  stream.has_data = false;
  stream.sent = stream.heard = Clock::now();
  if (!stream.connection->send(request(stream.kind))) return fail("cannot send");
  fcntl(stream.connection->fd(), F_SETFL, O_NONBLOCK);
  if (!stream.open) ++open_;
  stream.open = true;
  if (stream.kind == Kind::kSlow) return;  // read by the clock
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.ptr = &stream;
  epoll_ctl(epoll_, EPOLL_CTL_ADD, stream.connection->fd(), &event);
}

void Soak::take(Stream& stream, const char* bytes, size_t size) {
  static constexpr const char* kNames[] = {"idle", "slow", "active"};
  auto now = Clock::now();
  if (stream.kind == Kind::kIdle)
    longest_silence_ = std::max(longest_silence_, std::chrono::duration<double>(now - stream.heard).count());
  if (stream.kind == Kind::kActive && !stream.has_data &&
      std::string_view(bytes, size).find("data: ") != std::string_view::npos) {
    stream.has_data = true;
    longest_first_ = std::max(longest_first_, std::chrono::duration<double>(now - stream.sent).count());
  }
  stream.heard = now;
  bytes_[static_cast<int>(stream.kind)] += static_cast<int64_t>(size);
  stream.tail.append(bytes, size);
  if (stream.bytes == 0 && stream.tail.size() >= 12 && !stream.tail.starts_with("HTTP/1.1 200"))
    fail(std::string(kNames[static_cast<int>(stream.kind)]) + " stream: " + stream.tail);
  if (stream.tail.find("data: {\"error\"") != std::string::npos) fail("an error in a stream: " + stream.tail);
  stream.bytes += static_cast<int64_t>(size);
  if (stream.tail.size() > 256) stream.tail.erase(0, stream.tail.size() - 64);
}

// Up to `most` bytes of what is there. The connection ends behind the last chunk and nowhere else; where a
// write of the server was cut into chunks is not known, so nothing else is looked for at the end.
void Soak::read(Stream& stream, size_t most) {
  char buffer[65536];
  ssize_t n = recv(stream.connection->fd(), buffer, std::min(most, sizeof(buffer)), 0);
  if (n > 0) return take(stream, buffer, static_cast<size_t>(n));
  if (n < 0 && errno == EAGAIN) return;
  if (!stream.tail.ends_with("\r\n0\r\n\r\n"))
    return fail("a stream ended after " + std::to_string(stream.bytes) + " bytes, " +
                std::to_string(std::chrono::duration<double>(Clock::now() - stream.sent).count()) +
                " s: " + stream.tail);
  ++done_[static_cast<int>(stream.kind)];
  if (closing_ || stream.kind == Kind::kIdle) {
    stream.connection.reset();
    stream.open = false;
    --open_;
    // An idle one that got a turn (there were fewer active ones for a moment) is replaced.
    if (!closing_) open(stream);
  } else {
    open(stream);
  }
}

void Soak::tick() {
  auto now = Clock::now();
  // Slow readers come one after another, so that their requests do not all stand before those of active ones.
  for (; slow_waiting_ > 0 &&
         (options_.slow - slow_waiting_) < elapsed() / (0.2 * options_.seconds) * options_.slow;
       --slow_waiting_) {
    streams_.push_back(std::make_unique<Stream>());
    streams_.back()->kind = Kind::kSlow;
    open(*streams_.back());
  }
  for (const auto& stream : streams_) {
    if (!stream->open) continue;
    if (stream->kind == Kind::kSlow) read(*stream, kSlowBytes);
    if (stream->kind == Kind::kIdle && now - stream->heard > kKeepAlive)
      fail("an idle stream heard nothing for 20 s");
    if (!failure_.empty()) return;
  }
  resident_.emplace_back(elapsed(), server_.resident_bytes());
}

void Soak::poll_once() {
  epoll_event events[256];
  auto left = std::chrono::duration_cast<std::chrono::milliseconds>(next_tick_ - Clock::now()).count();
  int n = epoll_wait(epoll_, events, 256, static_cast<int>(std::max<int64_t>(0, left)));
  for (int i = 0; i < n && failure_.empty(); ++i) read(*static_cast<Stream*>(events[i].data.ptr), 65536);
  if (Clock::now() < next_tick_) return;
  tick();
  next_tick_ = Clock::now() + kTick;
}

double Soak::mean(double from, double to) const {
  double sum = 0, count = 0;
  for (const auto& [at, bytes] : resident_) {
    if (at < from || at >= to) continue;
    sum += static_cast<double>(bytes);
    ++count;
  }
  return count > 0 ? sum / count / 1e6 : 0;
}

int Soak::run() {
  epoll_ = epoll_create1(EPOLL_CLOEXEC);
  auto add = [&](Kind kind, int count) {
    for (int i = 0; i < count && failure_.empty(); ++i) {
      streams_.push_back(std::make_unique<Stream>());
      streams_.back()->kind = kind;
      open(*streams_.back());
      if (i % 64 == 0) poll_once();
    }
  };
  add(Kind::kActive, options_.active + kSpare);
  add(Kind::kIdle, options_.idle);
  begin_ = Clock::now();
  slow_waiting_ = options_.slow;
  double seconds = options_.seconds, minute = 0;
  while (elapsed() < seconds && failure_.empty()) {
    poll_once();
    if (elapsed() < minute + std::min(60.0, seconds)) continue;
    std::printf(
        "%.0f s: %d streams open, resident %.1f MB in this minute; done: %lld active, %lld slow, %lld idle\n",
        elapsed(), open_, mean(minute, elapsed()), static_cast<long long>(done_[2]),
        static_cast<long long>(done_[1]), static_cast<long long>(done_[0]));
    std::fflush(stdout);
    minute = elapsed();
  }
  int64_t idle_before = done_[0];
  double first = mean(0, std::min(60.0, seconds / 2)), base = mean(seconds * 0.2, seconds * 0.3),
         last = mean(seconds * 0.9, seconds), over = elapsed();
  closing_ = true;
  while (open_ > 0 && failure_.empty()) {
    poll_once();
    if (elapsed() > over + 300) fail(std::to_string(open_) + " streams did not end within 300 s");
  }
  if (last > base * 1.1 + 16) fail("memory grows");
  std::printf(
      R"({"seconds":%.0f,"idle":%d,"slow":%d,"active":%d,"resident_mb":{"first_minute":%.1f,"third_tenth":%.1f,"last_tenth":%.1f},)"
      R"("finished":{"active":%lld,"slow":%lld,"idle":%lld,"idle_before_the_end":%lld},"longest_silence_s":%.2f,"longest_active_wait_s":%.3f,)"
      R"("bytes":{"active":%lld,"slow":%lld,"idle":%lld},"failure":%s})"
      "\n",
      over, options_.idle, options_.slow, options_.active + kSpare, first, base, last,
      static_cast<long long>(done_[2]), static_cast<long long>(done_[1]), static_cast<long long>(done_[0]),
      static_cast<long long>(idle_before), longest_silence_, longest_first_,
      static_cast<long long>(bytes_[2]), static_cast<long long>(bytes_[1]), static_cast<long long>(bytes_[0]),
      failure_.empty() ? "null" : Json(failure_).dump().c_str());
  return failure_.empty() ? 0 : 1;
}

int parse_and_run(int argc, char** argv) {
  Options options;
  for (int i = 1; i + 1 < argc; i += 2) {
    std::string name = argv[i], value = argv[i + 1];
    if (name == "--binary")
      options.binary = value;
    else if (name == "--seconds")
      options.seconds = std::atoi(value.c_str());
    else if (name == "--idle")
      options.idle = std::atoi(value.c_str());
    else if (name == "--slow")
      options.slow = std::atoi(value.c_str());
    else if (name == "--active")
      options.active = std::atoi(value.c_str());
    else if (name == "--log")
      options.log = value;
  }
  if (options.binary.empty() || argc % 2 == 0) {
    std::fprintf(
        stderr,
        "usage: serve_soak --binary KVASIR [--seconds N] [--idle N] [--slow N] [--active N] [--log FILE]\n");
    return 2;
  }
  // The server starts with the limit that shells give, and must raise it itself.
  rlimit files{};
  getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = std::min<rlim_t>(1024, files.rlim_max);
  setrlimit(RLIMIT_NOFILE, &files);
  ChildServer server(
      {options.binary,
       {"--disk-cache", "off", "--max-running", std::to_string(options.active), "--max-waiting", "8192",
        "--memory", "16MiB", "--snapshot-memory", "8MiB", "--log-level", "warning", "--context", "4096"},
       options.log,
       0,
       false});
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);
  if (!server.wait_ready()) {
    std::fprintf(stderr, "serve_soak: the server does not start\n");
    return 1;
  }
  int code = Soak(options, server).run();
  server.signal(SIGTERM);
  ExitStatus ended = server.wait(40s);
  if (!ended.exited || ended.code != 0) {
    std::fprintf(stderr, "serve_soak: the server ended with code %d, signal %d\n", ended.code, ended.signal);
    code = 1;
  }
  return code;
}

}  // namespace
}  // namespace kvasir

int main(int argc, char** argv) { return kvasir::parse_and_run(argc, argv); }
