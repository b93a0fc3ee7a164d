// Every error ends as "broken": whatever the peer or the network did, the connection is over.
#include "net/transport.h"

#include <linux/sockios.h>
#include <netinet/tcp.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/buffer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>

namespace kvasir {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using SystemError = boost::system::error_code;

constexpr auto kAwait = asio::as_tuple(asio::use_awaitable);

std::string numeric(const tcp::endpoint& endpoint) {
  asio::ip::address address = endpoint.address();
  if (address.is_v6() && address.to_v6().is_v4_mapped()) {
    return asio::ip::make_address_v4(asio::ip::v4_mapped, address.to_v6()).to_string();
  }
  return address.to_string();
}

}  // namespace

Transport::Transport(tcp::socket socket, asio::ssl::context* tls) : socket_(std::move(socket)) {
  SystemError ignored;  // a peer that is gone already has no address; the first read says so
  socket_.set_option(tcp::no_delay(true), ignored);
  socket_.non_blocking(true, ignored);
  remote_address_ = numeric(socket_.remote_endpoint(ignored));
  local_address_ = numeric(socket_.local_endpoint(ignored));
  if (tls) tls_.emplace(socket_, *tls);
}

Task<bool> Transport::handshake() {
  if (!tls_) co_return true;
  auto [error] = co_await tls_->async_handshake(asio::ssl::stream_base::server, kAwait);
  co_return !error;
}

Task<size_t> Transport::read_some(std::span<char> buffer) {
  const auto target = asio::buffer(buffer.data(), buffer.size());
  if (tls_) {
    auto [error, size] = co_await tls_->async_read_some(target, kAwait);
    co_return error ? 0 : size;
  }
  auto [error, size] = co_await socket_.async_read_some(target, kAwait);
  co_return error ? 0 : size;
}

int64_t Transport::write_now(std::string_view bytes) {
  if (tls_) return 0;
  SystemError error;
  const size_t size = socket_.write_some(asio::buffer(bytes.data(), bytes.size()), error);
  if (error == asio::error::would_block || error == asio::error::try_again) return 0;
  return error ? -1 : static_cast<int64_t>(size);
}

Task<bool> Transport::write(std::string_view bytes) {
  const auto source = asio::buffer(bytes.data(), bytes.size());
  if (tls_) {
    auto [error, size] = co_await asio::async_write(*tls_, source, kAwait);
    co_return !error;
  }
  auto [error, size] = co_await asio::async_write(socket_, source, kAwait);
  co_return !error;
}

std::chrono::milliseconds Transport::silence() {
  using std::chrono::milliseconds;
  const int fd = socket_.native_handle();
  const auto now = std::chrono::steady_clock::now();
  int outstanding = 0;
  if (ioctl(fd, SIOCOUTQ, &outstanding) != 0 || outstanding == 0) {
    outstanding_since_.reset();
    return milliseconds(0);
  }
  if (!outstanding_since_) outstanding_since_ = now;
  tcp_info info{};
  socklen_t size = sizeof(info);
  if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) != 0) return milliseconds(0);
  return std::min(milliseconds(info.tcpi_last_ack_recv),
                  std::chrono::duration_cast<milliseconds>(now - *outstanding_since_));
}

Task<> Transport::finish_writing() {
  if (tls_) co_await tls_->async_shutdown(kAwait);
  SystemError ignored;
  socket_.shutdown(tcp::socket::shutdown_send, ignored);
}

void Transport::close() {
  SystemError ignored;
  socket_.close(ignored);
}

}  // namespace kvasir
