// Transport: the bytes of one connection, plain or through TLS, with the same four verbs.
//
// At most one read and one write at a time, beside each other. Threading: its connection's strand. Only for
// files of this room: it shows Asio.
#pragma once

#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ssl/stream.hpp>
#include <chrono>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "net/task.h"

namespace kvasir {

class Transport {
 public:
  // `tls` null: plain. It outlives the transport.
  Transport(boost::asio::ip::tcp::socket socket, boost::asio::ssl::context* tls);

  boost::asio::any_io_executor executor() { return socket_.get_executor(); }
  bool is_tls() const { return tls_.has_value(); }
  std::string remote_address() const { return remote_address_; }  // numeric
  std::string local_address() const { return local_address_; }

  Task<bool> handshake();

  // 0: the peer sends no more, or the connection is broken.
  Task<size_t> read_some(std::span<char> buffer);

  // Writes at once what fits into the socket's buffer, without waiting; nothing on TLS. -1: broken.
  int64_t write_now(std::string_view bytes);
  // Waits until everything is written. False: broken.
  Task<bool> write(std::string_view bytes);

  // For how long the peer has acknowledged nothing although something is outstanding, as seen by this
  // function alone: it has to be asked now and then.
  std::chrono::milliseconds silence();

  // Tells the peer that nothing more comes.
  Task<> finish_writing();
  // Ends every read and write under way. The peer may get a reset.
  void close();

 private:
  boost::asio::ip::tcp::socket socket_;
  std::optional<boost::asio::ssl::stream<boost::asio::ip::tcp::socket&>> tls_;
  std::string remote_address_, local_address_;
  std::optional<std::chrono::steady_clock::time_point> outstanding_since_;
};

}  // namespace kvasir
