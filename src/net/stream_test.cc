// Long-lived responses: hang-ups while the handler waits, many idle streams, stopping.
#include <fmt/format.h>
#include <sys/resource.h>

#include "net/server_fixture_test.h"

namespace kvasir {
namespace {

TEST(Stream, AHangUpIsNoticedWhileNothingIsSent) {
  TestServer server;
  for (const bool reset : {false, true}) {
    TestClient client = server.client();
    client.send(TestServer::get("/wait"));
    ASSERT_TRUE(server.waiting.reaches(reset ? 2 : 1));
    const auto begin = steady_clock::now();
    reset ? client.reset() : client.hang_up();
    ASSERT_TRUE(server.gone.reaches(reset ? 2 : 1, 5s));
    EXPECT_LT(steady_clock::now() - begin, 1s);
  }
  EXPECT_EQ(server.waits_ended_by_timeout, 0);
  EXPECT_EQ(server.sent_after_the_end, 0);
}

TEST(Stream, AHangUpIsNoticedAfterTheHead) {
  TestServer server;
  TestClient client = server.client();
  client.send(TestServer::get("/sse-wait"));
  ASSERT_TRUE(client.read_until(": open"));
  client.hang_up();
  EXPECT_TRUE(server.gone.reaches(1, 5s));
}

TEST(Stream, AHangUpInTheMiddleOfAnEndlessStreamEndsIt) {
  TestServer server;
  TestClient client = server.client();
  client.send(TestServer::get("/endless"));
  ASSERT_TRUE(client.read_until("eeee"));
  client.hang_up();
  EXPECT_TRUE(server.gone.reaches(1, 5s));
}

TEST(Stream, AClientThatOnlyEndsItsOwnDirectionStillGetsAWholeResponse) {
  TestServer server;
  TestClient client = server.client();
  client.send(TestServer::get("/hello"));
  client.close_writing();
  EXPECT_EQ(client.read_response().body, "hello\n");
}

TEST(Stream, FiveHundredIdleStreamsFitOnOneThread) {
  rlimit files{};
  getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = std::max<rlim_t>(files.rlim_cur, std::min<rlim_t>(files.rlim_max, 2048));
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &files), 0);
  constexpr int kStreams = 500;
  TestServer server;
  std::vector<TestClient> clients;
  clients.reserve(kStreams);
  for (int i = 0; i < kStreams; ++i) {
    clients.push_back(server.client());
    ASSERT_TRUE(clients.back().connected());
    clients.back().send(TestServer::get("/sse-wait"));
  }
  for (TestClient& client : clients) ASSERT_TRUE(client.read_until(": open\n\n"));
  EXPECT_EQ(server.server->metrics().connections, kStreams);
  EXPECT_TRUE(server.waiting.reaches(kStreams));
  EXPECT_EQ(server.ask(TestServer::get("/hello")).status, 200) << "the thread is free";
  for (TestClient& client : clients) client.hang_up();
  EXPECT_TRUE(server.gone.reaches(kStreams, 10s));
}

TEST(Stop, LetsARunningHandlerFinishAndClosesIdleConnections) {
  TestServer server;
  TestClient idle = server.client(), busy = server.client(), whole = server.client();
  EXPECT_EQ(idle.ask(TestServer::get("/hello")).status, 200);
  busy.send(TestServer::get("/stream?50000"));
  ASSERT_TRUE(busy.read_until("chunk 1\n"));
  std::thread stopper([&] { server.server->stop(steady_clock::now() + 20s); });
  EXPECT_EQ(idle.read_all(), "");
  const std::string body = busy.read_response().body;
  EXPECT_EQ(body.substr(body.size() - 12), "chunk 49999\n");
  EXPECT_TRUE(busy.closed());
  busy.hang_up();
  stopper.join();
  EXPECT_FALSE(TestClient(server.port).connected());
}

TEST(Stop, EndsWhatStillRunsAtTheDeadline) {
  TestServer server;
  TestClient client = server.client();
  client.send(TestServer::get("/wait"));
  ASSERT_TRUE(server.waiting.reaches(1));
  const auto begin = steady_clock::now();
  server.server->stop(begin + 100ms);
  EXPECT_LT(steady_clock::now() - begin, 900ms)
      << "the handler learned it like a hang-up and ended by itself";
  EXPECT_EQ(server.gone.value(), 1);
  EXPECT_TRUE(client.closed());
}

