// What goes in and out of an HTTP exchange, as plain values: headers, request, response, refusal.
//
// No sockets and no library types, so that a test of a handler can make them by hand.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace kvasir {

inline char ascii_lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

inline bool same_ignoring_case(std::string_view a, std::string_view b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](char x, char y) { return ascii_lower(x) == ascii_lower(y); });
}

struct HttpHeader {
  std::string name;
  std::string value;
};

struct HttpRequest {
  std::string id;                   // made by the server, also sent to the client as X-Request-Id
  std::string method;               // as sent: methods are case-sensitive
  std::string path;                 // from the first '/' up to '?', not percent-decoded
  std::string query;                // after '?', not decoded
  std::vector<HttpHeader> headers;  // in order, as sent, without surrounding blanks
  std::string body;                 // without transfer coding
  std::string client_address;       // numeric, no port
  bool tls = false;

  // The first value of that name, in any case; null if there is none.
  const std::string* header(std::string_view name) const {
    for (const HttpHeader& h : headers) {
      if (same_ignoring_case(h.name, name)) return &h.value;
    }
    return nullptr;
  }
};

// The server adds Content-Length or Transfer-Encoding, Connection, Date and X-Request-Id; to set the first
// four is a bug. A header whose value has a line end or a NUL is left out: a value may repeat what a client
// sent.
struct HttpResponse {
  int status = 200;
  std::vector<HttpHeader> headers;
  std::string body;
};

// A request that the server refuses by itself, before any handler sees it.
struct HttpError {
  int status = 400;
  std::string message;  // for the client: what was seen and what was expected
  std::string request_id;
  std::string path;  // empty when the request line was not understood
};

// The standard phrase, or "Unknown".
std::string_view reason_phrase(int status);

}  // namespace kvasir
