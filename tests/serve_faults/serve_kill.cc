// Kills the server, again and again, while it answers, and looks at what it left on disk.
//
//   serve_kill --binary KVASIR [--cycles N] [--conversations N] [--seed N] [--folder DIR]
//
// Clients ask known prompts (conversations.h), save sessions, fork and delete them, hang up in the middle; at
// a random moment, which may be before it is ready, the server gets SIGKILL and a new one is started on the
// same folder. Then:
//   - it starts;
//   - every answer, before and after, has the text and the log probabilities of the server without a cache;
//   - a prompt whose session was saved (answered 200) hits all its full pages, and the session is listed;
//   - a session whose deletion was answered 200 is not listed.
// Every kCyclesOfFolder cycles the folder is new; every fourth one is too small for all prompts and the
// memory is too, so that the server is killed while it evicts and rewrites: there nothing is promised to
// stay. Exit code 0 and one line of counts, or 1 and what was wrong (the folder stays).
#include <signal.h>
#include <sys/resource.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <mutex>
#include <random>
#include <set>
#include <thread>

#include "serve_faults/conversations.h"

namespace kvasir {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

constexpr int kClients = 4;
constexpr int kCyclesOfFolder = 25;

struct Options {
  std::string binary, folder;
  int cycles = 15, conversations = 8;
  unsigned seed = 1;
};

struct Counts {
  std::atomic<int64_t> answers{0}, hits{0}, disk_answers{0}, cut_off{0}, saved{0}, refused_saves{0}, forks{0},
      deleted{0}, hung_up{0};
  int64_t kills = 0, early_kills = 0, checked = 0, listed = 0, corrupt = 0, disk_errors = 0;
};

class KillTest {
 public:
  explicit KillTest(const Options& options)
      : options_(options),
        random_(options.seed),
        known_({options.binary,
                {"--disk-cache", "off", "--numerics", "native", "--log-level", "error"},
                "",
                0,
                false},
               options.conversations, options.seed) {}

  int run();

 private:
  ChildServer::Start start() const;
  void new_folder();
  void cycle();
  void load(int port, int client, unsigned seed);
  void save(int port, const std::string& id, std::mt19937& random);
  void check_stored(int port);
  void check_prompt(int port, const KnownPrompt& prompt, bool must_hit);
  void fail(const std::string& what);
  bool failed() {
    std::lock_guard lock(mutex_);
    return !failure_.empty();
  }