TEST(Stop, DestroysAHandlerThatDoesNotListen) {
  struct Witness {
    std::atomic<bool>& destroyed;
    ~Witness() { destroyed = true; }
  };
  std::atomic<bool> destroyed{false};
  Count waiting;
  Signal never;
  auto server = HttpServer::make({}, [&](const HttpRequest&, ResponseWriter&) -> Task<> {
    Witness witness{destroyed};
    waiting.add();
    co_await never.wait(1h);
  });
  ASSERT_TRUE(server);
  TestClient client((*server)->port());
  client.send(TestServer::get("/"));
  ASSERT_TRUE(waiting.reaches(1));
  (*server)->stop(steady_clock::now());
  EXPECT_TRUE(destroyed);
  never.notify();  // whoever still holds the signal may use it
}

TEST(Stop, TheLastResponseSaysThatTheConnectionCloses) {
  Signal go;
  Count waiting;
  auto server = HttpServer::make({}, [&](const HttpRequest&, ResponseWriter& out) -> Task<> {
    waiting.add();
    co_await go.wait(10s);
    const HttpResponse response{200, {}, "late"};
    co_await out.send(response);
  });
  ASSERT_TRUE(server);
  TestClient client((*server)->port()), idle((*server)->port());
  client.send(TestServer::get("/"));
  ASSERT_TRUE(waiting.reaches(1));
  std::thread stopper([&] { (*server)->stop(steady_clock::now() + 20s); });
  EXPECT_EQ(idle.read_all(), "") << "so the stop has begun";
  go.notify();
  const TestResponse response = client.read_response();
  EXPECT_EQ(response.body, "late");
  EXPECT_EQ(response.header("Connection"), "close");
  client.hang_up();
  stopper.join();
}

TEST(Signal, NoNotificationIsLost) {
  // A ping-pong across threads: one lost wake-up would stop it.
  constexpr int kRounds = 20000;
  Signal ping;
  std::atomic<int> sent{0}, seen{0};
  Count started;
  std::atomic<bool> timed_out{false};
  auto server = HttpServer::make({}, [&](const HttpRequest&, ResponseWriter& out) -> Task<> {
    started.add();
    while (seen < kRounds && !timed_out) {
      const bool notified = co_await ping.wait(10s);
      timed_out = !notified;
      seen = sent.load();
    }
    const HttpResponse response{200, {}, "done"};
    co_await out.send(response);
  });
  ASSERT_TRUE(server);
  TestClient client((*server)->port());
  client.send(TestServer::get("/"));
  ASSERT_TRUE(started.reaches(1));
  for (int i = 0; i < kRounds; ++i) {
    ++sent;
    ping.notify();
    if (i % 3 == 0) {
      while (seen.load() < sent.load() && !timed_out) std::this_thread::yield();
    }
  }
  EXPECT_EQ(client.read_response().body, "done");
  EXPECT_FALSE(timed_out);
  EXPECT_EQ(seen, kRounds);
}

TEST(Signal, WaitsTakeNotificationsOnceAndKeepTheirTimeout) {
  std::vector<bool> results;
  std::chrono::steady_clock::duration waited{};
  auto server = HttpServer::make({}, [&](const HttpRequest&, ResponseWriter& out) -> Task<> {
    Signal signal;
    signal.notify();
    signal.notify();
    bool notified = co_await signal.wait(10s);
    results.push_back(notified);
    const auto begin = steady_clock::now();
    notified = co_await signal.wait(30ms);
    waited = steady_clock::now() - begin;
    results.push_back(notified);
    notified = co_await signal.wait(0ms);
    results.push_back(notified);
    signal.notify();
    notified = co_await signal.wait(std::chrono::steady_clock::duration::max());
    results.push_back(notified);
    const HttpResponse response{200, {}, "done"};
    co_await out.send(response);
  });
  ASSERT_TRUE(server);
  EXPECT_EQ(TestClient((*server)->port()).ask(TestServer::get("/")).body, "done");
  EXPECT_EQ(results, (std::vector<bool>{true, false, false, true}));
  EXPECT_GE(waited, 30ms);
}

