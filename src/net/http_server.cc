// Listening, the network threads, and stopping.
#include "net/http_server.h"

#include <fmt/format.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/strand.hpp>
#include <random>
#include <thread>

#include "net/connection.h"

namespace kvasir {

namespace asio = boost::asio;
using asio::ip::tcp;
using Clock = std::chrono::steady_clock;
using SystemError = boost::system::error_code;

namespace {

// Connections over the limit that are still told so; beyond them accepting waits.
constexpr int kRefusedAtOnce = 64;
constexpr auto kAcceptPause = std::chrono::milliseconds(20);
constexpr auto kStopGrace = std::chrono::seconds(1);

uint64_t random_seed() {
  std::random_device device;
  return (uint64_t{device()} << 32) | device();
}

// SplitMix64's last steps: every count gives another id, and neighbours look unrelated.
uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

Error cannot_listen(const HttpServerOptions& options, const SystemError& error) {
  return {ErrorCode::kIo,
          fmt::format("cannot listen on {} port {}: {}", options.host, options.port, error.message())};
}

// What the system keeps of unsent bytes for one reader. With the default it may be megabytes, and the socket
// counts as full until a third of them is gone: a reader that is slow but steady would run into the write
// timeout meanwhile.
constexpr int kUnsentBytes = 64 << 10;

// A peer that vanished without a word (power, cable) is probed while nothing is sent; while something is, the
// next write sees its silence. TCP_USER_TIMEOUT is no help: it also ends a connection whose reader is slow
// but steady, since it counts from when the window was first too small.
void watch_peer(tcp::socket& socket) {
  SystemError ignored;
  socket.set_option(asio::socket_base::keep_alive(true), ignored);
  const int fd = socket.native_handle();
  setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &kUnsentBytes, sizeof(kUnsentBytes));
  const int idle_s = 30, interval_s = 10;
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof(idle_s));
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval_s, sizeof(interval_s));
}

}  // namespace

ServerState::ServerState(HttpServerOptions server_options, HttpHandler http_handler)
    : options(std::move(server_options)),
      handler(std::move(http_handler)),
      host_rule(options.host, options.allowed_hosts),
      bodies(options.limits.all_bodies_bytes),
      id_seed(random_seed()) {}

std::string ServerState::next_request_id() {
  const uint64_t count = request_count.fetch_add(1, std::memory_order_relaxed);
  return fmt::format("req_{:016x}", mix(id_seed + count * 0x9e3779b97f4a7c15));
}

HttpResponse ServerState::error_response(const HttpError& error) const {
  if (options.error_response) return options.error_response(error);
  return {error.status, {{"Content-Type", "text/plain; charset=utf-8"}}, error.message + "\n"};
}

struct HttpServer::Impl {
  Impl(HttpServerOptions options, HttpHandler handler)
      : state(std::move(options), std::move(handler)),
        context(std::make_unique<asio::io_context>(state.options.threads)),
        strand(asio::make_strand(*context)) {}

  Status listen();
  Task<> accept_forever();
  void serve(tcp::socket socket);
  void for_each_open(void (*what)(Connection&));
  bool wait_until_empty(Clock::time_point deadline);

  ServerState state;  // outlives the context, which holds the connections
  std::unique_ptr<asio::io_context> context;
  // The acceptor's. These two go before the context, to which they point.
  std::optional<asio::strand<asio::io_context::executor_type>> strand;
  std::unique_ptr<tcp::acceptor> acceptor;
  std::vector<std::thread> threads;
  int port = 0;
  std::string url;
};

Status HttpServer::Impl::listen() {
  const HttpServerOptions& options = state.options;
  SystemError error;
  asio::ip::address address = asio::ip::make_address(options.host, error);
  if (error) {
    tcp::resolver resolver(*context);
    const auto found =
        resolver.resolve(options.host, std::to_string(options.port), tcp::resolver::passive, error);
    if (error || found.empty()) return cannot_listen(options, error);
    address = found.begin()->endpoint().address();
  }
  const tcp::endpoint endpoint(address, static_cast<uint16_t>(options.port));
  acceptor = std::make_unique<tcp::acceptor>(*strand);
  acceptor->open(endpoint.protocol(), error);
  if (!error) acceptor->set_option(asio::socket_base::reuse_address(true), error);
  if (!error && options.limits.send_buffer_bytes > 0) {  // accepted sockets inherit it
    acceptor->set_option(asio::socket_base::send_buffer_size(options.limits.send_buffer_bytes), error);
  }
  if (!error) acceptor->bind(endpoint, error);
  if (!error) acceptor->listen(asio::socket_base::max_listen_connections, error);
  if (error) return cannot_listen(options, error);

  port = acceptor->local_endpoint(error).port();
  const std::string host =
      options.host.find(':') == std::string::npos ? options.host : "[" + options.host + "]";
  url = fmt::format("{}://{}:{}", state.tls ? "https" : "http", host, port);
  return {};
}

