// Reading a head: request line, then field lines, then the rules between fields.
#include "net/request_head.h"

#include <fmt/format.h>

#include "net/host_rule.h"

namespace kvasir {
namespace {

constexpr size_t kRequestLineExtra = 64;  // a method, two blanks and the version, beside the target

HttpError bad(std::string message, int status = 400) { return HttpError{status, std::move(message), {}, {}}; }

bool is_control(char c) {
  const auto u = static_cast<unsigned char>(c);
  return (u < 0x20 && c != '\t') || u == 0x7f;
}

bool is_token_char(char c) {
  if ((c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')) return true;
  return c != '\0' && std::string_view("!#$%&'*+-.^_`|~").find(c) != std::string_view::npos;
}

bool is_token(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), is_token_char);
}

std::string_view trim(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

bool starts_with_ignoring_case(std::string_view text, std::string_view prefix) {
  return text.size() >= prefix.size() && same_ignoring_case(text.substr(0, prefix.size()), prefix);
}

std::optional<HttpError> read_version(std::string_view version, RequestHead& head) {
  const bool known_form = version.size() == 8 && version.substr(0, 5) == "HTTP/" && version[6] == '.' &&
                          version[5] >= '0' && version[5] <= '9' && version[7] >= '0' && version[7] <= '9';
  if (!known_form) return bad("the request line does not end with HTTP/1.1");
  if (version != "HTTP/1.1" && version != "HTTP/1.0") {
    return bad(fmt::format("{} is not spoken here; HTTP/1.1 is", version));
  }
  head.minor_version = version[7] - '0';
  head.keep_alive = head.minor_version == 1;
  return std::nullopt;
}

void split_path(std::string_view origin, RequestHead& head) {
  const size_t question = origin.find('?');
  head.path = origin.substr(0, question);
  head.query = question == std::string_view::npos ? std::string_view() : origin.substr(question + 1);
}

// origin-form, absolute-form, or the "*" of OPTIONS. `authority` is set for the absolute form.
std::optional<HttpError> read_target(RequestHead& head, std::string_view& authority) {
  std::string_view target = head.target;
  for (char c : target) {
    if (static_cast<unsigned char>(c) <= 0x20 || static_cast<unsigned char>(c) >= 0x7f || c == '#') {
      return bad("the request target has a character that must be percent-encoded");
    }
  }
  if (target.starts_with('/')) {
    split_path(target, head);
    return std::nullopt;
  }
  if (target == "*" && head.method == "OPTIONS") {
    head.path = target;
    return std::nullopt;
  }
  size_t scheme = 0;
  if (starts_with_ignoring_case(target, "http://")) scheme = 7;
  if (starts_with_ignoring_case(target, "https://")) scheme = 8;
  if (scheme == 0) return bad("the request target must begin with '/'");
  target.remove_prefix(scheme);
  const size_t end = std::min(target.find_first_of("/?"), target.size());
  authority = target.substr(0, end);
  if (authority.empty()) return bad("the request target has no host");
  if (end == target.size() || target[end] == '?') {
    head.path = "/";
    head.query = end == target.size() ? std::string_view() : target.substr(end + 1);
  } else {
    split_path(target.substr(end), head);
  }
  return std::nullopt;
}

std::optional<HttpError> read_request_line(std::string_view line, const HeadLimits& limits, RequestHead& head,
                                           std::string_view& authority) {
  const size_t first = line.find(' ');
  const size_t last = line.rfind(' ');
  if (first == std::string_view::npos || first == last) {
    return bad("the request line is not METHOD target HTTP/1.1");
  }
  head.method = line.substr(0, first);
  head.target = line.substr(first + 1, last - first - 1);
  if (!is_token(head.method)) return bad("the method is not a token");
  if (head.target.empty()) return bad("the request target is empty");
  if (auto error = read_version(line.substr(last + 1), head)) return error;
  if (head.target.size() > limits.target_bytes) {
    return bad(fmt::format("the request target has {} bytes; at most {} are read", head.target.size(),
                           limits.target_bytes),
               414);
  }
  return read_target(head, authority);
}

std::optional<HttpError> read_content_length(std::string_view value, RequestHead& head) {
  // Two equal ones could be folded into one, but no client we know sends them, and a proxy before us might
  // not.
  if (head.content_length) return bad("Content-Length is given more than once");
  if (value.empty() || value.find_first_not_of("0123456789") != std::string_view::npos) {
    return bad("Content-Length is not a number");
  }
  constexpr size_t kDigits = 18;  // fits in 63 bits
  if (value.size() > kDigits) return bad("Content-Length is too large to be true");
  uint64_t length = 0;
  for (char c : value) length = length * 10 + static_cast<uint64_t>(c - '0');
  head.content_length = length;
  return std::nullopt;
}

// Only "chunked" is known. A list that is well formed and ends with chunked names a coding that we have not;
// anything else has no length that two readers would agree on.
std::optional<HttpError> read_transfer_encoding(std::string_view value, RequestHead& head) {
  if (head.chunked) return bad("Transfer-Encoding is given more than once");
  if (same_ignoring_case(value, "chunked")) {
    head.chunked = true;
    return std::nullopt;
  }
  bool ends_with_chunked = false;
  int codings = 0;
  std::string_view rest = value;
  for (bool more = true; more; ++codings) {
    const size_t comma = rest.find(',');
    const std::string_view coding = trim(rest.substr(0, comma));
    more = comma != std::string_view::npos;
    if (more) rest.remove_prefix(comma + 1);
    if (!is_token(coding)) return bad("Transfer-Encoding is not a list of codings");
    if (ends_with_chunked) return bad("chunked is not the last transfer coding");
    ends_with_chunked = same_ignoring_case(coding, "chunked");
  }
  if (codings > 1 && !ends_with_chunked) return bad("chunked is not the last transfer coding");
  return bad("the only transfer coding known here is chunked");
}

void read_connection(std::string_view value, RequestHead& head) {
  while (!value.empty()) {
    const size_t comma = value.find(',');
    const std::string_view option = trim(value.substr(0, comma));
    value = comma == std::string_view::npos ? std::string_view() : value.substr(comma + 1);
    if (same_ignoring_case(option, "close")) {
      head.keep_alive = false;
      return;
    }
    if (same_ignoring_case(option, "keep-alive")) head.keep_alive = true;
  }
}

struct FieldLines {
  bool transfer_encoding = false;
};

std::optional<HttpError> read_field(std::string_view line, RequestHead& head, FieldLines& seen) {
  if (line.front() == ' ' || line.front() == '\t')
    return bad("a header line begins with a blank (folded lines are not read)");
  const size_t colon = line.find(':');
  if (colon == std::string_view::npos) return bad("a header line has no colon");
  const std::string_view name = line.substr(0, colon);
  if (!is_token(name)) return bad("a header name is not a token followed by a colon");
  const std::string_view value = trim(line.substr(colon + 1));
  if (std::any_of(value.begin(), value.end(), is_control))
    return bad("a header value has a control character");

  if (same_ignoring_case(name, "Host")) {
    if (head.host) return bad("Host is given more than once");
    if (!split_authority(value)) return bad("Host is not a name or address with an optional port");
    head.host = value;
  } else if (same_ignoring_case(name, "Content-Length")) {
    return read_content_length(value, head);
  } else if (same_ignoring_case(name, "Transfer-Encoding")) {
    if (seen.transfer_encoding) return bad("Transfer-Encoding is given more than once");
    seen.transfer_encoding = true;
    return read_transfer_encoding(value, head);
  } else if (same_ignoring_case(name, "Connection")) {
    read_connection(value, head);
  } else if (same_ignoring_case(name, "Expect")) {
    if (!same_ignoring_case(value, "100-continue"))
      return bad("the only expectation known here is 100-continue", 417);
    head.expect_continue = head.minor_version == 1;
  }
  return std::nullopt;
}

// Rules between fields.
std::optional<HttpError> check_fields(const RequestHead& head, std::string_view authority) {
  if (head.chunked && head.content_length) return bad("Content-Length and Transfer-Encoding are both given");
  if (head.chunked && head.minor_version == 0) return bad("HTTP/1.0 has no Transfer-Encoding");
  if (head.minor_version == 1 && !head.host) return bad("Host is missing");
  if (!authority.empty()) {
    if (!split_authority(authority)) return bad("the host in the request target is not a name or address");
    if (head.host && !same_ignoring_case(*head.host, authority))
      return bad("the host in the request target is not the one in Host");
  }
  const bool carries_body = head.method == "POST" || head.method == "PUT" || head.method == "PATCH";
  // Without a length an HTTP/1.0 body would end with the connection, which looks the same as a client that
  // fails.
  if (carries_body && head.minor_version == 0 && !head.content_length)
    return bad("Content-Length is missing", 411);
  return std::nullopt;
}

}  // namespace

std::optional<HttpError> HeadScanner::scan(std::string_view buffer) {
  for (; scanned_ < buffer.size() && head_bytes_ == 0; ++scanned_) {
    if (scanned_ >= limits_.header_bytes) {
      return bad(fmt::format("the head of the request has more than {} bytes", limits_.header_bytes), 431);
    }
    const char c = buffer[scanned_];
    const bool after_cr = scanned_ > 0 && buffer[scanned_ - 1] == '\r';
    if (after_cr != (c == '\n')) return bad("a line of the head does not end with CR LF");
    if (c == '\n') {
      if (scanned_ - line_begin_ == 1) {
        if (first_line_) return bad("the request line is empty");
        head_bytes_ = scanned_ + 1;
      }
      line_begin_ = scanned_ + 1;
      first_line_ = false;
    } else if (c != '\r' && is_control(c)) {
      return bad("the head of the request has a control character");
    } else if (first_line_ && scanned_ > limits_.target_bytes + kRequestLineExtra) {
      return bad(fmt::format("the request target has more than {} bytes", limits_.target_bytes), 414);
    }
  }
  return std::nullopt;
}

std::optional<HttpError> read_request_head(std::string_view bytes, const HeadLimits& limits,
                                           RequestHead& head) {
  std::string_view authority;
  FieldLines seen;
  bool first = true;
  while (!bytes.empty()) {
    const size_t end = bytes.find("\r\n");
    if (end == std::string_view::npos) return bad("a line of the head does not end with CR LF");
    const std::string_view line = bytes.substr(0, end);
    bytes.remove_prefix(end + 2);
    if (first) {
      if (auto error = read_request_line(line, limits, head, authority)) return error;
      first = false;
      continue;
    }
    if (line.empty()) break;
    if (++head.header_count > limits.header_count) {
      return bad(fmt::format("the request has more than {} headers", limits.header_count), 431);
    }
    if (auto error = read_field(line, head, seen)) return error;
  }
  if (first) return bad("the request is empty");
  return check_fields(head, authority);
}

}  // namespace kvasir
