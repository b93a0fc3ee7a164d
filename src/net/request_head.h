// The rules of a request's head that Beast does not keep, on raw bytes before Beast sees them.
//
// Beast accepts a missing Host, folded lines and odd Transfer-Encoding lists, any of which lets two programs
// read one stream of bytes as different requests. Everything here refuses rather than repairs. Pure; fuzzed.
// Source: RFC 9112 sections 2.2, 3, 5, 6; RFC 9110 section 7.2.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "net/http_message.h"

namespace kvasir {

struct HeadLimits {
  size_t target_bytes = 8 * 1024;
  size_t header_bytes = 32 * 1024;  // the whole head, request line included
  size_t header_count = 100;
};

// Finds the end of a head in a growing buffer, looking at each byte once, and refuses at the first byte that
// cannot be in one: a client that ends its lines by a bare LF must not be left waiting for the CRLF that
// never comes.
class HeadScanner {
 public:
  explicit HeadScanner(const HeadLimits& limits) : limits_(limits) {}

  // `buffer` starts with the same bytes as at the last call. An error is final.
  std::optional<HttpError> scan(std::string_view buffer);

  // Bytes of the head with its empty line; 0 while it is incomplete.
  size_t head_bytes() const { return head_bytes_; }

 private:
  HeadLimits limits_;
  size_t scanned_ = 0;
  size_t line_begin_ = 0;
  bool first_line_ = true;
  size_t head_bytes_ = 0;
};

// What the server must know of a head; views into its bytes.
struct RequestHead {
  std::string_view method;
  std::string_view target;  // as sent
  std::string_view path;    // origin-form part, also of an absolute target
  std::string_view query;
  int minor_version = 1;  // of HTTP/1.x
  std::optional<std::string_view> host;
  std::optional<uint64_t> content_length;
  bool chunked = false;
  bool expect_continue = false;
  bool keep_alive = true;
  size_t header_count = 0;
};

// Reads the complete head that HeadScanner found. On an error `head` holds what was understood so far.
std::optional<HttpError> read_request_head(std::string_view bytes, const HeadLimits& limits,
                                           RequestHead& head);

}  // namespace kvasir
