// Malformed HTTP and JSON, by the million, over loopback.
//
//   serve_malformed --binary KVASIR [--requests N] [--seconds N] [--clients N] [--seed N] [--log FILE]
//
// Half of the requests are damaged HTTP (the tables of src/net/malformed_cases_test.h and good requests,
// mutated), half good HTTP with a damaged JSON body at every path that takes one. The server's context is so
// short that what is still a good request after the damage is refused as well, before anything is computed.
// Each must be answered with 4xx, or not at all; only what is still
// a request may be answered with 200. The server must answer /health all the while, end with code 0 at
// SIGTERM, and say nothing of a sanitizer if it has one. Exit code 0 and one line of counts, or 1 and what
// was wrong.
#include <signal.h>
#include <sys/socket.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <sstream>
#include <thread>

#include "net/malformed_cases_test.h"
#include "serve_faults/child_server.h"

namespace kvasir {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

struct Options {
  std::string binary, log;
  int64_t requests = 20000;
  int seconds = 60, clients = 4;
  unsigned seed = 1;
};

struct Seed {
  std::string path, body;
};

std::vector<Seed> json_seeds() {
  const std::string tools =
      R"("tools":[{"type":"function","function":{"name":"bash","description":"Run a command","strict":true,"parameters":{"type":"object","properties":{"command":{"type":"string","pattern":"^[a-z]+$"},"n":{"type":"integer","minimum":0}},"required":["command"],"additionalProperties":false}}}])";
  const std::string history =
      R"("messages":[{"role":"system","content":"You are an agent."},{"role":"user","content":[{"type":"text","text":"list files \u00e4\ud83d\ude00"}]},{"role":"assistant","content":null,"reasoning_content":"need ls","tool_calls":[{"id":"call_1","type":"function","function":{"name":"bash","arguments":"{\"command\":\"ls\"}"}}]},{"role":"tool","tool_call_id":"call_1","content":"a.txt"}])";
  return {
      {"/v1/chat/completions",
       R"({"model":"nano","stream":true,"temperature":0.5,"top_p":0.9,"max_tokens":8,"stop":["x","y"],)" +
           tools + "," + history + "}"},
      {"/v1/chat/completions",
       R"({"model":"nano","reasoning_effort":"high","logprobs":true,"top_logprobs":3,"logit_bias":{"12":-5},"seed":3,"stream_options":null,"response_format":{"type":"json_schema","json_schema":{"name":"s","schema":{"type":"array","items":{"$ref":"#/$defs/a"},"$defs":{"a":{"enum":[1,"b",null]}}}}},"messages":[{"role":"user","content":"Give me a list of things."}]})"},
      {"/v1/messages",
       R"({"model":"nano","max_tokens":16,"system":[{"type":"text","text":"You are an agent.","cache_control":{"type":"ephemeral"}}],"thinking":{"type":"enabled","budget_tokens":1024},"tools":[{"name":"Bash","input_schema":{"type":"object"}}],"tool_choice":{"type":"auto"},"messages":[{"role":"user","content":"list files"},{"role":"assistant","content":[{"type":"thinking","thinking":"need","signature":"k"},{"type":"tool_use","id":"call_1","name":"Bash","input":{"command":"ls"}}]},{"role":"user","content":[{"type":"tool_result","tool_use_id":"call_1","content":"a.txt"}]}]})"},
      {"/v1/messages/count_tokens",
       R"({"model":"nano","messages":[{"role":"user","content":"list files"}]})"},
      {"/v1/responses",
       R"({"model":"nano","instructions":"Be short.","reasoning":{"effort":"high","summary":"auto"},"include":["reasoning.encrypted_content"],"tools":[{"type":"function","name":"exec","parameters":{"type":"object"}},{"type":"custom","name":"patch"},{"type":"namespace","name":"m","tools":[{"type":"function","name":"spawn","parameters":{}}]}],"input":[{"type":"message","role":"user","content":[{"type":"input_text","text":"list files"}]},{"type":"function_call","name":"exec","arguments":"{}","call_id":"c"},{"type":"function_call_output","call_id":"c","output":"a.txt"}]})"},
      {"/v1/completions",
       R"({"model":"nano","prompt":"The quick brown fox jumps over the lazy dog.","max_tokens":4,"logprobs":2,"stop":"x"})"},
      {"/v1/completions",
       R"({"model":"nano","prompt":[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17],"max_tokens":4})"},
      {"/beta/completions",
       R"({"model":"nano","prompt":"int main() { return the value of it","suffix":"}","max_tokens":4})"},
      {"/tokenize", R"({"content":"Hello, world!","add_special":true,"parse_special":false})"},
      {"/detokenize", R"({"tokens":[1,2,3,400]})"},
      {"/v1/sessions/fork", R"({"id":"a","new_id":"b","at_tokens":12})"},
      {"/v1/sessions/save", R"({"id_prefix":"zz"})"},
      {"/v1/sessions/delete", R"({"messages":[{"role":"user","content":"x"}]})"},
  };
}

