// The one file that includes Beast's HTTP headers.
#include "net/request_parser.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/beast/http/basic_parser.hpp>
#include <boost/beast/http/error.hpp>
#include <limits>

namespace kvasir {
namespace {

namespace http = boost::beast::http;
using BeastView = boost::beast::string_view;
using BeastError = boost::beast::error_code;

// A chunk's size with its extensions must be whole in the buffer to be parsed.
constexpr size_t kMaxChunkLine = 8 * 1024;
constexpr size_t kMaxChunkExtension = 256;
constexpr size_t kFirstBodyBytes = 4 * 1024;

std::string_view view(BeastView text) { return {text.data(), text.size()}; }

}  // namespace

bool BodyBudget::take(int64_t bytes) {
  int64_t used = used_.load(std::memory_order_relaxed);
  while (bytes <= limit_ - used) {
    if (used_.compare_exchange_weak(used, used + bytes, std::memory_order_relaxed)) return true;
  }
  return false;
}

class RequestParser::Beast : public http::basic_parser<true> {
 public:
  Beast(BodyBudget& budget, uint64_t max_body_bytes) : budget_(budget), max_body_bytes_(max_body_bytes) {
    eager(true);
    header_limit(std::numeric_limits<uint32_t>::max());  // HeadScanner and kMaxChunkLine limit it
    body_limit(max_body_bytes);
  }
  ~Beast() override { budget_.give_back(charged_); }

  HttpRequest* request = nullptr;  // while the head is being put
  std::string body;
  bool out_of_budget = false;

  HttpError describe(const BeastError& error) const {
    if (out_of_budget) return {503, "the server holds too many request bodies at the moment", {}, {}};
    if (error == http::error::body_limit) {
      return {413, fmt::format("the body has more than {} bytes", max_body_bytes_), {}, {}};
    }
    return {400, fmt::format("the request is malformed ({})", error.message()), {}, {}};
  }

 private:
  void on_request_impl(http::verb, BeastView, BeastView, int, BeastError& error) override { error = {}; }
  void on_response_impl(int, BeastView, int, BeastError& error) override { error = {}; }

  void on_field_impl(http::field, BeastView name, BeastView value, BeastError& error) override {
    error = {};
    if (!request) {
      error = http::error::bad_field;
      return;
    }
    request->headers.push_back({std::string(view(name)), std::string(view(value))});
  }

  void on_header_impl(BeastError& error) override { error = {}; }
  void on_body_init_impl(boost::optional<uint64_t> const& length, BeastError& error) override {
    error = {};
    if (length) announced_ = *length;
  }

  size_t on_body_impl(BeastView bytes, BeastError& error) override { return append(view(bytes), error); }
  size_t on_chunk_body_impl(uint64_t, BeastView bytes, BeastError& error) override {
    return append(view(bytes), error);
  }

  void on_chunk_header_impl(uint64_t, BeastView extensions, BeastError& error) override {
    error = {};
    if (extensions.size() > kMaxChunkExtension) error = http::error::bad_chunk_extension;
  }
  void on_finish_impl(BeastError& error) override { error = {}; }

  size_t append(std::string_view bytes, BeastError& error) {
    error = {};
    const size_t needed = body.size() + bytes.size();
    if (needed > body.capacity()) {
      // Doubling does not overshoot what was announced, or may come at all.
      const size_t doubled = std::min<uint64_t>(std::max(kFirstBodyBytes, body.capacity() * 2), announced_);
      const size_t capacity = std::max(needed, doubled);
      if (!budget_.take(static_cast<int64_t>(capacity) - charged_)) {
        out_of_budget = true;
        error = http::error::buffer_overflow;
        return 0;
      }
      charged_ = static_cast<int64_t>(capacity);
      body.reserve(capacity);
    }
    body.append(bytes);
    return bytes.size();
  }

  BodyBudget& budget_;
  const uint64_t max_body_bytes_;
  uint64_t announced_ = max_body_bytes_;
  int64_t charged_ = 0;
};

RequestParser::RequestParser(BodyBudget& budget, uint64_t max_body_bytes)
    : beast_(std::make_unique<Beast>(budget, max_body_bytes)) {}
RequestParser::~RequestParser() = default;

std::optional<HttpError> RequestParser::put_head(std::string_view head, HttpRequest& request) {
  BeastError error;
  beast_->request = &request;
  const size_t taken = beast_->put({head.data(), head.size()}, error);
  beast_->request = nullptr;
  if (error) return beast_->describe(error);
  if (taken != head.size() || !beast_->is_header_done()) {
    return HttpError{400, "the head of the request ends where it should not", {}, {}};
  }
  return std::nullopt;
}

std::optional<HttpError> RequestParser::put_body(std::string_view bytes, size_t& taken) {
  BeastError error;
  taken = beast_->put({bytes.data(), bytes.size()}, error);
  if (error == http::error::need_more) {
    if (bytes.size() - taken > kMaxChunkLine) {
      return HttpError{400, fmt::format("a chunk header has more than {} bytes", kMaxChunkLine), {}, {}};
    }
    error = {};
  }
  if (error) return beast_->describe(error);
  return std::nullopt;
}

bool RequestParser::done() const { return beast_->is_done(); }

std::string RequestParser::take_body() { return std::move(beast_->body); }

}  // namespace kvasir
