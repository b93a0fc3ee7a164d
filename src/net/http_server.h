// HttpServer: HTTP/1.1 (and 1.0) over TCP or TLS, one coroutine per connection on one or two threads.
//
//   auto server = HttpServer::make(options, [&](const HttpRequest& request, ResponseWriter& out) -> Task<> {
//     co_await out.send({200, {{"Content-Type", "text/plain"}}, "hello\n"});
//   });
//   puts((*server)->url().c_str());
//   (*server)->stop(std::chrono::steady_clock::now() + 10s);
//
// Knows nothing of what is served. It refuses by itself what is malformed, too large, too slow or for another
// host, and hands everything else, methods and paths included, to the handler. It sends no CORS header, ever.
// Requests of one connection are handled one after the other, in order.
//
//            first byte        head complete       body complete       response complete
//   waiting ───────────► head ───────────► body ───────────► handling ─────────────────┐
//      ▲ │ idle_timeout    │ header_timeout │ body_timeout     │ write_timeout          │
//      │ └──► closed       └─────── 408 ────┘                  └──► closed              │
//      └────────────────────────────── keep-alive ─────────────────────────────────────┘
//
// Threading: make, stop and the destructor from one thread that is not one of the server's; the rest from
// any. The handler and the hooks run on network threads, for different connections at the same time if there
// is more than one.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "net/http_message.h"
#include "net/request_head.h"
#include "net/response_writer.h"
#include "net/task.h"
#include "net/tls.h"

namespace kvasir {

struct HttpLimits {
  HeadLimits head;                       // more: 414 or 431
  uint64_t body_bytes = 64 << 20;        // of one request; more: 413
  int64_t all_bodies_bytes = 512 << 20;  // of all requests together; more: 503
  size_t pipelined_bytes = 64 << 10;     // sent behind a request in work; more: they are dropped, and the
                                         // connection closes after that request's response
  int connections = 4096;                // more: 503
  int connections_per_address = 0;       // more: 503; 0: no limit of its own

  std::chrono::milliseconds header_timeout{10'000};  // for the whole head, and for the TLS handshake
  std::chrono::milliseconds body_timeout{30'000};    // for the body, plus a second for each of ...
  int64_t body_bytes_per_second = 16 << 10;
  std::chrono::milliseconds idle_timeout{75'000};   // between two requests
  std::chrono::milliseconds write_timeout{30'000};  // for the reader to take the next 64 KB, or what there is
  int send_buffer_bytes = 0;                        // the socket's; 0: the system's default
};

// What happened to one request, for logs and metrics. Called after its response, or its refusal.
struct HttpExchange {
  std::string request_id;
  std::string client_address;
  std::string method;  // these two are empty if the request line was not understood
  std::string path;
  int status = 0;  // 0: the client went away before any
  int64_t body_bytes_in = 0;
  int64_t bytes_out = 0;
  double seconds = 0;     // from the first byte of the request
  bool complete = false;  // the whole response was handed to the system
  std::string failure;    // what a handler threw, or that it did not answer; empty otherwise
};

struct HttpServerOptions {
  std::string host = "127.0.0.1";  // a numeric address or a name; "::" and "0.0.0.0" are every interface
  int port = 0;                    // 0: the system chooses
  int threads = 1;
  std::vector<std::string> allowed_hosts;  // names that Host may carry beside those of HostRule
  std::optional<TlsFiles> tls;
  HttpLimits limits;
  // The form of the server's own refusals; without it they are text/plain. Must not block.
  std::function<HttpResponse(const HttpError&)> error_response;
  std::function<void(const HttpExchange&)> on_exchange;
};

// Answers one request: runs until the response is complete, or until the client has gone. If it ends without
// having begun a response the client gets 500; if it ends in the middle of one, the connection is closed
// there.
using HttpHandler = std::function<Task<>(const HttpRequest&, ResponseWriter&)>;

struct HttpServerMetrics {
  int64_t connections = 0;  // open now
  int64_t body_bytes = 0;   // memory of request bodies now
  int64_t accepted = 0;     // since the start
  int64_t refused_connections = 0;
  int64_t requests = 0;          // given to the handler
  int64_t refused_requests = 0;  // answered by the server itself
};

class HttpServer {
 public:
  // Binds, listens and starts the threads. kInvalid: the options make no sense (a TLS file, say). kIo: the
  // address cannot be bound.
  static Result<std::unique_ptr<HttpServer>> make(HttpServerOptions options, HttpHandler handler);
  // stop() at once, if it has not been called.
  ~HttpServer();

  int port() const;
  std::string url() const;  // http://127.0.0.1:8080

  // Accepts nothing more, closes idle connections, lets running handlers finish; at `deadline` closes the
  // others, which their handlers learn like a hang-up, and destroys what still waits a second later. Blocks.
  // Once.
  void stop(std::chrono::steady_clock::time_point deadline);

  HttpServerMetrics metrics() const;

 private:
  struct Impl;
  explicit HttpServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace kvasir