Task<> HttpServer::Impl::accept_forever() {
  const auto await = asio::as_tuple(asio::use_awaitable);
  asio::steady_timer pause(*strand);
  while (acceptor->is_open()) {
    bool full = false;
    {
      std::lock_guard lock(state.mutex);
      full = static_cast<int>(state.open.size()) >= state.options.limits.connections + kRefusedAtOnce;
    }
    if (!full) {
      auto [error, socket] = co_await acceptor->async_accept(asio::make_strand(*context), await);
      if (!error) {
        serve(std::move(socket));
        continue;
      }
      if (error == asio::error::connection_aborted) continue;
    }
    // Full, or out of file descriptors or memory: others must end first.
    pause.expires_after(kAcceptPause);
    co_await pause.async_wait(await);
  }
}

void HttpServer::Impl::serve(tcp::socket socket) {
  state.accepted.fetch_add(1, std::memory_order_relaxed);
  watch_peer(socket);
  auto connection = std::make_shared<Connection>(state, std::move(socket));
  std::optional<HttpError> refusal = connection->enter();
  if (refusal) state.refused_connections.fetch_add(1, std::memory_order_relaxed);
  asio::co_spawn(
      connection->executor(), [connection, refusal]() -> Task<> { co_await connection->run(refusal); },
      asio::detached);
}

void HttpServer::Impl::for_each_open(void (*what)(Connection&)) {
  std::lock_guard lock(state.mutex);
  for (auto& [raw, weak] : state.open) {
    if (auto connection = weak.lock()) {
      auto executor = connection->executor();
      asio::post(executor, [connection = std::move(connection), what] { what(*connection); });
    }
  }
}

bool HttpServer::Impl::wait_until_empty(Clock::time_point deadline) {
  std::unique_lock lock(state.mutex);
  return state.left.wait_until(lock, deadline, [&] { return state.open.empty(); });
}

HttpServer::HttpServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

HttpServer::~HttpServer() { stop(Clock::now()); }

Result<std::unique_ptr<HttpServer>> HttpServer::make(HttpServerOptions options, HttpHandler handler) {
  const HttpLimits& limits = options.limits;
  if (options.port < 0 || options.port > 65535) {
    return Error{ErrorCode::kInvalid, fmt::format("port {} is not between 0 and 65535", options.port)};
  }
  if (options.threads < 1)
    return Error{ErrorCode::kInvalid,
                 fmt::format("{} network threads: at least one is needed", options.threads)};
  if (limits.connections < 1 || limits.body_bytes_per_second < 1) {
    return Error{ErrorCode::kInvalid, "a limit of the HTTP server is below 1"};
  }
  auto impl = std::make_unique<Impl>(std::move(options), std::move(handler));
  if (impl->state.options.tls) {
    KVASIR_TRY(impl->state.tls, make_tls_context(*impl->state.options.tls));
  }
  KVASIR_TRY_STATUS(impl->listen());
  asio::co_spawn(*impl->strand, impl->accept_forever(), asio::detached);
  for (int i = 0; i < impl->state.options.threads; ++i) {
    impl->threads.emplace_back([context = impl->context.get()] { context->run(); });
  }
  return std::unique_ptr<HttpServer>(new HttpServer(std::move(impl)));
}

int HttpServer::port() const { return impl_->port; }
std::string HttpServer::url() const { return impl_->url; }

void HttpServer::stop(Clock::time_point deadline) {
  if (!impl_->context) return;
  impl_->state.stopping = true;
  asio::post(*impl_->strand, [impl = impl_.get()] {
    SystemError ignored;
    impl->acceptor->close(ignored);
  });
  impl_->for_each_open([](Connection& connection) { connection.stop_when_idle(); });
  if (!impl_->wait_until_empty(deadline)) {
    impl_->for_each_open([](Connection& connection) { connection.abort(); });
    impl_->wait_until_empty(Clock::now() + kStopGrace);
  }
  impl_->context->stop();
  for (std::thread& thread : impl_->threads) thread.join();
  impl_->acceptor.reset();
  impl_->strand.reset();
  impl_->context.reset();
}

HttpServerMetrics HttpServer::metrics() const {
  ServerState& state = impl_->state;
  HttpServerMetrics metrics;
  {
    std::lock_guard lock(state.mutex);
    metrics.connections = static_cast<int64_t>(state.open.size());
  }
  metrics.body_bytes = state.bodies.used();
  metrics.accepted = state.accepted.load(std::memory_order_relaxed);
  metrics.refused_connections = state.refused_connections.load(std::memory_order_relaxed);
  metrics.requests = state.requests.load(std::memory_order_relaxed);
  metrics.refused_requests = state.refused_requests.load(std::memory_order_relaxed);
  return metrics;
}

}  // namespace kvasir
