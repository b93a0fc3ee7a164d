// Load for `kvasir serve`: N streams at once, how fast tokens come, and how evenly; and the same requests
// without a server, from the engine itself, to hold against it.
//
//   serve_load PORT   STREAMS TOKENS [PROMPT_TOKENS] [ROUNDS]   over loopback, from a server that runs
//   serve_load engine STREAMS TOKENS [PROMPT_TOKENS] [ROUNDS]   the bundled model in this process, one
//   compute thread
//
// Both ways the requests are the same: prompts, sampling, lengths, what is kept of them. They are greedy, and
// the end token is made unlikely, so that every stream has TOKENS of them. Prints one JSON object a round.
// `tokens_per_s` counts the time in which all streams decode: from the kRampTokens-th token of the last that
// begins to the end of the first that ends. `whole_tokens_per_s` counts from the first token of any to the
// last of all, prompts included that are computed meanwhile.
//
// A client on the machine of its server takes from it: each time the server sends to a client that waits, it
// has to wake it. So this one never waits for bytes: it sleeps, then takes what has come on all its sockets,
// and parses no JSON. What it still costs is in `client_cpu_share`, of one core.
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "api/openai_chat.h"
#include "api/prompt.h"
#include "backend/backend.h"
#include "bench/local_engine.h"
#include "engine/engine.h"
#include "model/load.h"

