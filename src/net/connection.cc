// The story of a connection. Reading and checking a request is in connection_read.cc.
#include "net/connection.h"

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <exception>

namespace kvasir {

namespace asio = boost::asio;
using namespace std::chrono_literals;

namespace {

constexpr size_t kWritePiece = 64 * 1024;  // what one write_timeout is for
constexpr size_t kSmallRead = 4 * 1024;    // of an idle connection
constexpr size_t kLargeRead = 64 * 1024;   // while a body streams in

// After the last response the socket stays open for reading a little: closing it with unread bytes would send
// a reset, and a reset makes the client's system drop the response before the client has read it.
constexpr auto kLinger = 2s;
constexpr int64_t kLingerBytes = 4 << 20;

}  // namespace

Connection::Connection(ServerState& server, asio::ip::tcp::socket socket)
    : server_(server),
      transport_(std::move(socket), server.tls.get()),
      client_address_(transport_.remote_address()),
      input_event_(transport_.executor()),
      room_event_(transport_.executor()),
      guard_(transport_.executor()) {}

Connection::~Connection() {
  std::lock_guard lock(server_.mutex);
  server_.open.erase(this);
  if (admitted_) {
    --server_.admitted;
    if (auto it = server_.per_address.find(client_address_); --it->second == 0) server_.per_address.erase(it);
  }
  server_.left.notify_all();
}

std::optional<HttpError> Connection::enter() {
  const HttpLimits& limits = server_.options.limits;
  std::lock_guard lock(server_.mutex);
  server_.open.emplace(this, weak_from_this());
  if (server_.admitted >= limits.connections) {
    return HttpError{503, "the server has too many connections", {}, {}};
  }
  int& of_address = server_.per_address[client_address_];
  if (limits.connections_per_address > 0 && of_address >= limits.connections_per_address) {
    return HttpError{503, "the server has too many connections from this address", {}, {}};
  }
  ++of_address;
  ++server_.admitted;
  admitted_ = true;
  return std::nullopt;
}

Task<> Connection::run(std::optional<HttpError> refusal) {
  const bool opened = co_await open();
  if (opened) {
    if (refusal) {
      HttpRequest none;
      none.id = server_.next_request_id();
      co_await refuse(none, std::move(*refusal));
    } else {
      for (bool more = true; more;) more = co_await serve_one();
    }
  }
  co_await close();
}

Task<bool> Connection::open() {
  arm_guard(server_.options.limits.header_timeout);
  const bool open = co_await transport_.handshake();
  disarm_guard();
  if (!open || broken_) {
    broken_ = true;
    co_return false;
  }
  asio::co_spawn(
      transport_.executor(), [self = shared_from_this()]() -> Task<> { co_await self->pump(); },
      asio::detached);
  co_return true;
}

Task<> Connection::pump() {
  const HttpLimits& limits = server_.options.limits;
  const size_t high_water = std::max(kLargeRead, limits.head.header_bytes + kSmallRead);
  std::string buffer(kSmallRead, '\0');
  for (;;) {
    const size_t size = co_await transport_.read_some({buffer.data(), buffer.size()});
    if (size == 0) break;
    if (lingering_) {
      dropped_bytes_ += static_cast<int64_t>(size);
      if (dropped_bytes_ > kLingerBytes) break;
      continue;
    }
    if (writer_ && input_.size() + size > limits.pipelined_bytes) {
      // To stop reading would make us deaf to a hang-up.
      keep_alive_ = false;
      lingering_ = true;
      input_.clear();
      continue;
    }
    input_.append(buffer, 0, size);
    input_event_.fire();
    if (size == buffer.size() && size < kLargeRead) buffer.resize(kLargeRead);
    while (!writer_ && !lingering_ && !broken_ && input_.size() >= high_water) {
      co_await room_event_.wait_until(Clock::time_point::max());
    }
  }
  hung_up_ = true;
  input_event_.fire();
  if (writer_) writer_->signal().notify();
}

Task<bool> Connection::serve_one() {
  idle_end_ = !co_await wait_for_request();
  if (idle_end_) co_return false;
  first_ = false;
  began_ = Clock::now();
  bytes_out_ = 0;
  keep_alive_ = true;
  minor_version_ = 1;

  RequestParser parser(server_.bodies, server_.options.limits.body_bytes);
  HttpRequest request;
  request.id = server_.next_request_id();
  request.client_address = client_address_;
  request.tls = transport_.is_tls();
  RequestHead head;
  bool good = co_await read_head(parser, request, head);
  if (good) good = co_await read_body(parser, request, head);
  if (good) good = co_await answer(request);
  co_return good;
}

Task<bool> Connection::answer(const HttpRequest& request) {
  server_.requests.fetch_add(1, std::memory_order_relaxed);
  ResponseWriter out(*this, request);
  struct Current {  // the pump must not see a writer whose coroutine was destroyed
    Connection& connection;
    ~Current() { connection.writer_ = nullptr; }
  } current{*this};
  writer_ = &out;
  room_event_.fire();
  std::string failure;
  try {
    co_await server_.handler(request, out);
  } catch (const std::exception& e) {
    failure = e.what();
  } catch (...) {
    failure = "an exception of unknown type";
  }
  if (!out.started()) {
    if (failure.empty() && !hung_up_) failure = "the handler ended without a response";
    keep_alive_ = false;
  }
  if (!out.started() && !hung_up_) {
    const HttpError error{500, "the server failed to answer", request.id, request.path};
    const HttpResponse response = server_.error_response(error);
    co_await out.send(response);
  }
  writer_ = nullptr;
  const bool complete = out.complete();
  if (!complete) abort();
  report(request, out, std::move(failure));
  co_return complete&& keep_alive();
}

Task<> Connection::refuse(const HttpRequest& request, HttpError error) {
  server_.refused_requests.fetch_add(1, std::memory_order_relaxed);
  keep_alive_ = false;
  error.request_id = request.id;
  error.path = request.path;
  ResponseWriter out(*this, request);
  const HttpResponse response = server_.error_response(error);
  co_await out.send(response);
  report(request, out, {});
}

void Connection::report(const HttpRequest& request, const ResponseWriter& out, std::string failure) {
  if (!server_.options.on_exchange) return;
  HttpExchange exchange;
  exchange.request_id = request.id;
  exchange.client_address = client_address_;
  exchange.method = request.method;
  exchange.path = request.path;
  exchange.status = out.status();
  exchange.body_bytes_in = static_cast<int64_t>(request.body.size());
  exchange.bytes_out = bytes_out_;
  exchange.seconds = std::chrono::duration<double>(Clock::now() - began_).count();
  exchange.complete = out.complete();
  exchange.failure = std::move(failure);
  server_.options.on_exchange(exchange);
}

Task<bool> Connection::write(std::string_view bytes) {
  if (!broken_ && transport_.silence() > server_.options.limits.write_timeout) abort();
  while (!bytes.empty() && !broken_) {
    const int64_t now = transport_.write_now(bytes);
    if (now < 0) break;
    bytes.remove_prefix(static_cast<size_t>(now));
    bytes_out_ += now;
    if (now > 0 || bytes.empty()) continue;

    const std::string_view piece = bytes.substr(0, kWritePiece);
    arm_guard(server_.options.limits.write_timeout);
    const bool written = co_await transport_.write(piece);
    disarm_guard();
    if (!written) break;
    bytes.remove_prefix(piece.size());
    bytes_out_ += static_cast<int64_t>(piece.size());
  }
  if (!bytes.empty()) abort();
  co_return !broken_;
}

Task<> Connection::close() {
  if (!broken_) {
    lingering_ = true;
    room_event_.fire();
    arm_guard(std::chrono::duration_cast<std::chrono::milliseconds>(kLinger));
    co_await transport_.finish_writing();
    const auto deadline = Clock::now() + kLinger;
    while (!hung_up_ && !idle_end_ && Clock::now() < deadline) co_await input_event_.wait_until(deadline);
    disarm_guard();
  }
  abort();
}

void Connection::abort() {
  if (broken_ && hung_up_) return;
  broken_ = true;
  hung_up_ = true;
  transport_.close();
  input_event_.fire();
  room_event_.fire();
  if (writer_) writer_->signal().notify();
}

void Connection::arm_guard(std::chrono::milliseconds timeout) {
  guard_.expires_after(timeout);
  guard_.async_wait([self = shared_from_this(), turn = ++guard_turn_](boost::system::error_code error) {
    // It may have run out just before it was disarmed.
    if (!error && turn == self->guard_turn_) self->abort();
  });
}

void Connection::disarm_guard() {
  ++guard_turn_;
  guard_.cancel();
}

void Connection::consume(size_t bytes) {
  input_.erase(0, bytes);
  room_event_.fire();
}

Task<Connection::Wait> Connection::wait_for_input(size_t seen, Clock::time_point deadline) {
  while (input_.size() <= seen) {
    if (hung_up_) co_return Wait::kHungUp;
    if (Clock::now() >= deadline) co_return Wait::kTimeout;
    co_await input_event_.wait_until(deadline);
  }
  co_return Wait::kInput;
}

}  // namespace kvasir
