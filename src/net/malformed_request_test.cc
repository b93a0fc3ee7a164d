// Bytes that are not a request are refused with the right status, and the connection ends there: whatever
// follows must never be taken for a second request.
#include <fmt/format.h>

#include <random>

#include "net/malformed_cases_test.h"
#include "net/server_fixture_test.h"

namespace kvasir {
namespace {

std::string post(std::string_view headers, std::string_view body = "") {
  return malformed_post(headers, body);
}

std::string chunked(std::string_view body) { return malformed_chunked(body); }

void expect_refused(TestServer& server, const MalformedCase& c) {
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

  void expect_all_refused(const std::vector<MalformedCase>& cases) {
    for (const MalformedCase& c : cases) expect_refused(server, c);
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
    for (const MalformedCase& c : cases) {
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
    const std::string bytes = damaged(seeds[random() % seeds.size()], random, kBytes);
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