namespace kvasir {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kRampTokens = 16;
constexpr auto kSweep = std::chrono::milliseconds(1);

double seconds(Clock::duration d) { return std::chrono::duration<double>(d).count(); }

struct Load {
  int streams = 0, tokens = 0, prompt_tokens = 64;
};

// What one stream gave.
struct Stream {
  Clock::time_point sent;
  std::vector<Clock::time_point> arrivals;  // of pieces of text: all but always one a token
  int64_t tokens = 0;
  bool done = false, failed = false;
};

std::string body_of(const Load& load, int number) {
  std::string text = "Stream " + std::to_string(number) + ".";
  for (int i = 0; i * 8 < load.prompt_tokens; ++i)
    text += "\\nint value_" + std::to_string(i) + " = " + std::to_string(number * 1000 + i) + ";";
  return R"({"model":"nano","stream":true,"thinking":{"type":"disabled"},"temperature":0,"seed":)" +
         std::to_string(number) + R"(,"logit_bias":{"6106":-100},"max_tokens":)" +
         std::to_string(load.tokens) + R"(,"messages":[{"role":"user","content":")" + text + R"("}]})";
}

// --- over loopback

struct Socket {
  int fd = -1;
  std::string rest;       // of a line that has not ended
  std::string last_data;  // the last chunk has the usage
};

void send_request(Socket& socket_, Stream& s, int port, const std::string& body) {
  std::string bytes = "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:" + std::to_string(port) +
                      "\r\nContent-Type: application/json\r\nContent-Length: " + std::to_string(body.size()) +
                      "\r\n\r\n" + body;
  socket_.fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (connect(socket_.fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0)
    die({ErrorCode::kIo, "cannot connect"});
  s.sent = Clock::now();
  for (size_t at = 0; at < bytes.size();) {
    ssize_t n = send(socket_.fd, bytes.data() + at, bytes.size() - at, MSG_NOSIGNAL);
    if (n <= 0) die({ErrorCode::kIo, "the server does not take the request"});
    at += static_cast<size_t>(n);
  }
}

// One line of the response.
void take_line(std::string_view line, Socket& socket_, Stream& s, Clock::time_point now) {
  constexpr std::string_view kData = "data: ", kCompletionTokens = "\"completion_tokens\":";
  if (line.starts_with("HTTP/1.1 ") && !line.starts_with("HTTP/1.1 200")) s.failed = true;
  if (!line.starts_with(kData)) return;
  if (line.starts_with("data: [DONE]")) {
    s.done = true;
    size_t at = socket_.last_data.find(kCompletionTokens);
    if (at == std::string::npos || s.arrivals.empty()) {
      s.failed = true;
      return;
    }
    s.tokens = std::atoll(socket_.last_data.c_str() + at + kCompletionTokens.size());
    s.arrivals.pop_back();  // of the chunk with the usage
    return;
  }
  // The chunk with the role has no text.
  if (s.arrivals.empty() && line.find("\"content\":\"\"") != std::string_view::npos) return;
  s.arrivals.push_back(now);
  socket_.last_data.assign(line);
}

void take_bytes(std::string_view bytes, Socket& socket_, Stream& s, Clock::time_point now) {
  for (;;) {
    size_t end = bytes.find('\n');
    if (end == std::string_view::npos) break;
    if (socket_.rest.empty()) {
      take_line(bytes.substr(0, end), socket_, s, now);
    } else {
      socket_.rest.append(bytes.substr(0, end));
      take_line(socket_.rest, socket_, s, now);
      socket_.rest.clear();
    }
    bytes.remove_prefix(end + 1);
  }
  socket_.rest.append(bytes);
}

std::vector<Stream> run_server(const Load& load, int port, int round) {
  std::vector<Stream> streams(static_cast<size_t>(load.streams));
  std::vector<Socket> sockets(streams.size());
  for (int i = 0; i < load.streams; ++i)
    send_request(sockets[static_cast<size_t>(i)], streams[static_cast<size_t>(i)], port,
                 body_of(load, round * load.streams + i));
  std::vector<char> buffer(65536);
  for (size_t open = streams.size(); open > 0;) {
    std::this_thread::sleep_for(kSweep);
    auto now = Clock::now();
    for (size_t i = 0; i < streams.size(); ++i) {
      Stream& s = streams[i];
      if (s.done || s.failed) continue;
      ssize_t n = recv(sockets[i].fd, buffer.data(), buffer.size(), MSG_DONTWAIT);
      if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) continue;
      if (n <= 0)
        s.failed = true;
      else
        take_bytes({buffer.data(), static_cast<size_t>(n)}, sockets[i], s, now);
      if (s.done || s.failed) --open;
    }
  }
  for (Socket& socket_ : sockets) close(socket_.fd);
  return streams;
}

// --- the engine alone

struct Local {
  Bell bell;  // rung once a step
  Tokenizer tokenizer;
  LoadedModel loaded;
  std::unique_ptr<Engine> engine;
};

std::unique_ptr<Local> make_local() {
  std::string dir = KVASIR_SOURCE_DIR "/models/nano";
  auto tokenizer = value_of(Tokenizer::load(dir));
  auto local = std::unique_ptr<Local>(
      new Local{{}, std::move(tokenizer), value_of(load_checkpoint(dir, {})), nullptr});
  auto ops = value_of(make_ops({BackendKind::kCpu, Numerics::kFast, {}, 1}));
  EngineOptions options;
  options.told = [bell = &local->bell] { bell->ring(); };
  local->engine = value_of(Engine::make(local->loaded.model, std::move(ops), std::move(options)));
  return local;
}

// What the server makes of the same body, but for the grammar.
Request request_of(const Local& local, const std::string& body) {
  ChatRequest chat = value_of(parse_chat(body, {}));
  Prompt prompt = value_of(build_prompt(chat, local.tokenizer, {}));
  Request request;
  request.prompt = std::move(prompt.ids);
  request.sampling = chat.sampling;
  request.max_tokens = chat.max_tokens;
  request.stop_ids = {local.loaded.model.config.eos_id};
  request.system_tokens = prompt.system_tokens;
  request.resume_points = prompt.resume_points;
  return request;
}

std::vector<Stream> run_engine(const Load& load, Local& local, int round) {
  std::vector<Stream> streams(static_cast<size_t>(load.streams));
  std::vector<std::unique_ptr<TokenStream>> readers;
  for (int i = 0; i < load.streams; ++i) {
    Request request = request_of(local, body_of(load, round * load.streams + i));
    streams[static_cast<size_t>(i)].sent = Clock::now();
    readers.push_back(value_of(local.engine->submit(std::move(request))));
  }
  for (size_t open = streams.size(); open > 0;) {
    local.bell.wait();
    auto now = Clock::now();
    for (size_t i = 0; i < streams.size(); ++i) {
      StreamEvent event;
      while (readers[i]->try_next(event)) {
        Stream& s = streams[i];
        if (event.kind == StreamEvent::Kind::kToken) s.arrivals.push_back(now);
        if (event.kind != StreamEvent::Kind::kEnd) continue;
        s.done = true;
        s.failed = event.reason == EndReason::kFailed;
        s.tokens = static_cast<int64_t>(s.arrivals.size());
        --open;
      }
    }
  }
  return streams;
}

// --- what came of it

double percentile(std::vector<double>& v, double p) {
  if (v.empty()) return 0;
  size_t at = std::min(v.size() - 1, static_cast<size_t>(p * static_cast<double>(v.size())));
  std::nth_element(v.begin(), v.begin() + static_cast<ptrdiff_t>(at), v.end());
  return v[at];
}

void report(const Load& load, const char* what, const std::vector<Stream>& streams, double client_cpu) {
  Clock::time_point first = Clock::time_point::max(), last{}, all_run{}, one_ends = Clock::time_point::max();
  int64_t total = 0, failed = 0;
  std::vector<double> gaps, first_token;
  for (const Stream& s : streams) {
    bool lost = s.failed || s.arrivals.empty();
    failed += lost;
    if (lost) continue;
    total += s.tokens;
    first_token.push_back(seconds(s.arrivals.front() - s.sent));
    first = std::min(first, s.arrivals.front());
    last = std::max(last, s.arrivals.back());
    all_run = std::max(all_run, s.arrivals[std::min(kRampTokens, s.arrivals.size() - 1)]);
    one_ends = std::min(one_ends, s.arrivals.back());
    for (size_t i = 1; i < s.arrivals.size(); ++i) gaps.push_back(seconds(s.arrivals[i] - s.arrivals[i - 1]));
  }
  double inside = 0;
  for (const Stream& s : streams) {
    auto within = [&](Clock::time_point t) { return t > all_run && t <= one_ends; };
    auto count = static_cast<double>(std::count_if(s.arrivals.begin(), s.arrivals.end(), within));
    if (!s.arrivals.empty())
      inside += count * static_cast<double>(s.tokens) / static_cast<double>(s.arrivals.size());
  }
  double window = std::max(1e-9, seconds(one_ends - all_run)), whole = std::max(1e-9, seconds(last - first));
  std::printf(
      R"({"of":"%s","streams":%d,"prompt_tokens":%d,"tokens":%lld,"failed":%lld,"tokens_per_s":%.1f,"ramp_s":%.2f,"window_s":%.2f,"tail_s":%.2f,)"
      R"("whole_tokens_per_s":%.1f,"first_token_s":{"p50":%.4f,"max":%.4f},)",
      what, load.streams, load.prompt_tokens, static_cast<long long>(total), static_cast<long long>(failed),
      inside / window, seconds(all_run - first), window, seconds(last - one_ends),
      static_cast<double>(total) / whole, percentile(first_token, 0.5), percentile(first_token, 1.0));
  std::printf(R"("gap_ms":{"p50":%.3f,"p99":%.3f,"max":%.3f},"client_cpu_share":%.3f})"
              "\n",
              percentile(gaps, 0.5) * 1e3, percentile(gaps, 0.99) * 1e3, percentile(gaps, 1.0) * 1e3,
              client_cpu / whole);
  std::fflush(stdout);
}

double cpu_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  auto of = [](timeval t) { return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec); };
  return of(usage.ru_utime) + of(usage.ru_stime);
}

int run(int argc, char** argv) {
  if (argc < 4) {
    std::fprintf(stderr, "usage: serve_load PORT|engine STREAMS TOKENS [PROMPT_TOKENS] [ROUNDS]\n");
    return 2;
  }
  bool engine = std::strcmp(argv[1], "engine") == 0;
  Load load{std::atoi(argv[2]), std::atoi(argv[3]), argc > 4 ? std::atoi(argv[4]) : 64};
  int rounds = argc > 5 ? std::atoi(argv[5]) : 1;
  std::unique_ptr<Local> local;
  if (engine) local = make_local();
  for (int round = 0; round < rounds; ++round) {
    double cpu = cpu_seconds();
    auto streams = engine ? run_engine(load, *local, round) : run_server(load, std::atoi(argv[1]), round);
    report(load, engine ? "engine" : "server", streams, engine ? 0 : cpu_seconds() - cpu);
  }
  return 0;
}

}  // namespace
}  // namespace kvasir

int main(int argc, char** argv) { return kvasir::run(argc, argv); }
