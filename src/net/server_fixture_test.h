// For tests of this room: a server on an ephemeral port with a few routes, and a blocking client on raw
// sockets that sends exactly the bytes it is told.
#pragma once

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <string>
#include <vector>

#include "net/http_server.h"
#include "net/sse.h"

namespace kvasir {

using namespace std::chrono_literals;
using std::chrono::steady_clock;

struct TestResponse {
  int status = 0;  // 0: the connection ended before a head came
  std::string head;
  std::string body;

  std::string header(std::string_view name) const {
    for (size_t at = head.find("\r\n"); at != std::string::npos; at = head.find("\r\n", at + 2)) {
      const std::string line = head.substr(at + 2, head.find("\r\n", at + 2) - at - 2);
      const size_t colon = line.find(": ");
      if (colon != std::string::npos && same_ignoring_case(line.substr(0, colon), name))
        return line.substr(colon + 2);
    }
    return "";
  }
};

class TestClient {
 public:
  explicit TestClient(int port, int receive_buffer = 0, const char* from = nullptr) {
    fd_ = socket(AF_INET, SOCK_STREAM, 0);
    if (receive_buffer > 0) setsockopt(fd_, SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof(receive_buffer));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    if (from) {
      inet_pton(AF_INET, from, &address.sin_addr);
      if (bind(fd_, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0)
        ADD_FAILURE() << "bind " << from;
    }
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    connected_ = connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0;
  }
  ~TestClient() { hang_up(); }
  TestClient(TestClient&& other)
      : fd_(std::exchange(other.fd_, -1)), connected_(other.connected_), input_(std::move(other.input_)) {}
  TestClient& operator=(TestClient&&) = delete;

  bool connected() const { return connected_; }
  int fd() const { return fd_; }

  // False if the server closed meanwhile.
  bool send(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t n = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (n <= 0) return false;
      bytes.remove_prefix(static_cast<size_t>(n));
    }
    return true;
  }
  void close_writing() { shutdown(fd_, SHUT_WR); }
  void hang_up() {
    if (fd_ >= 0) close(fd_);
    fd_ = -1;
  }
  void reset() {
    const linger now{1, 0};
    setsockopt(fd_, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
    hang_up();
  }

  // Reads once more into the input. False: end, reset or timeout.
  bool read_more(std::chrono::milliseconds timeout = 10s) {
    pollfd p{fd_, POLLIN, 0};
    if (poll(&p, 1, static_cast<int>(timeout.count())) <= 0) return false;
    char buffer[65536];
    const ssize_t n = recv(fd_, buffer, sizeof(buffer), 0);
    if (n <= 0) return false;
    input_.append(buffer, static_cast<size_t>(n));
    return true;
  }
  bool read_until(std::string_view text, std::chrono::milliseconds timeout = 10s) {
    while (input_.find(text) == std::string::npos) {
      if (!read_more(timeout)) return false;
    }
    return true;
  }
  std::string read_all() {
    while (read_more()) {
    }
    return std::exchange(input_, {});
  }
  // The server closed, or reset: nothing more comes.
  bool closed(std::chrono::milliseconds timeout = 10s) {
    pollfd p{fd_, POLLIN, 0};
    if (poll(&p, 1, static_cast<int>(timeout.count())) <= 0) return false;
    char c;
    return recv(fd_, &c, 1, MSG_PEEK) <= 0;
  }

  TestResponse read_response(bool head_only = false) {
    TestResponse response;
    do {
      if (!read_until("\r\n\r\n")) return response;
      const size_t end = input_.find("\r\n\r\n") + 4;
      response.head = input_.substr(0, end);
      input_.erase(0, end);
      response.status = std::stoi(response.head.substr(9, 3));
    } while (response.status == 100);
    if (head_only) return response;
    if (response.header("Transfer-Encoding") == "chunked") {
      for (size_t size = 1; size > 0;) {
        if (!read_until("\r\n")) return response;
        size = std::stoul(input_, nullptr, 16);
        input_.erase(0, input_.find("\r\n") + 2);
        while (input_.size() < size + 2) {
          if (!read_more()) return response;
        }
        response.body += input_.substr(0, size);
        input_.erase(0, size + 2);
      }
    } else if (const std::string length = response.header("Content-Length"); !length.empty()) {
      const size_t size = std::stoul(length);
      while (input_.size() < size && read_more()) {
      }
      response.body = input_.substr(0, size);
      input_.erase(0, size);
    } else if (response.status != 204 && response.status != 304) {
      response.body = read_all();
    }
    return response;
  }
  TestResponse ask(std::string_view request, bool head_only = false) {
    send(request);
    return read_response(head_only);
  }
  const std::string& input() const { return input_; }

 private:
  int fd_ = -1;
  bool connected_ = false;
  std::string input_;
};

// Counts that tests wait for.
class Count {
 public:
  void add(int n = 1) {
    std::lock_guard lock(mutex_);
    value_ += n;
    changed_.notify_all();
  }
  int value() const {
    std::lock_guard lock(mutex_);
    return value_;
  }
  bool reaches(int n, std::chrono::milliseconds timeout = 10s) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, timeout, [&] { return value_ >= n; });
  }

