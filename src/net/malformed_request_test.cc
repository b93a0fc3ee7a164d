// Bytes that are not a request are refused with the right status, and the connection ends there: whatever
// follows must never be taken for a second request.
#include <fmt/format.h>

#include <random>

#include "net/server_fixture_test.h"

namespace kvasir {
namespace {

struct Case {
  int status;
  const char* what;
  std::string bytes;
};

std::string post(std::string_view headers, std::string_view body = "") {
  return "POST /echo HTTP/1.1\r\nHost: localhost\r\n" + std::string(headers) + "\r\n" + std::string(body);
}

std::string chunked(std::string_view body) { return post("Transfer-Encoding: chunked\r\n", body); }

std::vector<Case> smuggling_cases() {
  return {
      {400, "both lengths", post("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n")},
      {400, "both lengths, other order",
       post("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n")},
      {400, "differing lengths", post("Content-Length: 5\r\nContent-Length: 6\r\n", "abcdef")},
      {400, "equal lengths", post("Content-Length: 2\r\ncontent-length: 2\r\n", "ab")},
      {400, "list of lengths", post("Content-Length: 2, 2\r\n", "ab")},
      {400, "negative length", post("Content-Length: -1\r\n")},
      {400, "signed length", post("Content-Length: +2\r\n", "ab")},
      {400, "hexadecimal length", post("Content-Length: 0x2\r\n", "ab")},
      {400, "length with a blank inside", post("Content-Length: 1 2\r\n", "ab")},
      {400, "empty length", post("Content-Length:\r\n", "ab")},
      {400, "overflowing length", post("Content-Length: 18446744073709551618\r\n", "ab")},
      {400, "length with leading zeros beyond 18 digits",
       post("Content-Length: 00000000000000000002\r\n", "ab")},
      {400, "folded header", post("Transfer-Encoding:\r\n chunked\r\n", "0\r\n\r\n")},
      {400, "folded by a tab", post("X-A: b\r\n\tc\r\n")},
      {400, "first header begins with a blank", "GET / HTTP/1.1\r\n Host: localhost\r\n\r\n"},
      {400, "blank before the colon", post("Content-Length : 2\r\n", "ab")},
      {400, "tab before the colon", post("Transfer-Encoding\t: chunked\r\n", "0\r\n\r\n")},
      {400, "no colon", post("Content-Length\r\n")},
      {400, "empty name", post(": x\r\n")},
      {400, "name that is no token", post("Content Length: 2\r\n", "ab")},
      {400, "name in brackets", post("[X]: 2\r\n")},
      {400, "bare LF ends the request line", "GET / HTTP/1.1\nHost: localhost\r\n\r\n"},
      {400, "bare LF ends a header", "GET / HTTP/1.1\r\nHost: localhost\n\r\n"},
      {400, "bare LF everywhere", "GET / HTTP/1.1\nHost: localhost\n\n"},
      {400, "bare LF in the middle of the end", "GET / HTTP/1.1\r\nHost: localhost\r\n\n"},
      {400, "bare CR in a value", post("X-A: b\rContent-Length: 2\r\n", "ab")},
      {400, "NUL in a value", post(std::string("X-A: b\0c\r\n", 10))},
      {400, "NUL in the target", std::string("GET /a\0b HTTP/1.1\r\nHost: localhost\r\n\r\n", 39)},
      {400, "DEL in a value", post("X-A: \x7f\r\n")},
      {400, "escape in a value", post("X-A: \x1b[2J\r\n")},
      {501, "gzip", post("Transfer-Encoding: gzip\r\n")},
      {501, "identity", post("Transfer-Encoding: identity\r\n")},
      {501, "misspelt chunked", post("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n")},
      {501, "gzip, chunked", post("Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n")},
      {400, "chunked twice", post("Transfer-Encoding: chunked, chunked\r\n", "0\r\n\r\n")},
      {400, "chunked in two headers",
       post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n")},
      {400, "identity in the second header",
       post("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", "0\r\n\r\n")},
      {400, "chunked not last", post("Transfer-Encoding: chunked, gzip\r\n", "0\r\n\r\n")},
      {400, "empty list element", post("Transfer-Encoding: ,chunked\r\n", "0\r\n\r\n")},
      {400, "final comma", post("Transfer-Encoding: chunked,\r\n", "0\r\n\r\n")},
      {400, "quoted coding", post("Transfer-Encoding: \"chunked\"\r\n", "0\r\n\r\n")},
      {400, "coding with a parameter", post("Transfer-Encoding: chunked;q=1\r\n", "0\r\n\r\n")},
      {400, "empty coding", post("Transfer-Encoding:\r\n", "0\r\n\r\n")},
      {400, "vertical tab before the coding",
       post("Transfer-Encoding: \x0b"
            "chunked\r\n",
            "0\r\n\r\n")},
      {400, "chunked in HTTP/1.0", "POST /echo HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"},
  };
}

std::vector<Case> chunk_cases() {
  return {
      {400, "negative chunk", chunked("-1\r\n\r\n")},
      {400, "signed chunk", chunked("+1\r\na\r\n0\r\n\r\n")},
      {400, "chunk with 0x", chunked("0x1\r\na\r\n0\r\n\r\n")},
      {400, "chunk that is no number", chunked("g\r\na\r\n0\r\n\r\n")},
      {400, "empty chunk size", chunked("\r\na\r\n0\r\n\r\n")},
      {400, "blank before the size", chunked(" 1\r\na\r\n0\r\n\r\n")},
      {400, "overflowing chunk", chunked("10000000000000001\r\na\r\n0\r\n\r\n")},
      {413, "huge chunk", chunked("ffffffffffffffff\r\na\r\n0\r\n\r\n")},
      {400, "chunk longer than its size", chunked("1\r\nabc\r\n0\r\n\r\n")},
      {400, "bare LF after the size", chunked("1\na\r\n0\r\n\r\n")},
      {400, "bare LF after the data", chunked("1\r\na\n0\r\n\r\n")},
      {400, "bare CR after the size", chunked("1\ra\r\n0\r\n\r\n")},
      {400, "huge extension", chunked("1;" + std::string(5000, 'x') + "\r\na\r\n0\r\n\r\n")},
      {400, "endless extension", chunked("1;" + std::string(20000, 'x'))},
      {400, "endless last extension", chunked("0;" + std::string(20000, 'x'))},
      {400, "bad extension", chunked("1;=\r\na\r\n0\r\n\r\n")},
      {400, "LF in an extension", chunked("1;a\nb\r\na\r\n0\r\n\r\n")},
      {400, "NUL in an extension", chunked(std::string("1;a\0\r\na\r\n0\r\n\r\n", 15))},
      {400, "trailer", chunked("0\r\nContent-Length: 5\r\n\r\n")},
      {400, "trailer that is no header", chunked("0\r\nGET / HTTP/1.1\r\n\r\n")},
      {400, "folded trailer", chunked("0\r\n a: b\r\n\r\n")},
      {400, "folded second line of a trailer", chunked("0\r\na: b\r\n \r\n\r\n")},
  };
}

std::vector<Case> head_cases() {
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
      {505, "HTTP/1.2", "GET / HTTP/1.2\r\nHost: localhost\r\n\r\n"},
      {505, "HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"},
      {400, "TLS to a plain port", std::string("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 11)},
      {400, "two empty lines", "\r\n\r\n"},
      {411, "no length in HTTP/1.0", "POST /echo HTTP/1.0\r\n\r\n"},
      {413, "body over the limit", post("Content-Length: 2147483648\r\n")},
      {414, "target over the limit",
       "GET /" + std::string(9000, 'a') + " HTTP/1.1\r\nHost: localhost\r\n\r\n"},
      {414, "endless target", "GET /" + std::string(20000, 'a')},
      {417, "unknown expectation", post("Expect: 200-ok\r\nContent-Length: 2\r\n")},
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

void expect_refused(TestServer& server, const Case& c) {
  TestClient client = server.client();
  // The second request would be answered if the first one were misread.
  client.send(c.bytes + TestServer::get("/hello"));
  const std::string bytes = client.read_all();
  EXPECT_EQ(bytes.substr(0, 12), fmt::format("HTTP/1.1 {}", c.status)) << c.what << ": " << bytes;
  EXPECT_NE(bytes.find("Connection: close\r\n"), std::string::npos) << c.what;
  EXPECT_EQ(bytes.find("HTTP/1.1", 9), std::string::npos) << c.what << ": a second response: " << bytes;
}

class MalformedRequest : public testing::Test {
 protected:
  // Without an error body that the test would have to tell from a response.
  static HttpServerOptions quiet() {
    HttpServerOptions options;
    options.error_response = [](const HttpError& error) { return HttpResponse{error.status, {}, "no\n"}; };
    return options;
  }
  TestServer server{quiet()};

  void expect_all_refused(const std::vector<Case>& cases) {
    for (const Case& c : cases) expect_refused(server, c);
    EXPECT_EQ(server.handled.value(), 0) << "no handler saw any of them";
    EXPECT_EQ(server.server->metrics().refused_requests, static_cast<int64_t>(cases.size()));
    EXPECT_EQ(server.ask(TestServer::get("/hello")).status, 200) << "the server goes on";
  }
};

TEST_F(MalformedRequest, NoTwoReadersCanDisagreeOnWhereARequestEnds) {
  expect_all_refused(smuggling_cases());
}
TEST_F(MalformedRequest, BadChunksAreRefused) { expect_all_refused(chunk_cases()); }
TEST_F(MalformedRequest, BadHeadsAreRefused) { expect_all_refused(head_cases()); }

TEST_F(MalformedRequest, IsRefusedTheSameByteByByte) {
  for (const auto& cases : {smuggling_cases(), chunk_cases(), head_cases()}) {
    for (const Case& c : cases) {
      if (c.bytes.size() > 300) continue;
      TestClient client = server.client();
      const int on = 1;
      setsockopt(client.fd(), IPPROTO_TCP, 1 /* TCP_NODELAY */, &on, sizeof(on));
      for (const char& byte : c.bytes) {
        if (!client.send({&byte, 1})) break;
      }
      client.close_writing();
      EXPECT_EQ(client.read_response().status, c.status) << c.what;
    }
  }
  EXPECT_EQ(server.handled.value(), 0);
}

TEST_F(MalformedRequest, ABodyOverTheLimitIsRefusedBeforeItIsSent) {
  TestClient client = server.client();
  const TestResponse response = client.ask(post("Content-Length: 2147483648\r\n"));
  EXPECT_EQ(response.status, 413);
  EXPECT_EQ(response.header("Connection"), "close");
}

TEST_F(MalformedRequest, ARequestThatEndsEarlyIsRefused) {
  for (const std::string& bytes : {std::string("GET / HTT"), post("Content-Length: 5\r\n", "abc"),
                                   chunked("3\r\nab"), chunked("3\r\nabc\r\n0\r\n")}) {
    TestClient client = server.client();
    client.send(bytes);
    client.close_writing();
    EXPECT_EQ(client.read_response().status, 400) << bytes;
    EXPECT_TRUE(client.closed());
  }
}

// Mutated good requests: anything may come back but a crash, a hang, or a response that is no response.
TEST_F(MalformedRequest, RandomDamageNeverGetsMoreThanAnAnswer) {
  std::mt19937 random(12345);
  const std::vector<std::string> seeds = {TestServer::get("/hello"), post("Content-Length: 5\r\n", "abcde"),
                                          chunked("3;a=b\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"),
                                          post("Expect: 100-continue\r\nContent-Length: 2\r\n", "ab")};
  static constexpr std::string_view kBytes("\r\n\0 :;,\t/ahx09\xff\x7f", 16);
  for (int i = 0; i < 2000; ++i) {
    std::string bytes(seeds[random() % seeds.size()]);
    for (int damage = static_cast<int>(random() % 4); damage >= 0; --damage) {
      const size_t at = random() % bytes.size();
      const char c = kBytes[random() % kBytes.size()];
      switch (random() % 4) {
        case 0:
          bytes[at] = c;
          break;
        case 1:
          bytes.insert(at, 1 + random() % 3, c);
          break;
        case 2:
          bytes.erase(at, 1 + random() % 3);
          break;
        default:
          bytes += bytes.substr(random() % bytes.size(), random() % 20);
          break;
      }
      if (bytes.empty()) bytes.push_back(c);
    }
    TestClient client = server.client();
    client.send(bytes);
    client.close_writing();
    const std::string answer = client.read_all();
    if (!answer.empty()) {
      EXPECT_EQ(answer.substr(0, 9), "HTTP/1.1 ") << answer;
    }
  }
  EXPECT_EQ(server.ask(TestServer::get("/hello")).status, 200);
}

}  // namespace
}  // namespace kvasir
