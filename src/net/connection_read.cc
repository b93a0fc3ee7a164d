// A connection's reading side: waits, limits and checks until a request is whole.
#include <fmt/format.h>

#include "net/connection.h"

namespace kvasir {

// False: the connection ends here without a word (nothing was asked).
Task<bool> Connection::wait_for_request() {
  const HttpLimits& limits = server_.options.limits;
  const auto deadline = Clock::now() + (first_ ? limits.header_timeout : limits.idle_timeout);
  for (int empty_lines = 0;;) {
    while (input_.empty()) {
      if (hung_up_ || server_.stopping.load() || Clock::now() >= deadline) co_return false;
      co_await input_event_.wait_until(deadline);
    }
    // Old clients send an empty line behind a body. RFC 9112 section 2.2 asks to overlook one.
    if (input_[0] != '\r' || empty_lines > 0) co_return true;
    const Wait wait = co_await wait_for_input(1, deadline);
    if (wait != Wait::kInput) co_return false;
    if (input_[1] != '\n') co_return true;
    consume(2);
    ++empty_lines;
  }
}

Task<bool> Connection::read_head(RequestParser& parser, HttpRequest& request, RequestHead& head) {
  const HttpLimits& limits = server_.options.limits;
  const auto deadline = began_ + limits.header_timeout;
  HeadScanner scanner(limits.head);
  std::optional<HttpError> error;
  while (!(error = scanner.scan(input_)) && scanner.head_bytes() == 0) {
    const Wait wait = co_await wait_for_input(input_.size(), deadline);
    if (wait == Wait::kInput) continue;
    error = wait == Wait::kTimeout ? HttpError{408, "the head of the request took too long", {}, {}}
                                   : HttpError{400, "the request ends in its head", {}, {}};
    break;
  }
  if (!error) {
    const std::string bytes = input_.substr(0, scanner.head_bytes());
    consume(bytes.size());
    error = check_head(bytes, request, head);
    if (!error) error = parser.put_head(bytes, request);
    minor_version_ = head.minor_version;
    keep_alive_ = head.keep_alive;
    head.method = head.target = head.path = head.query = {};  // `bytes` goes
    head.host.reset();
  }
  if (error) co_await refuse(request, std::move(*error));
  co_return !error;
}

std::optional<HttpError> Connection::check_head(std::string_view bytes, HttpRequest& request,
                                                RequestHead& head) const {
  const HttpLimits& limits = server_.options.limits;
  auto error = read_request_head(bytes, limits.head, head);
  request.method = head.method;
  request.path = head.path;
  request.query = head.query;
  if (error) return error;
  if (head.host && !server_.host_rule.allows(*head.host, transport_.local_address())) {
    return HttpError{
        403, fmt::format("the host \"{}\" is not one this server answers for", *head.host), {}, {}};
  }
  if (head.content_length.value_or(0) > limits.body_bytes) {
    return HttpError{
        413,
        fmt::format("the body has {} bytes; at most {} are read", *head.content_length, limits.body_bytes),
        {},
        {}};
  }
  return std::nullopt;
}

Task<bool> Connection::read_body(RequestParser& parser, HttpRequest& request, const RequestHead& head) {
  const HttpLimits& limits = server_.options.limits;
  const auto began = Clock::now();
  int64_t received = 0;
  size_t seen = 0;  // bytes at the front of input_ that the parser could not use yet
  std::optional<HttpError> error;
  if (head.expect_continue && !parser.done() && input_.empty()) {
    const bool written = co_await write("HTTP/1.1 100 Continue\r\n\r\n");
    if (!written) co_return false;
  }
  while (!error && !parser.done()) {
    const auto deadline =
        began + limits.body_timeout + std::chrono::seconds(received / limits.body_bytes_per_second);
    const Wait wait = co_await wait_for_input(seen, deadline);
    if (wait == Wait::kTimeout) error = HttpError{408, "the body of the request took too long", {}, {}};
    if (wait == Wait::kHungUp) error = HttpError{400, "the request ends in its body", {}, {}};
    if (wait != Wait::kInput) break;
    size_t taken = 0;
    error = parser.put_body(input_, taken);
    received += static_cast<int64_t>(taken);
    consume(taken);
    seen = input_.size();
  }
  if (error) {
    co_await refuse(request, std::move(*error));
    co_return false;
  }
  request.body = parser.take_body();
  co_return true;
}

}  // namespace kvasir
