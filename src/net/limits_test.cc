// What is too slow, too much or too many ends, and takes nothing else with it.
#include <linux/filter.h>

#include "net/server_fixture_test.h"

namespace kvasir {
namespace {

double seconds_since(steady_clock::time_point begin) {
  return std::chrono::duration<double>(steady_clock::now() - begin).count();
}

TEST(Limits, ASlowHeadGets408HoweverItIsDripped) {
  HttpServerOptions options;
  options.limits.header_timeout = 200ms;
  TestServer server(std::move(options));
  TestClient client = server.client();
  const auto begin = steady_clock::now();
  client.send("GET /hello HTTP/1.1\r\nHost: localhost\r\n");
  std::thread drip([&] {
    for (int i = 0; i < 60 && client.send("X-A: b\r\n"); ++i) std::this_thread::sleep_for(10ms);
  });
  EXPECT_EQ(client.read_response().status, 408);
  EXPECT_LT(seconds_since(begin), 5);
  drip.join();
}

TEST(Limits, ASilentClientIsClosedWithoutAWord) {
  HttpServerOptions options;
  options.limits.header_timeout = 50ms;
  options.limits.idle_timeout = 60ms;
  TestServer server(std::move(options));
  TestClient silent = server.client();
  EXPECT_EQ(silent.read_all(), "");
  TestClient idle = server.client();
  EXPECT_EQ(idle.ask(TestServer::get("/hello")).status, 200);
  EXPECT_EQ(idle.read_all(), "");
}

TEST(Limits, ASlowBodyGets408) {
  HttpServerOptions options;
  options.limits.body_timeout = 100ms;
  options.limits.body_bytes_per_second = 1000;
  TestServer server(std::move(options));
  TestClient stalled = server.client();
  EXPECT_EQ(stalled.ask("POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nab").status, 408);
  TestClient dripped = server.client();
  dripped.send("POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000\r\n\r\n");
  std::thread drip([&] {
    for (int i = 0; i < 60 && dripped.send("x"); ++i) std::this_thread::sleep_for(10ms);
  });
  EXPECT_EQ(dripped.read_response().status, 408);
  drip.join();
}

TEST(Limits, ABodyThatComesFastEnoughMayTakeLongerThanTheTimeout) {
  HttpServerOptions options;
  options.limits.body_timeout = 200ms;
  options.limits.body_bytes_per_second = 1000;
  TestServer server(std::move(options));
  TestClient client = server.client();
  client.send("POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000\r\n\r\n");
  const std::string piece(1000, 'x');
  for (int i = 0; i < 5; ++i) {
    ASSERT_TRUE(client.send(piece));
    std::this_thread::sleep_for(80ms);
  }
  EXPECT_EQ(client.read_response().body.size(), 5000u);
}

TEST(Limits, AReaderThatTakesNothingIsClosed) {
  HttpServerOptions options;
  options.limits.write_timeout = 150ms;
  options.limits.send_buffer_bytes = 16 << 10;
  TestServer server(std::move(options));
  TestClient stream(server.port, 4096), whole(server.port, 4096);
  stream.send(TestServer::get("/endless"));
  whole.send(TestServer::get("/big?8000000"));
  EXPECT_TRUE(server.gone.reaches(1, 5s)) << "the handler of the endless stream learns it";
  TestClient other = server.client();
  EXPECT_EQ(other.ask(TestServer::get("/hello")).status, 200);
  for (int i = 0; i < 500 && server.server->metrics().connections > 1; ++i) std::this_thread::sleep_for(10ms);
  EXPECT_EQ(server.server->metrics().connections, 1) << "only the last client is left";
}

TEST(Limits, ASlowReaderGetsEverythingAndDelaysNobody) {
  HttpServerOptions options;
  options.limits.send_buffer_bytes = 16 << 10;
  TestServer server(std::move(options));
  TestClient slow(server.port, 4096);
  slow.send(TestServer::get("/stream?20000"));
  ASSERT_TRUE(slow.read_until("chunk 0\n"));
  const auto begin = steady_clock::now();
  TestClient quick = server.client();
  for (int i = 0; i < 20; ++i) EXPECT_EQ(quick.ask(TestServer::get("/hello")).status, 200);
  EXPECT_LT(seconds_since(begin), 5);
  const std::string body = slow.read_response().body;
  EXPECT_EQ(body.substr(body.size() - 12), "chunk 19999\n");
}

// A peer that answers nothing any more, not even with a reset, as after a power cut: its own system drops all
// packets.
TEST(Limits, APeerThatVanishedLosesItsStream) {
  HttpServerOptions options;
  options.limits.write_timeout = 300ms;
  TestServer server(std::move(options));
  TestClient vanishes = server.client(), stays = server.client();
  vanishes.send(TestServer::get("/tick"));
  stays.send(TestServer::get("/tick"));
  ASSERT_TRUE(server.waiting.reaches(2));
  sock_filter drop_all = {BPF_RET | BPF_K, 0, 0, 0};
  const sock_fprog program = {1, &drop_all};
  ASSERT_EQ(setsockopt(vanishes.fd(), SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)), 0);
  EXPECT_TRUE(server.gone.reaches(1, 5s));
  for (int i = 0; i < 20; ++i) ASSERT_TRUE(stays.read_more(2s)) << "it takes what comes";
  EXPECT_EQ(server.gone.value(), 1);
}

// A window that is too small for what is next in line is nothing to worry about while it moves.
TEST(Limits, AReaderOfAFewBytesAtATimeOutlastsTheWriteTimeout) {
  HttpServerOptions options;
  options.limits.write_timeout = 3s;
  TestServer server(std::move(options));
  TestClient slow(server.port, 4096);
  slow.send(TestServer::get("/endless"));
  ASSERT_TRUE(server.waiting.reaches(1));
  char taken[8192];
  for (const auto end = steady_clock::now() + 8s; steady_clock::now() < end;
       std::this_thread::sleep_for(60ms))
    ASSERT_GT(recv(slow.fd(), taken, sizeof(taken), 0), 0) << "cut off while it was reading";
  EXPECT_EQ(server.gone.value(), 0);
}

// The system tells that a socket has room only when a third of its buffer is free, and the buffer grows to
// megabytes.
TEST(Limits, ASteadyReaderIsNotCutOffHoweverMuchTheSystemBuffers) {
  HttpServerOptions options;
  options.limits.write_timeout = 400ms;
  TestServer server(std::move(options));
  TestClient slow(server.port, 4096);
  constexpr size_t kBytes = 4'000'000;
  slow.send(TestServer::get("/big?4000000"));
  std::string taken(32 << 10, 0);
  size_t total = 0;
  for (ssize_t n = 1; n > 0 && total < kBytes; std::this_thread::sleep_for(4ms)) {
    n = recv(slow.fd(), taken.data(), taken.size(), 0);
    total += static_cast<size_t>(std::max<ssize_t>(n, 0));
  }
  EXPECT_GE(total, kBytes) << "cut off while it was reading";
}

TEST(Limits, AChunkedBodyIsCountedToo) {
  HttpServerOptions options;
  options.limits.body_bytes = 10;
  TestServer server(std::move(options));
  EXPECT_EQ(server
                .ask("POST /echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
                     "6\r\nabcdef\r\n4\r\nghij\r\n0\r\n\r\n")
                .body,
            "abcdefghij");
  EXPECT_EQ(server
                .ask("POST /echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
                     "6\r\nabcdef\r\n5\r\nghijk\r\n0\r\n\r\n")
                .status,
            413);
}

TEST(Limits, AllBodiesTogetherStayInTheirMemory) {
  HttpServerOptions options;
  options.limits.all_bodies_bytes = 1 << 20;
  TestServer server(std::move(options));
  // Announced, but not sent: costs nothing.
  std::vector<TestClient> announced;
  for (int i = 0; i < 20; ++i) {
    announced.push_back(server.client());
    announced.back().send("POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 60000000\r\n\r\n");
  }
  EXPECT_EQ(server.ask("POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nok").body, "ok");
  EXPECT_LT(server.server->metrics().body_bytes, 100000);

  const std::string large(600000, 'x');
  const std::string head = "POST /wait HTTP/1.1\r\nHost: localhost\r\nContent-Length: 600000\r\n\r\n";
  TestClient first = server.client();
  first.send(head + large);
  ASSERT_TRUE(server.waiting.reaches(1));
  TestClient second = server.client();
  second.send(head + large);
  EXPECT_EQ(second.read_response().status, 503);
  first.hang_up();
  ASSERT_TRUE(server.gone.reaches(1));
  TestResponse third;
  for (int i = 0; i < 100 && third.status != 200; ++i) {
    TestClient client = server.client();
    client.send("POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 600000\r\n\r\n" + large);
    third = client.read_response();
  }
  EXPECT_EQ(third.body.size(), large.size()) << "the memory of the first is free again";
}

TEST(Limits, TooManyConnectionsAreToldSo) {
  HttpServerOptions options;
  options.limits.connections = 2;
  TestServer server(std::move(options));
  TestClient one = server.client(), two = server.client();
  EXPECT_EQ(one.ask(TestServer::get("/hello")).status, 200);
  EXPECT_EQ(two.ask(TestServer::get("/hello")).status, 200);
  TestClient three = server.client();
  three.send(TestServer::get("/hello"));
  EXPECT_EQ(three.read_response().status, 503);
  EXPECT_TRUE(three.closed());
  EXPECT_EQ(one.ask(TestServer::get("/hello")).status, 200);
  one.hang_up();
  TestResponse response;
  for (int i = 0; i < 200 && response.status != 200; ++i)
    response = server.client().ask(TestServer::get("/hello"));
  EXPECT_EQ(response.status, 200) << "there is room again";
}

TEST(Limits, OneAddressCannotTakeAllConnections) {
  HttpServerOptions options;
  options.limits.connections_per_address = 1;
  TestServer server(std::move(options));
  TestClient one = server.client();
  EXPECT_EQ(one.ask(TestServer::get("/hello")).status, 200);
  EXPECT_EQ(server.ask(TestServer::get("/hello")).status, 503);
  TestClient other(server.port, 0, "127.0.0.2");
  EXPECT_EQ(other.ask(TestServer::get("/hello")).status, 200);
}

TEST(Limits, WhatIsPipelinedBehindARunningRequestIsBounded) {
  HttpServerOptions options;
  options.limits.pipelined_bytes = 1000;
  TestServer server(std::move(options));
  TestClient client = server.client();
  client.send(TestServer::get("/wait"));
  ASSERT_TRUE(server.waiting.reaches(1));
  std::string many;
  for (int i = 0; i < 2000; ++i) many += TestServer::get("/hello");
  ASSERT_TRUE(client.send(many));
  client.hang_up();
  EXPECT_TRUE(server.gone.reaches(1, 5s)) << "a hang-up behind them is still noticed";
  EXPECT_EQ(server.handled.value(), 1) << "none of them is served";
}

TEST(Limits, AResponseArrivesEvenIfTheClientIsStillSending) {
  TestServer server;
  TestClient client = server.client();
  client.send("POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999999999\r\n\r\n");
  const std::string piece(64 << 10, 'x');
  for (int i = 0; i < 16; ++i) client.send(piece);
  EXPECT_EQ(client.read_response().status, 413) << "not a reset";
}

}  // namespace
}  // namespace kvasir
