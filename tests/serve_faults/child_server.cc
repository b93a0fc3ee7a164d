// See child_server.h.
#include "serve_faults/child_server.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <thread>

namespace kvasir {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

std::string lower(std::string_view text) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return out;
}

std::string header(const std::string& head, std::string_view name) {
  std::string all = lower(head);
  size_t at = all.find(std::string("\r\n").append(lower(name)).append(": "));
  if (at == std::string::npos) return "";
  at += name.size() + 4;
  return all.substr(at, all.find("\r\n", at) - at);
}

}  // namespace

Connection::Connection(int port, int receive_buffer) {
  fd_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (receive_buffer > 0) setsockopt(fd_, SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof(receive_buffer));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  connected_ = connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0;
}

Connection::~Connection() {
  if (fd_ >= 0) close(fd_);
}

void Connection::reset() {
  const linger now{1, 0};
  setsockopt(fd_, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
  close(fd_);
  fd_ = -1;
}

bool Connection::send(std::string_view bytes) {
  while (!bytes.empty()) {
    ssize_t n = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (n <= 0) return false;
    bytes.remove_prefix(static_cast<size_t>(n));
  }
  return true;
}

bool Connection::read_more(milliseconds limit) {
  pollfd p{fd_, POLLIN, 0};
  if (poll(&p, 1, static_cast<int>(limit.count())) <= 0) return false;
  char buffer[65536];
  ssize_t n = recv(fd_, buffer, sizeof(buffer), 0);
  if (n <= 0) return false;
  input_.append(buffer, static_cast<size_t>(n));
  return true;
}

bool Connection::read_until(std::string_view text, milliseconds limit) {
  auto end = Clock::now() + limit;
  while (input_.find(text) == std::string::npos) {
    auto left = std::chrono::duration_cast<milliseconds>(end - Clock::now());
    if (left.count() <= 0 || !read_more(left)) return false;
  }
  return true;
}

bool Connection::read_to_end(milliseconds limit) {
  auto end = Clock::now() + limit;
  for (;;) {
    auto left = std::chrono::duration_cast<milliseconds>(end - Clock::now());
    if (left.count() <= 0) return false;
    if (!read_more(left)) return Clock::now() < end;
  }
}

bool Connection::read_chunked(Answer& answer, milliseconds limit) {
  for (;;) {
    if (!read_until("\r\n", limit)) return false;
    size_t size = std::strtoul(input_.c_str(), nullptr, 16);
    input_.erase(0, input_.find("\r\n") + 2);
    while (input_.size() < size + 2) {
      if (!read_more(limit)) return false;
    }
    answer.body += input_.substr(0, size);
    input_.erase(0, size + 2);
    if (size == 0) return true;
  }
}

Answer Connection::read_answer(milliseconds limit) {
  Answer answer;
  if (!read_until("\r\n\r\n", limit)) return answer;
  size_t end = input_.find("\r\n\r\n") + 4;
  answer.head = input_.substr(0, end);
  input_.erase(0, end);
  int status = answer.head.size() > 12 ? std::atoi(answer.head.c_str() + 9) : 0;
  if (status == 100) return read_answer(limit);
  if (header(answer.head, "transfer-encoding") == "chunked") {
    if (!read_chunked(answer, limit)) return answer;
  } else {
    std::string length = header(answer.head, "content-length");
    size_t size = std::strtoul(length.c_str(), nullptr, 10);
    if (length.empty() && status != 204 && status != 304) return answer;
    while (input_.size() < size) {
      if (!read_more(limit)) return answer;
    }
    answer.body = input_.substr(0, size);
    input_.erase(0, size);
  }
  answer.status = status;
  return answer;
}

std::string http_request(int port, std::string_view method, std::string_view path, std::string_view body,
                         std::string_view more_headers) {
  std::string out(method);
  out.append(" ").append(path).append(" HTTP/1.1\r\nHost: 127.0.0.1:").append(std::to_string(port));
  out.append("\r\nContent-Type: application/json\r\nContent-Length: ").append(std::to_string(body.size()));
  return out.append("\r\n").append(more_headers).append("\r\n").append(body);
}

Answer ask(int port, std::string_view method, std::string_view path, std::string_view body,
           milliseconds limit) {
  Connection connection(port);
  if (!connection.connected() || !connection.send(http_request(port, method, path, body))) return {};
  return connection.read_answer(limit);
}

double metric(int port, std::string_view line) {
  std::string text = ask(port, "GET", "/metrics").body;
  std::string wanted(1, '\n');
  wanted.append(line).append(" ");
  size_t at = text.find(wanted);
  return at == std::string::npos ? -1 : std::atof(text.c_str() + at + wanted.size());
}

ChildServer::ChildServer(const Start& start) {
  std::vector<std::string> words = {start.binary};
  if (!start.bare) words.insert(words.end(), {"serve", "--port", "0"});
  words.insert(words.end(), start.arguments.begin(), start.arguments.end());
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  const std::string errors = start.error_file.empty() ? "/dev/null" : start.error_file;

  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return;
  pid_t parent = getpid();
  pid_ = fork();
  if (pid_ == 0) {  // only calls that are safe between fork and exec
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(127);
    int file = open(errors.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0644);
    dup2(ends[1], STDOUT_FILENO);
    dup2(file, STDERR_FILENO);
    if (start.user != 0 && (setgroups(0, nullptr) != 0 || setgid(start.user) != 0 || setuid(start.user) != 0))
      _exit(127);
    execv(argv[0], argv.data());
    _exit(127);
  }
  close(ends[1]);
  out_ = ends[0];
}

ChildServer::~ChildServer() {
  kill_now();
  if (out_ >= 0) close(out_);
}

bool ChildServer::wait_ready(milliseconds limit) {
  auto end = Clock::now() + limit;
  for (;;) {
    if (size_t at = output_.find("://");
        at != std::string::npos && output_.find('\n', at) != std::string::npos) {
      port_ = std::atoi(output_.c_str() + output_.find(':', at + 3) + 1);
      return port_ > 0;
    }
    auto left = std::chrono::duration_cast<milliseconds>(end - Clock::now()).count();
    pollfd p{out_, POLLIN, 0};
    if (left <= 0 || poll(&p, 1, static_cast<int>(left)) <= 0) return false;
    char buffer[4096];
    ssize_t n = read(out_, buffer, sizeof(buffer));
    if (n <= 0) return false;
    output_.append(buffer, static_cast<size_t>(n));
  }
}

int64_t ChildServer::resident_bytes() const {
  std::ifstream status("/proc/" + std::to_string(pid_) + "/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmRSS:")) return std::atoll(line.c_str() + 6) * 1024;
  }
  return -1;
}

void ChildServer::signal(int number) const {
  if (pid_ > 0 && !ended_) ::kill(pid_, number);
}

bool ChildServer::reap(bool block) {
  if (ended_ || pid_ <= 0) return true;
  int status = 0;
  if (waitpid(pid_, &status, block ? 0 : WNOHANG) != pid_) return false;
  ended_ = true;
  if (WIFEXITED(status)) {
    status_.exited = true;
    status_.code = WEXITSTATUS(status);
  } else {
    status_.signal = WTERMSIG(status);
  }
  return true;
}

ExitStatus ChildServer::wait(milliseconds limit) {
  auto end = Clock::now() + limit;
  while (!reap(false) && Clock::now() < end) std::this_thread::sleep_for(milliseconds(2));
  return status_;
}

void ChildServer::kill_now() {
  signal(SIGKILL);
  reap(true);
}

}  // namespace kvasir
