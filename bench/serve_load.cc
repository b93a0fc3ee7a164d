// Load for `kvasir serve`: N streams at once over loopback, how fast tokens come, and how evenly.
//
//   serve_load PORT STREAMS TOKENS [PROMPT_TOKENS] [ROUNDS]
//
// One thread, one poll loop, no JSON parsing: the load must cost little beside a server on the same cores. Tokens are
// those that the last chunk's usage reports; the end token is made unlikely, so that every stream has TOKENS of them. Prints one
// JSON object: tokens/s from the first token of any stream to the last of all, time to first token, gaps between the
// tokens of a stream.
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;

struct Stream {
  int fd = -1;
  std::string line;
  Clock::time_point sent, last;
  double first_token = -1;
  int64_t tokens = 0;
  bool done = false, failed = false;
};

std::string request(int port, int number, int tokens, int prompt_tokens) {
  std::string text = "Stream " + std::to_string(number) + ".";
  for (int i = 0; i * 8 < prompt_tokens; ++i) text += "\\nint value_" + std::to_string(i) + " = " + std::to_string(number * 1000 + i) + ";";
  std::string body = R"({"model":"nano","stream":true,"thinking":{"type":"disabled"},"temperature":0,"seed":)" + std::to_string(number) +
                     R"(,"logit_bias":{"6106":-100},"max_tokens":)" + std::to_string(tokens) + R"(,"messages":[{"role":"user","content":")" + text + R"("}]})";
  return "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:" + std::to_string(port) +
         "\r\nContent-Type: application/json\r\nContent-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body;
}

void open_stream(Stream& s, int port, const std::string& bytes) {
  s.fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (connect(s.fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) {
    std::perror("connect");
    std::exit(1);
  }
  s.sent = Clock::now();
  for (size_t at = 0; at < bytes.size();) {
    ssize_t n = send(s.fd, bytes.data() + at, bytes.size() - at, MSG_NOSIGNAL);
    if (n <= 0) {
      s.failed = true;
      return;
    }
    at += static_cast<size_t>(n);
  }
}

double seconds(Clock::duration d) { return std::chrono::duration<double>(d).count(); }

constexpr std::string_view kCompletionTokens = "\"completion_tokens\":";

// One `data:` line of the stream.
void take_line(Stream& s, std::vector<double>& gaps) {
  std::string_view line = s.line;
  if (line.starts_with("HTTP/1.1 ") && !line.starts_with("HTTP/1.1 200")) s.failed = true;
  if (!line.starts_with("data: ")) return;
  if (line.starts_with("data: [DONE]")) {
    s.done = true;
    return;
  }
  if (size_t at = line.find(kCompletionTokens); at != std::string_view::npos) {
    s.tokens = std::atoll(line.data() + at + kCompletionTokens.size());
  }
  if (line.find("\"content\":\"\"") != std::string_view::npos || line.find("\"delta\":{}") != std::string_view::npos) return;
  auto now = Clock::now();
  if (s.first_token < 0) {
    s.first_token = seconds(now - s.sent);
  } else {
    gaps.push_back(seconds(now - s.last));
  }
  s.last = now;
}

double percentile(std::vector<double>& v, double p) {
  if (v.empty()) return 0;
  size_t at = std::min(v.size() - 1, static_cast<size_t>(p * static_cast<double>(v.size())));
  std::nth_element(v.begin(), v.begin() + static_cast<ptrdiff_t>(at), v.end());
  return v[at];
}

void run(int port, int streams, int tokens, int prompt_tokens, int round) {
  std::vector<Stream> all(static_cast<size_t>(streams));
  std::vector<double> gaps, first;
  for (int i = 0; i < streams; ++i) open_stream(all[static_cast<size_t>(i)], port, request(port, round * streams + i, tokens, prompt_tokens));
  size_t open = all.size();
  std::vector<pollfd> polls(all.size());
  char buffer[65536];
  while (open > 0) {
    for (size_t i = 0; i < all.size(); ++i) polls[i] = {all[i].done || all[i].failed ? -1 : all[i].fd, POLLIN, 0};
    poll(polls.data(), polls.size(), 60000);
    for (size_t i = 0; i < all.size(); ++i) {
      if ((polls[i].revents & (POLLIN | POLLHUP | POLLERR)) == 0) continue;
      Stream& s = all[i];
      ssize_t n = recv(s.fd, buffer, sizeof(buffer), 0);
      if (n <= 0) s.failed = true;
      for (ssize_t b = 0; b < n; ++b) {
        if (buffer[b] == '\n') {
          take_line(s, gaps);
          s.line.clear();
        } else if (s.line.size() < 4096) {
          s.line += buffer[b];
        }
      }
      if (s.done || s.failed) --open;
    }
  }
  Clock::time_point begin = Clock::time_point::max(), end{};
  int64_t total = 0, failed = 0;
  for (Stream& s : all) {
    close(s.fd);
    failed += s.failed;
    total += s.tokens;
    first.push_back(s.first_token);
    begin = std::min(begin, s.sent + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(std::max(0.0, s.first_token))));
    end = std::max(end, s.last);
  }
  std::printf(R"({"streams":%d,"prompt_tokens":%d,"tokens":%lld,"failed":%lld,"tokens_per_s":%.1f,"first_token_s":{"p50":%.4f,"max":%.4f},)"
              R"("gap_ms":{"p50":%.3f,"p99":%.3f,"max":%.3f}})" "\n",
              streams, prompt_tokens, static_cast<long long>(total), static_cast<long long>(failed), static_cast<double>(total) / seconds(end - begin),
              percentile(first, 0.5), percentile(first, 1.0), percentile(gaps, 0.5) * 1e3, percentile(gaps, 0.99) * 1e3, percentile(gaps, 1.0) * 1e3);
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) {
    std::fprintf(stderr, "usage: serve_load PORT STREAMS TOKENS [PROMPT_TOKENS] [ROUNDS]\n");
    return 2;
  }
  int prompt_tokens = argc > 4 ? std::atoi(argv[4]) : 64, rounds = argc > 5 ? std::atoi(argv[5]) : 1;
  for (int round = 0; round < rounds; ++round) run(std::atoi(argv[1]), std::atoi(argv[2]), std::atoi(argv[3]), prompt_tokens, round);
  return 0;
}
