// ResponseWriter: how a handler answers: one whole response, or a head and then chunks as they come.
//
// Every call suspends the coroutine until the bytes are in the system's socket buffer: a slow reader slows
// its handler and nobody else, and one that takes nothing for write_timeout is closed. `false` means the
// client has gone, and that nothing sent from now on will arrive; the handler should stop. Made by the
// server, for one request. Threading: the connection's strand.
#pragma once

#include <string_view>
#include <vector>

#include "net/http_message.h"
#include "net/signal.h"
#include "net/task.h"

namespace kvasir {

class Connection;

class ResponseWriter {
 public:
  ResponseWriter(Connection& connection, const HttpRequest& request);
  ResponseWriter(const ResponseWriter&) = delete;
  ResponseWriter& operator=(const ResponseWriter&) = delete;

  // The whole response. To HEAD it sends the head only, with the body's length.
  Task<bool> send(const HttpResponse& response);

  // The head of a response whose length is not known yet. Then write() any number of times and finish() once.
  // HTTP/1.1 clients get chunks, 1.0 clients read until the connection closes.
  Task<bool> begin(int status, const std::vector<HttpHeader>& headers);
  Task<bool> write(std::string_view bytes);
  Task<bool> finish();

  // A head has been sent.
  bool started() const { return state_ != State::kNothing; }
  bool complete() const { return state_ == State::kComplete; }
  int status() const { return status_; }

  // False from the moment the client closed its end or the server is made to stop, also while the handler
  // waits.
  bool connected() const;

  // This request's signal. The connection notifies it when connected() turns false, so a handler that waits
  // for it wakes then; hand copies to whoever else should wake the handler.
  const Signal& signal() const { return signal_; }

 private:
  enum class State { kNothing, kStreaming, kComplete, kBroken };

  Task<bool> send_head(int status, const std::vector<HttpHeader>& headers, std::string_view framing,
                       std::string_view body);
  Task<bool> put(std::string_view bytes);

  Connection& connection_;
  const HttpRequest& request_;
  Signal signal_;
  State state_ = State::kNothing;
  int status_ = 0;
  bool head_only_ = false;
  bool chunked_ = true;
};

}  // namespace kvasir