std::vector<std::string> http_seeds(int port) {
  std::vector<std::string> seeds;
  for (const auto& cases : {smuggling_cases(), chunk_cases(), head_cases()}) {
    for (const MalformedCase& c : cases) seeds.push_back(c.bytes);
  }
  std::string host = "Host: localhost\r\n";
  seeds.push_back("GET /health HTTP/1.1\r\n" + host + "\r\n");
  seeds.push_back("GET /v1/models HTTP/1.1\r\n" + host + "Authorization: Bearer kv-x\r\nAccept: */*\r\n\r\n");
  seeds.push_back(
      "POST /tokenize HTTP/1.1\r\n" + host +
      "Transfer-Encoding: chunked\r\n\r\n8;a=b\r\n{\"text\":\r\n5\r\n\"abc\"\r\n1\r\n}\r\n0\r\n\r\n");
  seeds.push_back("POST /tokenize HTTP/1.1\r\n" + host +
                  "Expect: 100-continue\r\nContent-Length: 12\r\n\r\n{\"text\":\"a\"}");
  seeds.push_back("DELETE /v1/sessions/abc HTTP/1.1\r\n" + host + "Connection: close\r\n\r\n");
  for (const Seed& s : json_seeds()) seeds.push_back(http_request(port, "POST", s.path, s.body));
  return seeds;
}

Json strange_value(std::mt19937& random) {
  switch (random() % 14) {
    case 0:
      return nullptr;
    case 1:
      return -1;
    case 2:
      return 18446744073709551615u;
    case 3:
      return 1e308;
    case 4:
      return true;
    case 5:
      return "";
    case 6:
      return std::string(random() % 3000, 'A');
    case 7:
      return Json::array();
    case 8:
      return Json::object();
    case 9:
      return Json::array({Json::array({Json::array({1})}), Json{{"type", "text"}}});
    case 10:
      return Json{{"type", "image"}, {"source", 5}};
    case 11:
      return 0.5;
    case 12:
      return std::string("\0<\xef\xbd\x9cUser\xef\xbd\x9c>\x1b[2J", 18);
    default: {
      Json deep = 1;
      for (unsigned i = random() % 200; i > 0; --i) deep = Json::array({std::move(deep)});
      return deep;
    }
  }
}

// Well-formed JSON whose values are not what the fields expect.
Json misused(Json value, std::mt19937& random) {
  for (int count = 1 + static_cast<int>(random() % 3); count > 0; --count) {
    Json* at = &value;
    for (int depth = 1 + static_cast<int>(random() % 8); depth > 0 && at->is_structured() && !at->empty();
         --depth) {
      auto next = at->begin();
      std::advance(next, static_cast<ptrdiff_t>(random() % at->size()));
      at = &*next;
    }
    if (random() % 6 == 0 && at->is_object())
      (*at)[std::string(1 + random() % 5, 'z')] = strange_value(random);
    else
      *at = strange_value(random);
  }
  return value;
}