 private:
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  int value_ = 0;
};

// Routes: /hello, /echo (the body), /who (what the handler saw), /wait (until the client is gone), /stream?N
// (N chunks), /tick (a byte every 50 ms), /endless (chunks of 64 KB until the client is gone), /sse (three
// events), /big?N (N bytes), /throw, /nothing, /half (ends in the middle), /empty (204).
class TestServer {
 public:
  explicit TestServer(HttpServerOptions options = {}) {
    auto made = HttpServer::make(std::move(options), [this](const HttpRequest& request, ResponseWriter& out) {
      return handle(request, out);
    });
    if (!made) {
      ADD_FAILURE() << made.error().message;
      return;
    }
    server = std::move(*made);
    port = server->port();
  }

  TestClient client() { return TestClient(port); }
  TestResponse ask(std::string_view request) { return client().ask(request); }
  static std::string get(std::string_view target) {
    return "GET " + std::string(target) + " HTTP/1.1\r\nHost: localhost\r\n\r\n";
  }

  std::unique_ptr<HttpServer> server;
  int port = 0;
  Count waiting, gone, handled;
  std::atomic<int> waits_ended_by_timeout{0}, sent_after_the_end{0};

 private:
  Task<> handle(const HttpRequest& request, ResponseWriter& out) {
    handled.add();
    const size_t n = request.query.empty() ? 0 : std::stoul(request.query);
    const std::vector<HttpHeader> text = {{"Content-Type", "text/plain"}};
    if (request.path == "/wait") {
      waiting.add();
      while (out.connected()) {
        const bool notified = co_await out.signal().wait(20s);
        if (!notified) ++waits_ended_by_timeout;
      }
      // A handler that does not look at what it is told must do no harm.
      bool sent = co_await out.begin(200, text);
      if (!sent) sent = co_await out.write("too late");
      if (!sent) sent = co_await out.finish();
      if (sent) ++sent_after_the_end;
      gone.add();
    } else if (request.path == "/stream") {
      co_await out.begin(200, text);
      for (size_t i = 0; i < n; ++i) co_await out.write("chunk " + std::to_string(i) + "\n");
      co_await out.finish();
    } else if (request.path == "/endless") {
      const std::string chunk(64 * 1024, 'e');
      co_await out.begin(200, text);
      waiting.add();
      for (bool more = true; more;) more = co_await out.write(chunk);
      gone.add();
    } else if (request.path == "/sse") {
      SseWriter sse(out);
      co_await sse.begin();
      co_await sse.event("one\ntwo");
      co_await sse.comment("keep-alive");
      co_await sse.event("done", "{}");
      co_await sse.finish();
    } else if (request.path == "/sse-wait") {
      SseWriter sse(out);
      co_await sse.begin();
      co_await sse.comment("open");
      waiting.add();
      while (out.connected()) co_await out.signal().wait(60s);
      gone.add();
    } else if (request.path == "/tick") {
      co_await out.begin(200, text);
      waiting.add();
      for (bool more = true; more;) {
        co_await out.signal().wait(50ms);
        more = co_await out.write(".");
      }
      gone.add();
    } else if (request.path == "/throw") {
      throw std::runtime_error("thrown by the test");
    } else if (request.path == "/half") {
      co_await out.begin(200, text);
      co_await out.write("half");
    } else if (request.path != "/nothing") {
      HttpResponse response{200, text, "hello\n"};
      if (request.path == "/echo") response.body = request.body;
      if (request.path == "/big") response.body.assign(n, 'b');
      if (request.path == "/empty") response = {204, {}, ""};
      if (request.path == "/who") {
        response.body = request.method + "|" + request.path + "|" + request.query + "|" +
                        request.client_address + "|" + (request.tls ? "tls" : "plain");
        for (const HttpHeader& h : request.headers) response.body += "|" + h.name + "=" + h.value;
      }
      co_await out.send(response);
    }
  }
};

}  // namespace kvasir