TEST(Signal, MayBeNotifiedWhileConnectionsDie) {
  Signal shared;
  std::atomic<bool> stop{false};
  std::thread engine([&] {
    while (!stop) shared.notify();
  });
  for (int i = 0; i < 2; ++i) {
    Count waiting;
    auto server = HttpServer::make({}, [&](const HttpRequest&, ResponseWriter&) -> Task<> {
      waiting.add();
      for (;;) co_await shared.wait(1ms);  // never ends: the server destroys it in the middle of a wait
    });
    ASSERT_TRUE(server);
    TestClient client((*server)->port());
    client.send(TestServer::get("/"));
    ASSERT_TRUE(waiting.reaches(1));
  }
  stop = true;
  engine.join();
}

TEST(SignalBatch, WakesEveryoneThatWasAddedAndNobodyElse) {
  constexpr int kReaders = 16, kRounds = 200;
  std::vector<Signal> signals(kReaders);
  std::vector<std::atomic<int>> woken(kReaders);
  std::atomic<bool> stop{false};
  Count waiting;
  HttpServerOptions options;
  options.threads = 2;
  auto server = HttpServer::make(options, [&](const HttpRequest& request, ResponseWriter& out) -> Task<> {
    const auto reader = static_cast<size_t>(std::stoi(request.path.substr(1)));
    waiting.add();
    while (!stop) {
      const bool notified = co_await signals[reader].wait(20ms);
      if (notified) ++woken[reader];
    }
    const HttpResponse response{200, {}, "done"};
    co_await out.send(response);
  });
  ASSERT_TRUE(server);
  std::vector<std::unique_ptr<TestClient>> clients;
  for (int i = 0; i < kReaders; ++i) {
    clients.push_back(std::make_unique<TestClient>((*server)->port()));
    clients.back()->send(TestServer::get(fmt::format("/{}", i)));
  }
  ASSERT_TRUE(waiting.reaches(kReaders));
  SignalBatch batch;
  const auto deadline = steady_clock::now() + 20s;
  for (int round = 1; round <= kRounds; ++round) {
    for (int i = 0; i + 1 < kReaders; ++i) batch.add(signals[static_cast<size_t>(i)]);
    batch.notify_all();
    // Each round is seen by all before the next, so that none of them merge.
    for (int i = 0; i + 1 < kReaders; ++i) {
      while (woken[static_cast<size_t>(i)] < round && steady_clock::now() < deadline)
        std::this_thread::yield();
    }
  }
  batch.notify_all();  // nobody was added
  stop = true;
  for (auto& client : clients) EXPECT_EQ(client->read_response().body, "done");
  for (int i = 0; i + 1 < kReaders; ++i) EXPECT_EQ(woken[static_cast<size_t>(i)], kRounds) << i;
  EXPECT_EQ(woken[kReaders - 1], 0);
}

TEST(SignalBatch, MayNotifyWhileConnectionsDieAndBeforeAnyoneWaits) {
  Signal shared, early;
  SignalBatch batch;
  batch.add(early);
  batch.notify_all();
  std::atomic<bool> stop{false};
  std::thread engine([&] {
    while (!stop) {
      batch.add(shared);
      batch.notify_all();
    }
  });
  std::atomic<bool> was_early{false};
  for (int i = 0; i < 2; ++i) {
    Count waiting;
    auto server = HttpServer::make({}, [&](const HttpRequest&, ResponseWriter&) -> Task<> {
      const bool notified = co_await early.wait(0ms);
      was_early = was_early || notified;
      waiting.add();
      for (;;) co_await shared.wait(1ms);  // never ends: the server destroys it in the middle of a wait
    });
    ASSERT_TRUE(server);
    TestClient client((*server)->port());
    client.send(TestServer::get("/"));
    ASSERT_TRUE(waiting.reaches(1));
  }
  stop = true;
  engine.join();
  EXPECT_TRUE(was_early);
}

}  // namespace
}  // namespace kvasir
