// Ordinary exchanges over real sockets.
#include "net/http_server.h"

#include "net/server_fixture_test.h"

namespace kvasir {
namespace {

TEST(HttpServer, AnswersAndKeepsTheConnection) {
  TestServer server;
  TestClient client = server.client();
  for (int i = 0; i < 3; ++i) {
    const TestResponse response = client.ask(TestServer::get("/hello"));
    EXPECT_EQ(response.status, 200);
    EXPECT_EQ(response.body, "hello\n");
    EXPECT_EQ(response.header("Content-Type"), "text/plain");
    EXPECT_EQ(response.header("Connection"), "");
    EXPECT_EQ(response.header("Date").size(), 29u);
  }
  EXPECT_EQ(server.server->metrics().requests, 3);
  EXPECT_EQ(server.server->metrics().accepted, 1);
}

TEST(HttpServer, TellsTheHandlerWhatWasAsked) {
  TestServer server;
  EXPECT_EQ(server.ask("GET /who?7&x=%20 HTTP/1.1\r\nHost: localhost:1\r\nX-A:  b c \t\r\n\r\n").body,
            "GET|/who|7&x=%20|127.0.0.1|plain|Host=localhost:1|X-A=b c");
  EXPECT_EQ(server.ask("OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n").status, 200)
      << "for the application to judge";
  EXPECT_EQ(server.ask("GET http://LOCALHOST/who HTTP/1.1\r\nHost: localhost\r\n\r\n").body,
            "GET|/who||127.0.0.1|plain|Host=localhost");
  EXPECT_EQ(server.ask("GET http://localhost?5 HTTP/1.1\r\nHost: localhost\r\n\r\n").status, 200);
}

TEST(HttpServer, GivesEveryRequestAnIdOfItsOwn) {
  TestServer server;
  const std::string first = server.ask(TestServer::get("/hello")).header("X-Request-Id");
  const std::string second = server.ask(TestServer::get("/hello")).header("X-Request-Id");
  EXPECT_EQ(first.size(), 20u);
  EXPECT_NE(first, second);
  EXPECT_EQ(server.ask("GET /\r\n\r\n").header("X-Request-Id").size(), 20u) << "refusals too";
}

TEST(HttpServer, ReadsBodiesWithALengthAndInChunks) {
  TestServer server;
  TestClient client = server.client();
  EXPECT_EQ(client.ask("POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nabcde").body,
            "abcde");
  EXPECT_EQ(client
                .ask("POST /echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: Chunked\r\n\r\n"
                     "3;a=b\r\nabc\r\n0002\r\nde\r\n0\r\n\r\n")
                .body,
            "abcde");
  EXPECT_EQ(client.ask("POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n").body, "");
  EXPECT_EQ(client.ask("GET /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nok").body, "ok");
  std::string large(3 << 20, 'x');
  for (size_t i = 0; i < large.size(); ++i) large[i] = static_cast<char>('a' + i % 23);
  client.send("POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: " + std::to_string(large.size()) +
              "\r\n\r\n");
  client.send(large);
  EXPECT_TRUE(client.read_response().body == large);
  EXPECT_EQ(client.ask(TestServer::get("/hello")).status, 200);  // so the last request is wholly over
  EXPECT_EQ(server.server->metrics().body_bytes, 0) << "bodies give their memory back";
}

TEST(HttpServer, ReadsARequestThatComesByteByByte) {
  TestServer server;
  TestClient client = server.client();
  const std::string request =
      "POST /echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: "
      "chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
  for (char c : request) {
    ASSERT_TRUE(client.send({&c, 1}));
    std::this_thread::yield();
  }
  EXPECT_EQ(client.read_response().body, "abcde");
  EXPECT_EQ(client.ask(TestServer::get("/hello")).status, 200);
}

TEST(HttpServer, AnswersPipelinedRequestsInOrder) {
  TestServer server;
  TestClient client = server.client();
  std::string requests;
  for (int i = 0; i < 40; ++i) {
    requests += i % 2 ? TestServer::get("/who?" + std::to_string(i))
                      : "POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n" +
                            std::to_string(10 + i);
  }
  client.send(requests);
  for (int i = 0; i < 40; ++i) {
    const std::string body = client.read_response().body;
    if (i % 2) {
      EXPECT_EQ(body.find("GET|/who|" + std::to_string(i) + "|"), 0u) << body;
    } else {
      EXPECT_EQ(body, std::to_string(10 + i));
    }
  }
}

TEST(HttpServer, OverlooksOneEmptyLineBeforeARequest) {
  TestServer server;
  TestClient client = server.client();
  EXPECT_EQ(client.ask("\r\n" + TestServer::get("/hello")).status, 200);
  EXPECT_EQ(client.ask("\r\n\r\n" + TestServer::get("/hello")).status, 400);
}

TEST(HttpServer, AnswersHeadWithoutABody) {
  TestServer server;
  TestClient client = server.client();
  const TestResponse response = client.ask("HEAD /hello HTTP/1.1\r\nHost: localhost\r\n\r\n", true);
  EXPECT_EQ(response.header("Content-Length"), "6");
  const TestResponse streamed = client.ask("HEAD /stream?3 HTTP/1.1\r\nHost: localhost\r\n\r\n", true);
  EXPECT_EQ(streamed.header("Transfer-Encoding"), "chunked");
  EXPECT_EQ(client.ask(TestServer::get("/hello")).body, "hello\n")
      << "nothing of the others' bodies came in between";
}

TEST(HttpServer, Sends204WithoutALength) {
  TestServer server;
  TestClient client = server.client();
  const TestResponse response = client.ask(TestServer::get("/empty"));
  EXPECT_EQ(response.status, 204);
  EXPECT_EQ(response.header("Content-Length"), "");
  EXPECT_EQ(client.ask(TestServer::get("/hello")).status, 200);
}

TEST(HttpServer, ClosesWhenAskedTo) {
  TestServer server;
  TestClient client = server.client();
  const TestResponse response =
      client.ask("GET /hello HTTP/1.1\r\nHost: localhost\r\nConnection: foo, Close\r\n\r\n");
  EXPECT_EQ(response.header("Connection"), "close");
  EXPECT_TRUE(client.closed());
}

TEST(HttpServer, SpeaksHttp10) {
  TestServer server;
  TestClient once = server.client();
  const TestResponse response = once.ask("GET /hello HTTP/1.0\r\n\r\n");
  EXPECT_EQ(response.body, "hello\n");
  EXPECT_EQ(response.header("Connection"), "close");
  EXPECT_TRUE(once.closed());

  TestClient kept = server.client();
  const std::string request = "GET /hello HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
  EXPECT_EQ(kept.ask(request).header("Connection"), "keep-alive");
  EXPECT_EQ(kept.ask(request).status, 200);

  TestClient streamed = server.client();
  const TestResponse chunks = streamed.ask("GET /stream?2 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
  EXPECT_EQ(chunks.header("Transfer-Encoding"), "");
  EXPECT_EQ(chunks.header("Connection"), "close");
  EXPECT_EQ(chunks.body, "chunk 0\nchunk 1\n");
}

TEST(HttpServer, SaysContinueOnlyWhenItIsWaitedFor) {
  TestServer server;
  const std::string head =
      "POST /echo HTTP/1.1\r\nHost: localhost\r\nExpect: 100-Continue\r\nContent-Length: 2\r\n\r\n";
  TestClient waiting = server.client();
  waiting.send(head);
  ASSERT_TRUE(waiting.read_until("\r\n\r\n"));
  EXPECT_EQ(waiting.input(), "HTTP/1.1 100 Continue\r\n\r\n");
  waiting.send("ok");
  EXPECT_EQ(waiting.read_response().body, "ok");

  TestClient refused = server.client();
  const TestResponse response = refused.ask(
      "POST /echo HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 999999999\r\n\r\n");
  EXPECT_EQ(response.status, 413);
  EXPECT_EQ(response.head.find("HTTP/1.1 413"), 0u) << "the refusal comes instead of 100";
}

TEST(HttpServer, StreamsChunks) {
  TestServer server;
  TestClient client = server.client();
  const TestResponse response = client.ask(TestServer::get("/stream?100"));
  EXPECT_EQ(response.header("Transfer-Encoding"), "chunked");
  std::string expected;
  for (int i = 0; i < 100; ++i) expected += "chunk " + std::to_string(i) + "\n";
  EXPECT_EQ(response.body, expected);
  EXPECT_EQ(client.ask(TestServer::get("/sse")).body,
            "data: one\ndata: two\n\n: keep-alive\n\nevent: done\ndata: {}\n\n");
  EXPECT_EQ(client.ask(TestServer::get("/big?3000000")).body.size(), 3000000u);
}

TEST(HttpServer, SendsNoCorsHeaders) {
  TestServer server;
  for (const char* method : {"GET", "OPTIONS", "POST"}) {
    const TestResponse response =
        server.ask(std::string(method) +
                   " /hello HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil.example\r\n"
                   "Access-Control-Request-Method: POST\r\n\r\n");
    EXPECT_EQ(response.status, 200);
    EXPECT_EQ(response.head.find("Access-Control"), std::string::npos);
  }
}

TEST(HttpServer, AnswersForAHandlerThatFails) {
  HttpServerOptions options;
  std::mutex mutex;
  std::vector<HttpExchange> seen;
  Count reported;
  options.on_exchange = [&](const HttpExchange& exchange) {
    std::lock_guard lock(mutex);
    seen.push_back(exchange);
    reported.add();
  };
  TestServer server(std::move(options));
  EXPECT_EQ(server.ask(TestServer::get("/throw")).status, 500);
  EXPECT_EQ(server.ask(TestServer::get("/nothing")).status, 500);
  TestClient half = server.client();
  half.send(TestServer::get("/half"));
  const std::string bytes = half.read_all();
  EXPECT_NE(bytes.find("half"), std::string::npos);
  EXPECT_EQ(bytes.find("0\r\n\r\n"), std::string::npos) << "a client must see that the response is cut short";
  ASSERT_TRUE(reported.reaches(3));
  std::lock_guard lock(mutex);
  EXPECT_EQ(seen[0].failure, "thrown by the test");
  EXPECT_EQ(seen[1].failure, "the handler ended without a response");
  EXPECT_FALSE(seen[2].complete);
}

TEST(HttpServer, ReportsEveryExchange) {
  HttpServerOptions options;
  std::mutex mutex;
  std::vector<HttpExchange> seen;
  Count reported;
  options.on_exchange = [&](const HttpExchange& exchange) {
    std::lock_guard lock(mutex);
    seen.push_back(exchange);
    reported.add();
  };
  TestServer server(std::move(options));
  const TestResponse response =
      server.ask("POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc");
  server.ask("nonsense\r\n\r\n");
  ASSERT_TRUE(reported.reaches(2));
  std::lock_guard lock(mutex);
  EXPECT_EQ(seen[0].request_id, response.header("X-Request-Id"));
  EXPECT_EQ(seen[0].method + seen[0].path, "POST/echo");
  EXPECT_EQ(seen[0].status, 200);
  EXPECT_EQ(seen[0].body_bytes_in, 3);
  EXPECT_EQ(seen[0].bytes_out, static_cast<int64_t>(response.head.size() + response.body.size()));
  EXPECT_TRUE(seen[0].complete);
  EXPECT_EQ(seen[1].status, 400);
}

TEST(HttpServer, RefusesInTheFormThatTheApplicationWants) {
  HttpServerOptions options;
  options.error_response = [](const HttpError& error) {
    return HttpResponse{error.status,
                        {{"Content-Type", "application/json"}},
                        "{\"path\":\"" + error.path + "\",\"id\":\"" + error.request_id + "\"}"};
  };
  TestServer server(std::move(options));
  const TestResponse response = server.ask("POST /v1/messages HTTP/1.1\r\nHost: evil.example\r\n\r\n");
  EXPECT_EQ(response.status, 403);
  EXPECT_EQ(response.header("Content-Type"), "application/json");
  EXPECT_EQ(response.body, "{\"path\":\"/v1/messages\",\"id\":\"" + response.header("X-Request-Id") + "\"}");
}

TEST(HttpServer, SaysWhyItCannotListen) {
  TestServer server;
  HttpServerOptions options;
  options.port = server.port;
  const auto none = [](const HttpRequest&, ResponseWriter&) -> Task<> { co_return; };
  const auto taken = HttpServer::make(options, none);
  ASSERT_FALSE(taken);
  EXPECT_EQ(taken.error().code, ErrorCode::kIo);
  EXPECT_NE(taken.error().message.find("in use"), std::string::npos) << taken.error().message;
  options.port = 70000;
  EXPECT_FALSE(HttpServer::make(options, none));
  options.port = 0;
  options.threads = 0;
  EXPECT_FALSE(HttpServer::make(options, none));
}

TEST(HttpServer, WorksOnTwoThreadsAndIpv6) {
  HttpServerOptions options;
  options.threads = 2;
  TestServer server(std::move(options));
  std::vector<std::thread> clients;
  std::atomic<int> good{0};
  for (int i = 0; i < 8; ++i) {
    clients.emplace_back([&] {
      TestClient client = server.client();
      for (int k = 0; k < 50; ++k) good += client.ask(TestServer::get("/stream?5")).body.size() == 40;
    });
  }
  for (std::thread& t : clients) t.join();
  EXPECT_EQ(good, 400);

  HttpServerOptions v6;
  v6.host = "::";
  TestServer any(std::move(v6));
  EXPECT_EQ(any.ask("GET /who HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").body,
            "GET|/who||127.0.0.1|plain|Host=127.0.0.1");
  EXPECT_EQ(any.server->url(), "http://[::]:" + std::to_string(any.port));
}

}  // namespace
}  // namespace kvasir
