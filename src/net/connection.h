// Connection: one client's socket, from accept to close, and what all connections of a server share.
//
// Two coroutines on one strand. The pump reads whenever there is room, so that a hang-up is seen at once,
// also while a handler computes for minutes and sends nothing; it fills `input_`. run() takes requests out of
// `input_`, checks them, calls the handler and writes. They meet in fields and StrandEvents. Only for files
// of this room.
#pragma once

#include <atomic>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <unordered_map>

#include "net/host_rule.h"
#include "net/http_server.h"
#include "net/request_parser.h"
#include "net/transport.h"

namespace kvasir {

class Connection;

// Shared by all connections of a server, which outlives them.
struct ServerState {
  ServerState(HttpServerOptions server_options, HttpHandler http_handler);

  std::string next_request_id();
  HttpResponse error_response(const HttpError& error) const;

  // Constant after the listener is bound.
  HttpServerOptions options;
  HttpHandler handler;
  HostRule host_rule;
  std::shared_ptr<boost::asio::ssl::context> tls;

  BodyBudget bodies;
  std::atomic<bool> stopping{false};
  std::atomic<int64_t> accepted{0}, refused_connections{0}, requests{0}, refused_requests{0};
  std::atomic<uint64_t> request_count{0};
  const uint64_t id_seed;

  // Open connections, for limits and for stop().
  std::mutex mutex;
  std::condition_variable left;
  std::unordered_map<Connection*, std::weak_ptr<Connection>> open;  // guarded by mutex
  int admitted = 0;                                                 // guarded by mutex
  std::unordered_map<std::string, int> per_address;                 // of the admitted; guarded by mutex
};

// Lets one coroutine of a strand wait for another. fire() wakes a waiter and is not remembered: check the
// condition, then wait, with no suspension between, and check again.
class StrandEvent {
 public:
  explicit StrandEvent(boost::asio::any_io_executor executor) : timer_(std::move(executor)) {}
  void fire() { timer_.cancel(); }
  Task<> wait_until(std::chrono::steady_clock::time_point deadline) {
    timer_.expires_at(deadline);
    co_await timer_.async_wait(boost::asio::as_tuple(boost::asio::use_awaitable));
  }

 private:
  boost::asio::steady_timer timer_;
};

class Connection : public std::enable_shared_from_this<Connection> {
 public:
  using Clock = std::chrono::steady_clock;

  Connection(ServerState& server, boost::asio::ip::tcp::socket socket);
  ~Connection();
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  // Enters the server's table; says why not if a limit is reached. It then still may run(), to tell the
  // client.
  std::optional<HttpError> enter();
  boost::asio::any_io_executor executor() { return transport_.executor(); }

  // Serves until the connection ends; with a refusal it answers only that.
  Task<> run(std::optional<HttpError> refusal);

  // The rest on the strand only.

  // The server stops: an idle connection closes, another after its response.
  void stop_when_idle() { input_event_.fire(); }
  // Closes at once; whatever waits ends.
  void abort();

  // For ResponseWriter.
  Task<bool> write(std::string_view bytes);
  bool hung_up() const { return hung_up_; }
  int minor_version() const { return minor_version_; }
  bool keep_alive() const { return keep_alive_ && !server_.stopping.load(std::memory_order_relaxed); }
  void close_after_response() { keep_alive_ = false; }

 private:
  enum class Wait { kInput, kHungUp, kTimeout };

  Task<> pump();
  Task<bool> open();
  Task<bool> serve_one();
  Task<bool> wait_for_request();
  Task<bool> read_head(RequestParser& parser, HttpRequest& request, RequestHead& head);
  std::optional<HttpError> check_head(std::string_view bytes, HttpRequest& request, RequestHead& head) const;
  Task<bool> read_body(RequestParser& parser, HttpRequest& request, const RequestHead& head);
  Task<bool> answer(const HttpRequest& request);
  Task<> refuse(const HttpRequest& request, HttpError error);
  Task<> close();
  // Waits until `input_` has more than `seen` bytes.
  Task<Wait> wait_for_input(size_t seen, Clock::time_point deadline);
  void consume(size_t bytes);
  void arm_guard(std::chrono::milliseconds timeout);
  void disarm_guard();
  void report(const HttpRequest& request, const ResponseWriter& out, std::string failure);

  ServerState& server_;
  Transport transport_;
  std::string client_address_;
  bool admitted_ = false;  // counts for the limits

  std::string input_;        // read and not yet used
  StrandEvent input_event_;  // input_ grew, hung_up_, or the server stops
  StrandEvent room_event_;   // input_ shrank, or the pump's orders changed
  bool hung_up_ = false;     // the pump ended: nothing more will be read
  bool broken_ = false;      // closed: nothing more will be written either
  bool lingering_ = false;   // what comes in is dropped
  int64_t dropped_bytes_ = 0;
  bool first_ = true;                 // no request has come yet
  bool idle_end_ = false;             // it ends between two requests, so no response can get lost
  ResponseWriter* writer_ = nullptr;  // while a handler runs

  // Closes the connection when a write or the end takes too long.
  boost::asio::steady_timer guard_;
  uint64_t guard_turn_ = 0;

  // Of the request under way.
  bool keep_alive_ = true;
  int minor_version_ = 1;
  int64_t bytes_out_ = 0;
  Clock::time_point began_;
};

}  // namespace kvasir
