// ChildServer: the real binary, `kvasir serve` on a free port, as a child process that a test may kill.
//
// Its standard error goes to a file, its standard output is read for the address. Requests are plain sockets
// (ask()); an answer that did not arrive whole is told from one that did. One thread owns a ChildServer;
// ask() may be called from any. No test framework: programs that run for minutes use it as well.
#pragma once

#include <chrono>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace kvasir {

using Json = nlohmann::json;

struct Answer {
  int status = 0;  // 0: nothing, or not all of it, arrived
  std::string head, body;
  Json json() const { return Json::parse(body, nullptr, false); }
};

struct ExitStatus {
  bool exited = false;  // false: still running, or ended by a signal
  int code = -1;        // if exited
  int signal = 0;       // if it was ended by one
};

// A connection to a loopback port. Blocking; every wait has a limit.
class Connection {
 public:
  explicit Connection(int port, int receive_buffer = 0);
  ~Connection();
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  bool connected() const { return connected_; }
  int fd() const { return fd_; }
  bool send(std::string_view bytes);
  // Reads once more; false: closed, reset or nothing for `limit`.
  bool read_more(std::chrono::milliseconds limit);
  bool read_until(std::string_view text, std::chrono::milliseconds limit);
  // Everything up to the end of the connection.
  bool read_to_end(std::chrono::milliseconds limit);
  const std::string& input() const { return input_; }
  // One answer; what follows it stays in the input.
  Answer read_answer(std::chrono::milliseconds limit);
  void reset();  // closes, with a reset in place of an end

 private:
  bool read_chunked(Answer& answer, std::chrono::milliseconds limit);

  int fd_ = -1;
  bool connected_ = false;
  std::string input_;
};

std::string http_request(int port, std::string_view method, std::string_view path, std::string_view body,
                         std::string_view more_headers = "");
Answer ask(int port, std::string_view method, std::string_view path, std::string_view body = "",
           std::chrono::milliseconds limit = std::chrono::seconds(60));
inline Answer post(int port, std::string_view path, const Json& body) {
  return ask(port, "POST", path, body.dump());
}
// The value of one line of /metrics; -1: no such line.
double metric(int port, std::string_view line);

class ChildServer {
 public:
  struct Start {
    std::string binary;
    std::vector<std::string> arguments;  // behind "serve --port 0"
    std::string error_file;              // where standard error goes, appended; empty: /dev/null
    unsigned user = 0;                   // not 0: gives up root for this user
    bool bare = false;                   // the arguments are all there are
  };

  explicit ChildServer(const Start& start);
  ~ChildServer();  // kills it
  ChildServer(const ChildServer&) = delete;
  ChildServer& operator=(const ChildServer&) = delete;

  // Until the line with the address is there; false: it ended or said nothing within `limit`.
  bool wait_ready(std::chrono::milliseconds limit = std::chrono::seconds(30));
  int port() const { return port_; }
  int pid() const { return pid_; }
  const std::string& output() const { return output_; }
  int64_t resident_bytes() const;

  void signal(int number) const;
  // Waits for the end. `exited` is false and `signal` 0 if it still runs then.
  ExitStatus wait(std::chrono::milliseconds limit);
  void kill_now();

 private:
  bool reap(bool block);

  int pid_ = -1;
  int out_ = -1;
  int port_ = 0;
  bool ended_ = false;
  ExitStatus status_;
  std::string output_;
};

}  // namespace kvasir
