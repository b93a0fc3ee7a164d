// RequestParser: Beast's HTTP parser for one request, behind our own types.
//
// Gets only heads that read_request_head accepted. The body grows as its bytes arrive, whatever length was
// announced, and every growth is charged to a budget that all connections share. Trailers are refused: no
// client sends them, and a field that comes after the checks has passed none of them. Threading: none; the
// budget is atomic.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "net/http_message.h"

namespace kvasir {

// Bytes held by the bodies of all requests being read or handled.
class BodyBudget {
 public:
  explicit BodyBudget(int64_t limit) : limit_(limit) {}
  bool take(int64_t bytes);
  void give_back(int64_t bytes) { used_.fetch_sub(bytes, std::memory_order_relaxed); }
  int64_t used() const { return used_.load(std::memory_order_relaxed); }

 private:
  const int64_t limit_;
  std::atomic<int64_t> used_{0};
};

class RequestParser {
 public:
  // `budget` outlives the parser; what the body took is given back when the parser goes.
  RequestParser(BodyBudget& budget, uint64_t max_body_bytes);
  ~RequestParser();

  // Fills `request.headers`.
  std::optional<HttpError> put_head(std::string_view head, HttpRequest& request);

  // Takes what it can of `bytes`; `taken` says how much. Nothing taken and no error: it needs more behind
  // them.
  std::optional<HttpError> put_body(std::string_view bytes, size_t& taken);

  // Head and body are complete.
  bool done() const;

  std::string take_body();

 private:
  class Beast;
  std::unique_ptr<Beast> beast_;
};

}  // namespace kvasir