  Options options_;
  std::mt19937 random_;
  Conversations known_;
  Counts counts_;
  std::string cache_;
  int folders_ = 0;
  bool tight_ = false;
  std::atomic<bool> killed_{false};
  std::mutex mutex_;
  // Guarded by mutex_ while clients run.
  std::string failure_;
  std::map<std::string, int64_t> stored_;  // ids of saved sessions; tokens, 0 if they are not known
  std::set<std::string> fresh_, deleted_;  // stored since the last check; deleted for good
  int forks_ = 0;
};

void KillTest::fail(const std::string& what) {
  std::lock_guard lock(mutex_);
  if (failure_.empty()) failure_ = what;
}

ChildServer::Start KillTest::start() const {
  ChildServer::Start start{options_.binary,
                           {"--cache-dir", cache_, "--numerics", "native", "--log-level", "warning"},
                           options_.folder + "/server.log",
                           0,
                           false};
  if (tight_)
    start.arguments.insert(start.arguments.end(), {"--cache-disk", "2MiB", "--memory", "4MiB",
                                                   "--snapshot-memory", "2MiB", "--context", "8192"});
  return start;
}

void KillTest::new_folder() {
  if (!cache_.empty()) std::filesystem::remove_all(cache_);
  cache_ = options_.folder + "/cache-" + std::to_string(++folders_);
  tight_ = folders_ % 4 == 0;
  stored_.clear();
  fresh_.clear();
  deleted_.clear();
}

void KillTest::save(int port, const std::string& id, std::mt19937& random) {
  {
    std::lock_guard lock(mutex_);
    deleted_.erase(id);  // it may be stored from here on, acknowledged or not
  }
  Answer answer = post(port, "/v1/sessions/save", {{"id", id}});
  if (answer.status == 200) {
    std::lock_guard lock(mutex_);
    stored_[id] = answer.json()["data"][0]["tokens"];
    fresh_.insert(id);
    ++counts_.saved;
  } else if (answer.status != 0) {
    // On a folder that is too small a session may not fit, and elsewhere its beginning may have been deleted
    // with another session while it was computed: a refusal is honest.
    if (++counts_.refused_saves <= 5) std::printf("refused: %s\n", answer.body.c_str());
    if (!tight_ && answer.status != 404) fail("save " + id + ": " + answer.body);
    return;
  }
  if (answer.status != 200 || id.starts_with("fork") || random() % 4 != 0) return;
  std::string fork;
  {
    std::lock_guard lock(mutex_);
    fork = "fork-" + std::to_string(++forks_);
  }
  Answer forked =
      post(port, "/v1/sessions/fork", {{"id", id}, {"new_id", fork}, {"at_tokens", 130 + random() % 150}});
  if (forked.status == 200) {
    ++counts_.forks;
    save(port, fork, random);
  } else if (forked.status != 0) {
    fail("fork of " + id + ": " + forked.body);
  }
}

// One client: its own share of the prompts, until the server is gone.
void KillTest::load(int port, int client, unsigned seed) {
  std::mt19937 random(seed);
  const auto& prompts = known_.prompts();
  while (!killed_) {
    const KnownPrompt& prompt = prompts[random() % prompts.size()];
    if (prompt.conversation % kClients != client) continue;
    if (random() % 8 == 0) {  // hangs up somewhere in the stream
      Json request = prompt.request;
      request["stream"] = true;
      Connection connection(port);
      connection.send(http_request(port, "POST", "/v1/chat/completions", request.dump()));
      connection.read_more(std::chrono::milliseconds(random() % 30));
      connection.reset();
      ++counts_.hung_up;
      continue;
    }
    Answer answer = post(port, "/v1/chat/completions", prompt.request);
    if (answer.status == 0) {
      if (!killed_) std::this_thread::sleep_for(1ms);
      ++counts_.cut_off;
      continue;
    }
    if (answer.status != 200)
      return fail(prompt.session + ": status " + std::to_string(answer.status) + " " + answer.body);
    ++counts_.answers;
    if (Conversations::hit_tokens(answer) > 0) ++counts_.hits;
    if (answer.body.find(R"("tier":"disk")") != std::string::npos) ++counts_.disk_answers;
    if (std::string wrong = Conversations::difference(prompt, answer); !wrong.empty()) return fail(wrong);
    if (random() % 3 == 0) save(port, prompt.session, random);
    if (random() % 24 == 0) {
      {
        std::lock_guard lock(mutex_);
        stored_.erase(prompt.session);
        fresh_.erase(prompt.session);
      }
      Answer gone = ask(port, "DELETE", "/v1/sessions/" + prompt.session);
      if (gone.status != 200) continue;
      ++counts_.deleted;
      std::lock_guard lock(mutex_);
      deleted_.insert(prompt.session);
    }
  }
}

void KillTest::check_prompt(int port, const KnownPrompt& prompt, bool must_hit) {
  Answer answer = post(port, "/v1/chat/completions", prompt.request);
  if (answer.status != 200)
    return fail("after the restart, " + prompt.session + ": status " + std::to_string(answer.status) + " " +
                answer.body);
  if (std::string wrong = Conversations::difference(prompt, answer); !wrong.empty())
    return fail("after the restart, " + wrong);
  ++counts_.checked;
  int64_t wanted = (prompt.tokens - 1) / 128 * 128, hit = Conversations::hit_tokens(answer);
  if (must_hit && hit < wanted)
    fail("lost: " + prompt.session + " was saved; its prompt has " + std::to_string(prompt.tokens) +
         " tokens and hits " + std::to_string(hit));
}

// What was promised before the kill is there. No clients run.
void KillTest::check_stored(int port) {
  Answer list = ask(port, "GET", "/v1/sessions");
  if (list.status != 200) return fail("GET /v1/sessions: " + list.body);
  std::map<std::string, int64_t> listed;
  Json sessions = list.json();
  for (const Json& session : sessions["data"]) listed[session["id"]] = session["tokens"];
  if (!tight_) {
    for (const auto& [id, tokens] : stored_) {
      ++counts_.listed;
      if (!listed.contains(id)) return fail("lost: session " + id + " was saved and is not listed");
      if (listed[id] != tokens)
        return fail("session " + id + " was saved with " + std::to_string(tokens) + " tokens, listed with " +
                    std::to_string(listed[id]));
    }
  }
  for (const std::string& id : deleted_) {
    if (listed.contains(id)) return fail("session " + id + " was deleted and is back");
  }
  const auto& prompts = known_.prompts();
  for (const KnownPrompt& prompt : prompts) {
    if (fresh_.contains(prompt.session) && !failed()) check_prompt(port, prompt, !tight_);
  }
  fresh_.clear();
  for (int i = 0; i < 2 && !failed(); ++i) {
    const KnownPrompt& prompt = prompts[random_() % prompts.size()];
    check_prompt(port, prompt, !tight_ && stored_.contains(prompt.session));
  }
}

void KillTest::cycle() {
  ChildServer server(start());
  if (random_() % 10 == 0) {  // before or just after it is ready
    std::this_thread::sleep_for(std::chrono::microseconds(random_() % 80000));
    server.kill_now();
    ++counts_.early_kills;
    return;
  }
  if (!server.wait_ready()) {
    ExitStatus ended = server.wait(0ms);
    return fail("does not start: exit code " + std::to_string(ended.code) + ", signal " +
                std::to_string(ended.signal));
  }
  check_stored(server.port());
  if (failed()) return;
  killed_ = false;
  std::vector<std::thread> clients;
  for (int c = 0; c < kClients; ++c) {
    unsigned seed = random_();
    clients.emplace_back([this, c, seed, port = server.port()] { load(port, c, seed); });
  }
  unsigned longest = random_() % 5 == 0 ? 1500000 : 500000;
  std::this_thread::sleep_for(std::chrono::microseconds(20000 + random_() % longest));
  counts_.corrupt +=
      static_cast<int64_t>(metric(server.port(), "kvasir_cache_events_total{event=\"corrupt_record\"}"));
  counts_.disk_errors +=
      static_cast<int64_t>(metric(server.port(), "kvasir_cache_events_total{event=\"disk_error\"}"));
  std::this_thread::sleep_for(std::chrono::microseconds(random_() % 20000));
  if (ExitStatus ended = server.wait(0ms); ended.exited || ended.signal != 0)
    fail("ended by itself: exit code " + std::to_string(ended.code) + ", signal " +
         std::to_string(ended.signal));
  killed_ = true;
  server.kill_now();
  ++counts_.kills;
  for (std::thread& client : clients) client.join();
}

int KillTest::run() {
  if (!known_.error().empty()) {
    std::fprintf(stderr, "serve_kill: %s\n", known_.error().c_str());
    return 1;
  }
  std::printf("%zu prompts with known answers\n", known_.prompts().size());
  auto begin = Clock::now();
  int64_t done = 0;
  for (; done < options_.cycles && !failed(); ++done) {
    if (done % kCyclesOfFolder == 0) new_folder();
    cycle();
    if (done % kCyclesOfFolder == kCyclesOfFolder - 1 || done + 1 == options_.cycles || failed()) {
      auto& c = counts_;
      std::printf(
          "%lld cycles, %.0f s: %lld kills under load, %lld at start; %lld answers (%lld hits, %lld from "
          "disk), %lld cut off, %lld hung up; "
          "%lld saves, %lld refused, %lld forks, %lld deletions; after restarts %lld prompts and %lld "
          "sessions checked; "
          "%lld corrupt records, %lld disk errors\n",
          static_cast<long long>(done + 1), std::chrono::duration<double>(Clock::now() - begin).count(),
          static_cast<long long>(c.kills), static_cast<long long>(c.early_kills),
          static_cast<long long>(c.answers), static_cast<long long>(c.hits),
          static_cast<long long>(c.disk_answers), static_cast<long long>(c.cut_off),
          static_cast<long long>(c.hung_up), static_cast<long long>(c.saved),
          static_cast<long long>(c.refused_saves), static_cast<long long>(c.forks),
          static_cast<long long>(c.deleted), static_cast<long long>(c.checked),
          static_cast<long long>(c.listed), static_cast<long long>(c.corrupt),
          static_cast<long long>(c.disk_errors));
      std::fflush(stdout);
    }
  }
  if (!failed()) return 0;
  std::fprintf(stderr, "serve_kill: cycle %lld, folder %s: %s\n", static_cast<long long>(done),
               cache_.c_str(), failure_.c_str());
  return 1;
}

int parse_and_run(int argc, char** argv) {
  Options options;
  bool own_folder = false;
  for (int i = 1; i + 1 < argc; i += 2) {
    std::string name = argv[i], value = argv[i + 1];
    if (name == "--binary")
      options.binary = value;
    else if (name == "--cycles")
      options.cycles = std::atoi(value.c_str());
    else if (name == "--conversations")
      options.conversations = std::atoi(value.c_str());
    else if (name == "--seed")
      options.seed = static_cast<unsigned>(std::atoi(value.c_str()));
    else if (name == "--folder")
      options.folder = value;
  }
  if (options.binary.empty() || argc % 2 == 0) {
    std::fprintf(
        stderr,
        "usage: serve_kill --binary KVASIR [--cycles N] [--conversations N] [--seed N] [--folder DIR]\n");
    return 2;
  }
  if (options.folder.empty()) {
    std::string name = (std::filesystem::temp_directory_path() / "kvasir-kill-XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) return 1;
    options.folder = name;
    own_folder = true;
  }
  std::filesystem::create_directories(options.folder);
  int code = KillTest(options).run();
  if (code == 0 && own_folder) std::filesystem::remove_all(options.folder);
  return code;
}

}  // namespace
}  // namespace kvasir

int main(int argc, char** argv) { return kvasir::parse_and_run(argc, argv); }
