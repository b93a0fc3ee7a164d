// Builds heads and chunks. Small pieces are joined, so that one event is one packet and one TLS record.
#include "net/response_writer.h"

#include <fmt/format.h>

#include <ctime>

#include "base/check.h"
#include "net/connection.h"

namespace kvasir {
namespace {

constexpr size_t kJoinBytes = 16 * 1024;
constexpr size_t kMaxChunk = 64 * 1024;

// RFC 9110 section 5.6.7; the locale must not speak here.
std::string http_date() {
  static constexpr const char* kDays[] = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
  static constexpr const char* kMonths[] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                            "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
  const std::time_t now = std::time(nullptr);
  std::tm t{};
  gmtime_r(&now, &t);
  return fmt::format("{}, {:02} {} {} {:02}:{:02}:{:02} GMT", kDays[t.tm_wday], t.tm_mday, kMonths[t.tm_mon],
                     t.tm_year + 1900, t.tm_hour, t.tm_min, t.tm_sec);
}

bool may_have_body(int status) { return status >= 200 && status != 204 && status != 304; }

bool is_framing(std::string_view name) {
  for (std::string_view own : {"Content-Length", "Transfer-Encoding", "Connection", "Date"}) {
    if (same_ignoring_case(name, own)) return true;
  }
  return false;
}

// A value may repeat what a client sent, so it must not be able to end its line.
bool fits_in_a_line(std::string_view value) {
  return std::none_of(value.begin(), value.end(), [](char c) { return c == '\r' || c == '\n' || c == '\0'; });
}

}  // namespace

ResponseWriter::ResponseWriter(Connection& connection, const HttpRequest& request)
    : connection_(connection), request_(request), head_only_(request.method == "HEAD") {}

bool ResponseWriter::connected() const { return state_ != State::kBroken && !connection_.hung_up(); }

Task<bool> ResponseWriter::put(std::string_view bytes) {
  const bool written = co_await connection_.write(bytes);
  if (!written) state_ = State::kBroken;
  co_return written;
}

Task<bool> ResponseWriter::send_head(int status, const std::vector<HttpHeader>& headers,
                                     std::string_view framing, std::string_view body) {
  status_ = status;
  std::string head = fmt::format("HTTP/1.1 {} {}\r\nDate: {}\r\nX-Request-Id: {}\r\n", status,
                                 reason_phrase(status), http_date(), request_.id);
  for (const HttpHeader& h : headers) {
    KVASIR_CHECK(!is_framing(h.name) && fits_in_a_line(h.name), "a handler sets {}, which the server does",
                 h.name);
    if (fits_in_a_line(h.value)) head.append(h.name).append(": ").append(h.value).append("\r\n");
  }
  head.append(framing);
  if (!connection_.keep_alive()) {
    connection_.close_after_response();
    head.append("Connection: close\r\n");
  } else if (connection_.minor_version() == 0) {
    head.append("Connection: keep-alive\r\n");
  }
  head.append("\r\n");
  if (head_only_) body = {};
  const bool joined = body.size() <= kJoinBytes;
  if (joined) head.append(body);
  bool written = co_await put(head);
  if (written && !joined) written = co_await put(body);
  co_return written;
}

Task<bool> ResponseWriter::send(const HttpResponse& response) {
  KVASIR_CHECK(state_ == State::kNothing || state_ == State::kBroken, "a response is sent twice");
  if (state_ == State::kBroken) co_return false;
  state_ = State::kStreaming;
  std::string framing;
  std::string_view body;
  if (may_have_body(response.status)) {
    framing = fmt::format("Content-Length: {}\r\n", response.body.size());
    body = response.body;
  }
  const bool written = co_await send_head(response.status, response.headers, framing, body);
  if (written) state_ = State::kComplete;
  co_return written;
}

Task<bool> ResponseWriter::begin(int status, const std::vector<HttpHeader>& headers) {
  KVASIR_CHECK(state_ == State::kNothing || state_ == State::kBroken, "a response is begun twice");
  KVASIR_CHECK(may_have_body(status), "status {} has no body to stream", status);
  if (!connected()) {
    state_ = State::kBroken;
    co_return false;
  }
  state_ = State::kStreaming;
  chunked_ = connection_.minor_version() == 1;
  if (!chunked_) connection_.close_after_response();
  co_return co_await send_head(status, headers, chunked_ ? "Transfer-Encoding: chunked\r\n" : "", {});
}

Task<bool> ResponseWriter::write(std::string_view bytes) {
  KVASIR_CHECK(state_ == State::kStreaming || state_ == State::kBroken,
               "a chunk outside a streamed response");
  if (head_only_) co_return connected();
  if (!chunked_ && connected()) co_return co_await put(bytes);
  std::string chunk;
  while (!bytes.empty()) {  // an empty chunk would end the response
    if (!connected()) co_return false;
    const std::string_view piece = bytes.substr(0, kMaxChunk);
    bytes.remove_prefix(piece.size());
    chunk = fmt::format("{:x}\r\n{}\r\n", piece.size(), piece);
    const bool written = co_await put(chunk);
    if (!written) co_return false;
  }
  co_return connected();
}

Task<bool> ResponseWriter::finish() {
  KVASIR_CHECK(state_ == State::kStreaming || state_ == State::kBroken,
               "the end of a response that was not begun");
  if (state_ == State::kBroken) co_return false;
  if (chunked_ && !head_only_) {
    const bool written = co_await put("0\r\n\r\n");
    if (!written) co_return false;
  }
  state_ = State::kComplete;
  co_return true;
}

}  // namespace kvasir