class Flood {
 public:
  Flood(const Options& options, int port)
      : options_(options), port_(port), http_(http_seeds(port)), json_(json_seeds()) {}

  void client(unsigned seed) {
    std::mt19937 random(seed);
    std::unique_ptr<Connection> kept;
    auto end = Clock::now() + std::chrono::seconds(options_.seconds);
    while (Clock::now() < end && !failed_) {
      if (sent_.fetch_add(1) >= options_.requests) {
        --sent_;
        return;
      }
      if (random() % 2 == 0)
        bad_http(random);
      else
        bad_json(random, kept);
    }
  }
  void fail(const std::string& what) {
    std::lock_guard lock(mutex_);
    if (!failed_.exchange(true)) failure_ = what;
  }

  std::string counts() const {
    std::ostringstream text;
    text << sent_ << " requests: " << http_sent_ << " of damaged HTTP, " << json_sent_
         << " of damaged JSON; answers:";
    for (const auto& [status, count] : statuses_) text << ' ' << status << ": " << count;
    text << "; closed without an answer: " << closed_ << "; " << still_good_ << " were still requests";
    return text.str();
  }
  const std::string& failure() const { return failure_; }
  int64_t sent() const { return sent_; }

 private:
  void count(int status) {
    std::lock_guard lock(mutex_);
    ++statuses_[status];
  }
  static bool refusal(int status) { return status >= 400 && status < 500; }

  void bad_http(std::mt19937& random) {
    ++http_sent_;
    const std::string& seed = http_[random() % http_.size()];
    std::string bytes =
        random() % 16 == 0 ? seed : damaged(seed, random, std::string_view("\r\n\0 :;,\t/ahx09\xff\x7f", 16));
    Connection connection(port_);
    if (!connection.connected()) return fail("cannot connect");
    connection.send(bytes);
    shutdown(connection.fd(), SHUT_WR);
    if (!connection.read_to_end(30s)) return fail("no end for: " + bytes);
    const std::string& input = connection.input();
    if (input.empty())
      ++closed_;
    else if (!input.starts_with("HTTP/1.1 "))
      fail("not HTTP: " + input + " for " + bytes);
    // A damaged request may hold several whole ones; each answer counts, bodies never begin a line like this.
    for (size_t at = 0; (at = input.find("HTTP/1.1 ", at)) != std::string::npos; at += 9) {
      if (at > 0 && input[at - 1] != '\n' && input[at - 1] != '}') continue;
      int status = std::atoi(input.c_str() + at + 9);
      if (status == 100) continue;
      count(status);
      if (status == 200)
        ++still_good_;
      else if (!refusal(status))
        fail("status " + std::to_string(status) + " for: " + bytes);
    }
    connection.reset();
  }

  void bad_json(std::mt19937& random, std::unique_ptr<Connection>& kept) {
    ++json_sent_;
    const Seed& seed = json_[random() % json_.size()];
    std::string body;
    bool well_formed = random() % 4 == 0;
    if (well_formed) {
      body = misused(Json::parse(seed.body), random).dump();
    } else {
      do {
        body = damaged(seed.body, random, "{}[]\",:\\ 019.eE-+tfnul\x01\x80\xc3");
      } while (Json::accept(body));
    }
    if (!kept || random() % 100 == 0) kept = std::make_unique<Connection>(port_);
    if (!kept->connected()) return fail("cannot connect");
    bool sent = kept->send(http_request(port_, "POST", seed.path, body));
    Answer answer = sent ? kept->read_answer(30s) : Answer{};
    if (answer.status == 0) return fail("no answer at " + seed.path + " to: " + body);
    count(answer.status);
    if (answer.status == 200 && well_formed)
      ++still_good_;
    else if (!refusal(answer.status))
      fail("status " + std::to_string(answer.status) + " at " + seed.path + " for: " + body);
    if (answer.status != 200 && !answer.json().contains("error"))
      fail("a refusal without an error: " + answer.body);
    if (answer.head.find("Connection: close") != std::string::npos) kept.reset();
  }

