// restore_bench: what it gains to compute while the pages of a prefix are still being read from disk.
//
//   restore_bench [TOKENS] [NEW_TOKENS] [MB_PER_SECOND] [ROUNDS]
//
// A prompt of TOKENS is written to a folder once. Then, in turns, a new engine reads it back and computes
// NEW_TOKENS more: with each page's sections read one after the other, so that layers run as theirs arrive,
// and with all sections in one request, so that nothing runs before everything is there. A disk of
// MB_PER_SECOND is imitated by sleeping: the files themselves are in the page cache. Prints the time to the
// first token, the medians of both ways, one JSON object.
#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <mutex>
#include <thread>
#include <vector>

#include "backend/backend.h"
#include "bench/local_engine.h"
#include "cache/watched_files.h"
#include "engine/engine.h"
#include "model/load.h"

namespace kvasir {
namespace {

using Clock = std::chrono::steady_clock;

// A device that gives so many bytes a second, to all readers together.
class SlowDevice {
 public:
  explicit SlowDevice(double bytes_per_second) : rate_(bytes_per_second) {}

  // Returns when it would have given the bytes.
  void pass(std::span<const iovec> parts) {
    double bytes = 0;
    for (const iovec& part : parts) bytes += static_cast<double>(part.iov_len);
    Clock::time_point until;
    {
      std::lock_guard lock(mutex_);
      free_ = std::max(free_, Clock::now()) +
              std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(bytes / rate_));
      until = free_;
    }
    std::this_thread::sleep_until(until);
  }

 private:
  double rate_;
  std::mutex mutex_;
  Clock::time_point free_{};  // when the device has done what was asked so far; guarded by mutex_
};

struct First {
  double seconds = 0;
  CacheHit hit;
};

First first_token(Engine& engine, std::vector<int32_t> prompt) {
  Bell bell;
  First first;
  Request request;
  request.prompt = std::move(prompt);
  request.max_tokens = 1;
  request.sampling.temperature = 0;
  auto begin = Clock::now();
  auto stream = value_of(engine.submit(std::move(request)));
  stream->set_notify([&] { bell.ring(); });
  for (;;) {
    bell.wait();
    StreamEvent event;
    while (stream->try_next(event)) {
      if (event.kind == StreamEvent::Kind::kAdmitted) first.hit = event.hit;
      if (event.kind == StreamEvent::Kind::kToken)
        first.seconds = std::chrono::duration<double>(Clock::now() - begin).count();
      if (event.kind == StreamEvent::Kind::kEnd) return first;
    }
  }
}

std::unique_ptr<Engine> engine_on(const Model& model, const std::string& folder, WatchedFiles& files,
                                  int64_t request_bytes) {
  DiskOptions disk;
  disk.folder = folder;
  disk.files = &files;
  disk.request_bytes = request_bytes;
  Engine::describe_pages(model, Numerics::kFast, disk);
  EngineOptions options;
  options.disk = value_of(DiskStore::open(std::move(disk)));
  auto ops = value_of(make_ops({BackendKind::kCpu, Numerics::kFast, {}, 0}));
  return value_of(Engine::make(model, std::move(ops), std::move(options)));
}

double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v[v.size() / 2];
}

int run(int argc, char** argv) {
  auto number = [&](int i, int64_t otherwise) { return argc > i ? std::atoll(argv[i]) : otherwise; };
  int64_t tokens = number(1, 131109), more = number(2, 512), megabytes = number(3, 200),
          rounds = number(4, 7);
  LoadedModel loaded = value_of(load_checkpoint(KVASIR_SOURCE_DIR "/models/nano", {}));
  std::string folder =
      (std::filesystem::temp_directory_path() / fmt::format("restore_bench-{}", ::getpid())).string();
  SlowDevice device(1e6 * static_cast<double>(megabytes));
  WatchedFiles files;
  std::vector<int32_t> prompt(static_cast<size_t>(tokens));
  for (int64_t i = 0; i < tokens; ++i)
    prompt[static_cast<size_t>(i)] = static_cast<int32_t>(300 + (i * i + 3 * i) % 5000);
  first_token(*engine_on(loaded.model, folder, files, 1), prompt);

  std::vector<double> seconds[2], waited[2];
  int64_t early[2] = {0, 0}, hit_tokens = 0;
  for (int64_t round = 0; round < rounds; ++round) {
    for (int way : {0, 1}) {
      files.before_read = nullptr;
      auto engine = engine_on(loaded.model, folder, files, way == 0 ? int64_t{1} << 40 : int64_t{1} << 18);
      files.before_read = [&](int, std::span<const iovec> parts) { device.pass(parts); };
      std::vector<int32_t> next = prompt;
      for (int64_t i = 0; i < more; ++i)
        next.push_back(static_cast<int32_t>(400 + (i * 7 + round * 13 + way) % 5000));
      First first = first_token(*engine, std::move(next));
      engine->call([](PrefixCache&) {});
      seconds[way].push_back(first.seconds);
      waited[way].push_back(first.hit.restore_ms / 1000);
      early[way] += engine->metrics().early_starts;
      hit_tokens = first.hit.hit_tokens;
    }
  }
  std::filesystem::remove_all(folder);
  fmt::print(R"({{"tokens":{},"new_tokens":{},"hit_tokens":{},"mb_per_s":{},"rounds":{},)"
             R"("all_at_once":{{"first_token_s":{:.4f},"waited_s":{:.4f},"early_starts":{}}},)"
             R"("by_section":{{"first_token_s":{:.4f},"waited_s":{:.4f},"early_starts":{}}}}})"
             "\n",
             tokens, more, hit_tokens, megabytes, rounds, median(seconds[0]), median(waited[0]), early[0],
             median(seconds[1]), median(waited[1]), early[1]);
  return 0;
}

}  // namespace
}  // namespace kvasir

int main(int argc, char** argv) { return kvasir::run(argc, argv); }
