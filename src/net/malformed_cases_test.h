// Requests that must be refused, and with what status: of this room's tests and of the server's
// (tests/serve_faults).
#pragma once

#include <random>
#include <string>
#include <string_view>
#include <vector>

namespace kvasir {

struct MalformedCase {
  int status;
  const char* what;
  std::string bytes;
};

inline std::string malformed_post(std::string_view headers, std::string_view body = "") {
  return "POST /echo HTTP/1.1\r\nHost: localhost\r\n" + std::string(headers) + "\r\n" + std::string(body);
}

inline std::string malformed_chunked(std::string_view body) {
  return malformed_post("Transfer-Encoding: chunked\r\n", body);
}

inline std::vector<MalformedCase> smuggling_cases() {
  return {
      {400, "both lengths",
       malformed_post("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n")},
      {400, "both lengths, other order",
       malformed_post("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n")},
      {400, "differing lengths", malformed_post("Content-Length: 5\r\nContent-Length: 6\r\n", "abcdef")},
      {400, "equal lengths", malformed_post("Content-Length: 2\r\ncontent-length: 2\r\n", "ab")},
      {400, "list of lengths", malformed_post("Content-Length: 2, 2\r\n", "ab")},
      {400, "negative length", malformed_post("Content-Length: -1\r\n")},
      {400, "signed length", malformed_post("Content-Length: +2\r\n", "ab")},
      {400, "hexadecimal length", malformed_post("Content-Length: 0x2\r\n", "ab")},
      {400, "length with a blank inside", malformed_post("Content-Length: 1 2\r\n", "ab")},
      {400, "empty length", malformed_post("Content-Length:\r\n", "ab")},
      {400, "overflowing length", malformed_post("Content-Length: 18446744073709551618\r\n", "ab")},
      {400, "length with leading zeros beyond 18 digits",
       malformed_post("Content-Length: 00000000000000000002\r\n", "ab")},
      {400, "folded header", malformed_post("Transfer-Encoding:\r\n chunked\r\n", "0\r\n\r\n")},
      {400, "folded by a tab", malformed_post("X-A: b\r\n\tc\r\n")},
      {400, "first header begins with a blank", "GET / HTTP/1.1\r\n Host: localhost\r\n\r\n"},
      {400, "blank before the colon", malformed_post("Content-Length : 2\r\n", "ab")},
      {400, "tab before the colon", malformed_post("Transfer-Encoding\t: chunked\r\n", "0\r\n\r\n")},
      {400, "no colon", malformed_post("Content-Length\r\n")},
      {400, "empty name", malformed_post(": x\r\n")},
      {400, "name that is no token", malformed_post("Content Length: 2\r\n", "ab")},
      {400, "name in brackets", malformed_post("[X]: 2\r\n")},
      {400, "bare LF ends the request line", "GET / HTTP/1.1\nHost: localhost\r\n\r\n"},
      {400, "bare LF ends a header", "GET / HTTP/1.1\r\nHost: localhost\n\r\n"},
      {400, "bare LF everywhere", "GET / HTTP/1.1\nHost: localhost\n\n"},
      {400, "bare LF in the middle of the end", "GET / HTTP/1.1\r\nHost: localhost\r\n\n"},
      {400, "bare CR in a value", malformed_post("X-A: b\rContent-Length: 2\r\n", "ab")},
      {400, "NUL in a value", malformed_post(std::string("X-A: b\0c\r\n", 10))},
      {400, "NUL in the target", std::string("GET /a\0b HTTP/1.1\r\nHost: localhost\r\n\r\n", 39)},
      {400, "DEL in a value", malformed_post("X-A: \x7f\r\n")},
      {400, "escape in a value", malformed_post("X-A: \x1b[2J\r\n")},
      {400, "gzip", malformed_post("Transfer-Encoding: gzip\r\n")},
      {400, "identity", malformed_post("Transfer-Encoding: identity\r\n")},
      {400, "misspelt chunked", malformed_post("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n")},
      {400, "gzip, chunked", malformed_post("Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n")},
      {400, "chunked twice", malformed_post("Transfer-Encoding: chunked, chunked\r\n", "0\r\n\r\n")},
      {400, "chunked in two headers",
       malformed_post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n")},
      {400, "identity in the second header",
       malformed_post("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", "0\r\n\r\n")},
      {400, "chunked not last", malformed_post("Transfer-Encoding: chunked, gzip\r\n", "0\r\n\r\n")},
      {400, "empty list element", malformed_post("Transfer-Encoding: ,chunked\r\n", "0\r\n\r\n")},
      {400, "final comma", malformed_post("Transfer-Encoding: chunked,\r\n", "0\r\n\r\n")},
      {400, "quoted coding", malformed_post("Transfer-Encoding: \"chunked\"\r\n", "0\r\n\r\n")},
      {400, "coding with a parameter", malformed_post("Transfer-Encoding: chunked;q=1\r\n", "0\r\n\r\n")},
      {400, "empty coding", malformed_post("Transfer-Encoding:\r\n", "0\r\n\r\n")},
      {400, "vertical tab before the coding",
       malformed_post("Transfer-Encoding: \x0b"
                      "chunked\r\n",
                      "0\r\n\r\n")},
      {400, "chunked in HTTP/1.0", "POST /echo HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"},
  };
}

inline std::vector<MalformedCase> chunk_cases() {
  return {
      {400, "negative chunk", malformed_chunked("-1\r\n\r\n")},
      {400, "signed chunk", malformed_chunked("+1\r\na\r\n0\r\n\r\n")},
      {400, "chunk with 0x", malformed_chunked("0x1\r\na\r\n0\r\n\r\n")},
      {400, "chunk that is no number", malformed_chunked("g\r\na\r\n0\r\n\r\n")},
      {400, "empty chunk size", malformed_chunked("\r\na\r\n0\r\n\r\n")},
      {400, "blank before the size", malformed_chunked(" 1\r\na\r\n0\r\n\r\n")},
      {400, "overflowing chunk", malformed_chunked("10000000000000001\r\na\r\n0\r\n\r\n")},
      {413, "huge chunk", malformed_chunked("ffffffffffffffff\r\na\r\n0\r\n\r\n")},
      {400, "chunk longer than its size", malformed_chunked("1\r\nabc\r\n0\r\n\r\n")},
      {400, "bare LF after the size", malformed_chunked("1\na\r\n0\r\n\r\n")},
      {400, "bare LF after the data", malformed_chunked("1\r\na\n0\r\n\r\n")},
      {400, "bare CR after the size", malformed_chunked("1\ra\r\n0\r\n\r\n")},
      {400, "huge extension", malformed_chunked("1;" + std::string(5000, 'x') + "\r\na\r\n0\r\n\r\n")},
      {400, "endless extension", malformed_chunked("1;" + std::string(20000, 'x'))},
      {400, "endless last extension", malformed_chunked("0;" + std::string(20000, 'x'))},
      {400, "bad extension", malformed_chunked("1;=\r\na\r\n0\r\n\r\n")},
      {400, "LF in an extension", malformed_chunked("1;a\nb\r\na\r\n0\r\n\r\n")},
      {400, "NUL in an extension", malformed_chunked(std::string("1;a\0\r\na\r\n0\r\n\r\n", 15))},
      {400, "trailer", malformed_chunked("0\r\nContent-Length: 5\r\n\r\n")},
      {400, "trailer that is no header", malformed_chunked("0\r\nGET / HTTP/1.1\r\n\r\n")},
      {400, "folded trailer", malformed_chunked("0\r\n a: b\r\n\r\n")},
      {400, "folded second line of a trailer", malformed_chunked("0\r\na: b\r\n \r\n\r\n")},
  };
}

inline std::vector<MalformedCase> head_cases() {
  return {
      {400, "no Host", "GET / HTTP/1.1\r\n\r\n"},
      {400, "two Hosts", "GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n"},
      {400, "empty Host", "GET / HTTP/1.1\r\nHost:\r\n\r\n"},
      {400, "Host with a path", "GET / HTTP/1.1\r\nHost: localhost/x\r\n\r\n"},
      {400, "Host with a user", "GET / HTTP/1.1\r\nHost: a@localhost\r\n\r\n"},
      {400, "Host list", "GET / HTTP/1.1\r\nHost: localhost, evil.example\r\n\r\n"},
      {400, "Host with a bad port", "GET / HTTP/1.1\r\nHost: localhost:80a\r\n\r\n"},
      {400, "Host with an open bracket", "GET / HTTP/1.1\r\nHost: [::1\r\n\r\n"},
      {403, "foreign Host", "GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n"},
      {403, "Host that begins well", "GET / HTTP/1.1\r\nHost: localhost.evil.example\r\n\r\n"},
      {403, "foreign Host in 1.0", "GET / HTTP/1.0\r\nHost: evil.example\r\n\r\n"},
      {403, "foreign address", "GET / HTTP/1.1\r\nHost: 192.0.2.1\r\n\r\n"},
      {400, "absolute target, other Host", "GET http://evil.example/ HTTP/1.1\r\nHost: localhost\r\n\r\n"},
      {403, "absolute target, foreign Host",
       "GET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n"},
      {400, "absolute target, no Host", "GET http://localhost/ HTTP/1.1\r\n\r\n"},
      {400, "absolute target, another port", "GET http://localhost:1/ HTTP/1.1\r\nHost: localhost:2\r\n\r\n"},
      {400, "absolute target with a user", "GET http://a@localhost/ HTTP/1.1\r\nHost: a@localhost\r\n\r\n"},
      {400, "absolute target without a host", "GET http:/// HTTP/1.1\r\nHost: localhost\r\n\r\n"},
      {400, "other scheme", "GET ftp://localhost/ HTTP/1.1\r\nHost: localhost\r\n\r\n"},
      {400, "CONNECT", "CONNECT localhost:443 HTTP/1.1\r\nHost: localhost\r\n\r\n"},
      {400, "star for GET", "GET * HTTP/1.1\r\nHost: localhost\r\n\r\n"},
      {400, "target without a slash", "GET index.html HTTP/1.1\r\nHost: localhost\r\n\r\n"},
      {400, "target with a fragment", "GET /#a HTTP/1.1\r\nHost: localhost\r\n\r\n"},
      {400, "target with a blank", "GET /a b HTTP/1.1\r\nHost: localhost\r\n\r\n"},
      {400, "target with a tab", "GET /a\tb HTTP/1.1\r\nHost: localhost\r\n\r\n"},
      {400, "target with a byte above 127", "GET /\xc3\xa4 HTTP/1.1\r\nHost: localhost\r\n\r\n"},
      {400, "no target", "GET  HTTP/1.1\r\nHost: localhost\r\n\r\n"},
      {400, "two blanks", "GET  / HTTP/1.1\r\nHost: localhost\r\n\r\n"},
      {400, "blank at the end", "GET / HTTP/1.1 \r\nHost: localhost\r\n\r\n"},
      {400, "leading blank", " GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"},
      {400, "method with a colon", "GE:T / HTTP/1.1\r\nHost: localhost\r\n\r\n"},
      {400, "HTTP/0.9", "GET /\r\n\r\n"},
      {400, "small http", "GET / http/1.1\r\nHost: localhost\r\n\r\n"},
      {400, "version with more digits", "GET / HTTP/1.10\r\nHost: localhost\r\n\r\n"},
      {400, "HTTP/1.2", "GET / HTTP/1.2\r\nHost: localhost\r\n\r\n"},
      {400, "HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"},
      {400, "TLS to a plain port", std::string("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 11)},
      {400, "two empty lines", "\r\n\r\n"},
      {411, "no length in HTTP/1.0", "POST /echo HTTP/1.0\r\n\r\n"},
      {413, "body over the limit", malformed_post("Content-Length: 2147483648\r\n")},
      {414, "target over the limit",
       "GET /" + std::string(9000, 'a') + " HTTP/1.1\r\nHost: localhost\r\n\r\n"},
      {414, "endless target", "GET /" + std::string(20000, 'a')},
      {417, "unknown expectation", malformed_post("Expect: 200-ok\r\nContent-Length: 2\r\n")},
      {431, "header over the limit",
       "GET / HTTP/1.1\r\nHost: localhost\r\nX: " + std::string(40000, 'a') + "\r\n\r\n"},
      {431, "endless header", "GET / HTTP/1.1\r\nHost: localhost\r\nX: " + std::string(40000, 'a')},
      {431, "too many headers",
       [] {
         std::string request = "GET / HTTP/1.1\r\nHost: localhost\r\n";
         for (int i = 0; i < 200; ++i) request += "X: y\r\n";
         return request + "\r\n";
       }()},
  };
}

// One to eight pieces of damage; what is put in is mostly of `alphabet`.
inline std::string damaged(std::string bytes, std::mt19937& random, std::string_view alphabet) {
  for (int count = 1 + static_cast<int>(random() % 8); count > 0; --count) {
    if (bytes.empty()) bytes.push_back('x');
    size_t at = random() % bytes.size();
    char c = random() % 4 == 0 ? static_cast<char>(random()) : alphabet[random() % alphabet.size()];
    switch (random() % 6) {
      case 0:
        bytes[at] = c;
        break;
      case 1:
        bytes.insert(at, 1 + random() % 3, c);
        break;
      case 2:
        bytes.erase(at, 1 + random() % 8);
        break;
      case 3:
        bytes.insert(at, bytes.substr(random() % bytes.size(), random() % 40));
        break;
      case 4:
        if (random() % 4 == 0) bytes.resize(at);
        break;
      default:
        bytes[at] = static_cast<char>(bytes[at] ^ (1 << random() % 8));
        break;
    }
  }
  return bytes;
}

}  // namespace kvasir