  Options options_;
  int port_;
  std::vector<std::string> http_;
  std::vector<Seed> json_;
  std::atomic<int64_t> sent_{0}, http_sent_{0}, json_sent_{0}, closed_{0}, still_good_{0};
  std::atomic<bool> failed_{false};
  std::mutex mutex_;
  std::map<int, int64_t> statuses_;  // guarded by mutex_
  std::string failure_;              // guarded by mutex_
};

int run(const Options& options) {
  // Few and short tokens; a server with a sanitizer takes a while to start.
  ChildServer server({options.binary,
                      {"--disk-cache", "off", "--context", "8", "--log-level", "error", "--threads", "1"},
                      options.log,
                      0,
                      false});
  if (!server.wait_ready(60s)) {
    std::fprintf(stderr, "serve_malformed: the server does not start\n");
    return 1;
  }
  Flood flood(options, server.port());
  auto begin = Clock::now();
  std::atomic<bool> over{false};
  int64_t first = 0, last = 0;
  std::thread watch([&] {
    for (int i = 0; !over; ++i) {
      if (i % 50 == 0) {
        last = server.resident_bytes();
        if (first == 0 && flood.sent() > options.requests / 10) first = last;
        Answer health = ask(server.port(), "GET", "/health");
        if (health.status != 200) flood.fail("/health: " + std::to_string(health.status) + " " + health.body);
      }
      std::this_thread::sleep_for(100ms);
    }
  });
  std::vector<std::thread> clients;
  for (int i = 0; i < options.clients; ++i)
    clients.emplace_back([&, i] { flood.client(options.seed * 1000 + static_cast<unsigned>(i)); });
  for (std::thread& client : clients) client.join();
  over = true;
  watch.join();
  double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  if (ask(server.port(), "GET", "/health").status != 200) flood.fail("/health does not answer at the end");
  server.signal(SIGTERM);
  ExitStatus ended = server.wait(60s);
  if (!ended.exited || ended.code != 0)
    flood.fail("ended with code " + std::to_string(ended.code) + ", signal " + std::to_string(ended.signal));
  std::ifstream log(options.log);
  std::string said{std::istreambuf_iterator<char>(log), {}};
  for (const char* sign : {"Sanitizer", "runtime error"}) {
    if (said.find(sign) != std::string::npos) flood.fail("a sanitizer's report in " + options.log);
  }
  std::printf("%s; %.0f s; resident %.1f MB after a tenth, %.1f MB at the end\n", flood.counts().c_str(),
              seconds, static_cast<double>(first) / 1e6, static_cast<double>(last) / 1e6);
  if (flood.failure().empty()) return 0;
  std::fprintf(stderr, "serve_malformed: %s\n", flood.failure().c_str());
  return 1;
}

int parse_and_run(int argc, char** argv) {
  Options options;
  options.log =
      (std::filesystem::temp_directory_path() / ("kvasir-malformed-" + std::to_string(getpid()) + ".log"))
          .string();
  for (int i = 1; i + 1 < argc; i += 2) {
    std::string name = argv[i], value = argv[i + 1];
    if (name == "--binary")
      options.binary = value;
    else if (name == "--requests")
      options.requests = std::atoll(value.c_str());
    else if (name == "--seconds")
      options.seconds = std::atoi(value.c_str());
    else if (name == "--clients")
      options.clients = std::atoi(value.c_str());
    else if (name == "--seed")
      options.seed = static_cast<unsigned>(std::atoi(value.c_str()));
    else if (name == "--log")
      options.log = value;
  }
  if (options.binary.empty() || argc % 2 == 0) {
    std::fprintf(stderr,
                 "usage: serve_malformed --binary KVASIR [--requests N] [--seconds N] [--clients N] [--seed "
                 "N] [--log FILE]\n");
    return 2;
  }
  int code = run(options);
  if (code == 0) std::filesystem::remove(options.log);
  return code;
}

}  // namespace
}  // namespace kvasir

int main(int argc, char** argv) { return kvasir::parse_and_run(argc, argv); }
