// Heads, hosts and events as pure functions; the refusals over real sockets are in malformed_request_test.cc.
#include "net/request_head.h"

#include <gtest/gtest.h>

#include "net/host_rule.h"
#include "net/request_parser.h"
#include "net/sse.h"

namespace kvasir {
namespace {

TEST(HeadScanner, FindsTheEndHoweverTheBytesCome) {
  const std::string head = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
  const std::string bytes = head + "\r\nbody\n";
  for (size_t step = 1; step <= bytes.size(); ++step) {
    HeadScanner scanner({});
    for (size_t size = step; scanner.head_bytes() == 0; size += step) {
      ASSERT_FALSE(scanner.scan(bytes.substr(0, size)));
      ASSERT_LT(size, bytes.size() + step);
    }
    EXPECT_EQ(scanner.head_bytes(), head.size()) << step;
  }
}

TEST(HeadScanner, HoldsTheLimitToTheByte) {
  const std::string head = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
  HeadLimits limits;
  limits.header_bytes = head.size();
  HeadScanner fits(limits);
  EXPECT_FALSE(fits.scan(head));
  EXPECT_EQ(fits.head_bytes(), head.size());
  limits.header_bytes = head.size() - 1;
  HeadScanner too_long(limits);
  const auto error = too_long.scan(head);
  ASSERT_TRUE(error);
  EXPECT_EQ(error->status, 431);
}

TEST(RequestHead, ReadsWhatTheServerNeeds) {
  RequestHead head;
  const std::string bytes =
      "POST http://Example.org:80/a/b?c=d?e HTTP/1.1\r\nhOST: example.ORG:80\r\nContent-Length: 0012\r\n"
      "Connection: x, keep-alive\r\nExpect: 100-Continue\r\n\r\n";
  ASSERT_FALSE(read_request_head(bytes, {}, head));
  EXPECT_EQ(head.method, "POST");
  EXPECT_EQ(head.path, "/a/b");
  EXPECT_EQ(head.query, "c=d?e");
  EXPECT_EQ(head.content_length, 12u);
  EXPECT_TRUE(head.keep_alive);
  EXPECT_TRUE(head.expect_continue);
  EXPECT_EQ(head.header_count, 4u);
}

TEST(RequestHead, KnowsWhatSurvivesARequest) {
  const auto keep_alive = [](const std::string& version, const std::string& connection) {
    RequestHead head;
    EXPECT_FALSE(
        read_request_head("GET / HTTP/" + version + "\r\nHost: a\r\n" + connection + "\r\n", {}, head));
    return head.keep_alive;
  };
  EXPECT_TRUE(keep_alive("1.1", ""));
  EXPECT_FALSE(keep_alive("1.0", ""));
  EXPECT_TRUE(keep_alive("1.0", "Connection: Keep-Alive\r\n"));
  EXPECT_FALSE(keep_alive("1.1", "Connection: keep-alive, close\r\n"));
  EXPECT_FALSE(keep_alive("1.1", "Connection: close\r\nConnection: upgrade\r\n"));
}

TEST(HostRule, AllowsLoopbackAndWhatItWasTold) {
  const HostRule rule("127.0.0.1", {"My-Box.lan", "10.0.0.7"});
  for (const char* host :
       {"localhost", "LOCALHOST:8080", "localhost.", "127.0.0.1", "127.1.2.3:1", "[::1]", "[::1]:80",
        "my-box.lan", "MY-BOX.LAN:443", "[::ffff:127.0.0.1]", "192.168.1.5", "10.0.0.7", "localhost:"}) {
    EXPECT_TRUE(rule.allows(host, "192.168.1.5")) << host;
  }
  for (const char* host :
       {"evil.example", "localhost.evil.example", "xlocalhost", "192.168.1.6", "0.0.0.0", "[::]",
        "127.0.0.1.evil.example", "[::2]", "2130706433", "0x7f.1", "127.1", "", ".", "localhost..", ":80"}) {
    EXPECT_FALSE(rule.allows(host, "192.168.1.5")) << host;
  }
}

TEST(HostRule, AllowsAnyAddressButNoNameOnEveryInterface) {
  for (const char* bound : {"0.0.0.0", "::"}) {
    const HostRule rule(bound, {});
    EXPECT_TRUE(rule.allows("203.0.113.9:80", "10.0.0.1"));
    EXPECT_TRUE(rule.allows("[2001:db8::1]", "10.0.0.1"));
    EXPECT_FALSE(rule.allows("evil.example", "10.0.0.1"));
  }
  EXPECT_TRUE(HostRule("box.lan", {}).allows("box.lan:80", "10.0.0.1")) << "the name it was told to bind";
}

TEST(RequestParser, GrowsABodyOnlyAsBytesArrive) {
  BodyBudget budget(1 << 30);
  HttpRequest request;
  RequestParser parser(budget, 1 << 30);
  ASSERT_FALSE(parser.put_head("POST / HTTP/1.1\r\nContent-Length: 1000000000\r\n\r\n", request));
  EXPECT_EQ(budget.used(), 0);
  size_t taken = 0;
  ASSERT_FALSE(parser.put_body("abc", taken));
  EXPECT_EQ(taken, 3u);
  EXPECT_LE(budget.used(), 4096);
  const std::string more(100000, 'x');
  ASSERT_FALSE(parser.put_body(more, taken));
  EXPECT_GE(budget.used(), 100003);
  EXPECT_LE(budget.used(), 210000);
  EXPECT_FALSE(parser.done());
}

TEST(RequestParser, ReadsTheSameBodyHoweverTheChunksAreCut) {
  const std::string bytes =
      "19;name=\"v\"\r\nhello to everyone in this\r\n1\r\n \r\n005\r\nworld\r\n0;end\r\n\r\nGET";
  for (size_t step = 1; step <= bytes.size(); ++step) {
    BodyBudget budget(1 << 20);
    HttpRequest request;
    std::string input;
    size_t used = 0;
    {
      RequestParser parser(budget, 100);
      ASSERT_FALSE(parser.put_head("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", request));
      for (size_t at = 0; at < bytes.size() && !parser.done(); at += step) {
        input += bytes.substr(at, step);
        size_t taken = 0;
        ASSERT_FALSE(parser.put_body(input, taken)) << step;
        input.erase(0, taken);
        used += taken;
      }
      ASSERT_TRUE(parser.done()) << step;
      EXPECT_EQ(used, bytes.size() - 3) << "the next request is left alone";
      EXPECT_EQ(parser.take_body(), "hello to everyone in this world");
      EXPECT_GT(budget.used(), 0);
    }
    EXPECT_EQ(budget.used(), 0);
  }
}

TEST(BodyBudget, NeverGivesMoreThanItHas) {
  BodyBudget budget(10);
  EXPECT_TRUE(budget.take(6));
  EXPECT_FALSE(budget.take(5));
  EXPECT_FALSE(budget.take(INT64_MAX));
  EXPECT_TRUE(budget.take(4));
  budget.give_back(10);
  EXPECT_EQ(budget.used(), 0);
}

TEST(Sse, SplitsDataAtEveryLineEnd) {
  EXPECT_EQ(sse_event("", "{}"), "data: {}\n\n");
  EXPECT_EQ(sse_event("ping", "a\nb\r\nc\rd"), "event: ping\ndata: a\ndata: b\ndata: c\ndata: d\n\n");
  EXPECT_EQ(sse_event("", ""), "data: \n\n");
  EXPECT_EQ(sse_event("", "\n"), "data: \ndata: \n\n");
  EXPECT_EQ(sse_event("", " a"), "data:  a\n\n") << "a reader takes one blank away";
  EXPECT_EQ(sse_event("a\ndata: forged", "x"), "event: a\ndata: x\n\n");
  EXPECT_EQ(sse_comment("keep-alive"), ": keep-alive\n\n");
  EXPECT_EQ(sse_comment("a\nb"), ": a\n: b\n\n");
}

}  // namespace
}  // namespace kvasir
