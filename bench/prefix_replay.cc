// prefix_replay: how many tokens a prefix cache makes agents compute, against one that never forgets.
//
//   prefix_replay [--agents N] [--steps N] [--memory-share F] [--disk-mb N] [--one-offs F] [--no-disk]
//   [--seed N]
//
// The trace: agents share a few system prompts and run tool loops, interleaved at random; each step's prompt
// is the one before, the sampled answer, and a tool result; now and then an agent forks from one of its
// earlier steps, and requests that come once pass through. Pages are opaque bytes of 2 KB for 128 tokens and
// snapshots 4 KB: no model is needed, only the decisions count. A request computes what lies behind the
// longest point that it can resume at. The same trace goes through the cache under test, with memory for a
// share of all pages, and through one with memory for everything; the figure is how many more tokens the
// first one computes. Without disk the memory policy is seen alone.
#include <charconv>
#include <cstdio>
#include <filesystem>
#include <random>
#include <string>

#include "cache/block_table.h"
#include "cache/disk_store.h"
#include "cache/prefix_cache.h"

namespace kvasir {
namespace {

constexpr int64_t kSpanTokens = 128, kPageBytes = 2048, kStateBytes = 4096;

using Tokens = std::vector<int32_t>;

struct Request {
  Tokens prompt;
  int64_t system = 0;  // a resume point
  Tokens answer;
  bool one_off = false;
};

struct Options {
  int64_t agents = 100, steps = 30, disk_mb = 4096;
  double memory_share = 0.1, one_offs = 0.1;
  bool disk = true;
  uint32_t seed = 1;
};

class Trace {
 public:
  explicit Trace(const Options& o) : options_(o), random_(o.seed) {
    for (int i = 0; i < 4; ++i) systems_.push_back(tokens(1500 + 700 * i));
    agents_.resize(o.agents);
    for (auto& a : agents_) {
      a.system = random_() % systems_.size();
      a.history = systems_[a.system];
      extend(a.history, tokens(200 + random_() % 1500));  // the task
      a.left = o.steps;
    }
  }

  bool next(Request& r) {
    if (chance(options_.one_offs)) {
      r = {systems_[random_() % systems_.size()], 0, tokens(60), true};
      r.system = std::ssize(r.prompt);
      if (chance(0.5)) r.prompt = tokens(100), r.system = 0;
      extend(r.prompt, tokens(200 + random_() % 3000));
      return true;
    }
    std::vector<Agent*> alive;
    for (auto& a : agents_) {
      if (a.left > 0) alive.push_back(&a);
    }
    if (alive.empty()) return false;
    Agent& a = *alive[random_() % alive.size()];
    if (a.steps.size() > 2 && chance(0.08)) {  // back to an earlier step, and another way from there
      a.history = a.steps[random_() % a.steps.size()];
      extend(a.history, tokens(20 + random_() % 200));
    }
    r = {a.history, std::ssize(systems_[a.system]), tokens(40 + random_() % 400), false};
    a.steps.push_back(r.prompt);
    extend(a.history, r.answer);
    extend(a.history, tokens(50 + random_() % 1200));  // the tool's result
    --a.left;
    return true;
  }

 private:
  struct Agent {
    size_t system = 0;
    Tokens history;
    std::vector<Tokens> steps;
    int64_t left = 0;
  };
  Tokens tokens(int64_t count) {
    Tokens out(count);
    for (int32_t& t : out) t = static_cast<int32_t>(random_() % 129280);
    return out;
  }
  static void extend(Tokens& to, const Tokens& more) { to.insert(to.end(), more.begin(), more.end()); }
  bool chance(double p) { return std::uniform_real_distribution<>(0, 1)(random_) < p; }

  Options options_;
  std::mt19937 random_;
  std::vector<Tokens> systems_;
  std::vector<Agent> agents_;
};

struct Totals {
  int64_t prompt = 0, computed = 0, from_disk = 0, agent_prompt = 0, agent_computed = 0;
};

// What an engine does with a request, without the model.
void serve(PrefixCache& cache, PagePool& pool, DiskStore* disk, const Request& r, Totals& totals) {
  auto n = std::ssize(r.prompt);
  auto match = cache.lookup({0, r.prompt}, n - 1);
  int64_t from = match.points.empty() ? 0 : match.points.back().length;
  BlockTable table(pool);
  if (from > 0) {
    auto restore = cache.restore({0, r.prompt}, from / kSpanTokens * kSpanTokens, from);
    KVASIR_CHECK(restore, "no room to restore");
    while (!(*restore)->done()) (*restore)->wait_section(0);
    if ((*restore)->snapshot() == nullptr || (*restore)->page_tokens() < from / kSpanTokens * kSpanTokens)
      from = 0;
    if ((*restore)->tier() == CacheTier::kDisk) totals.from_disk += from;
    if (from > 0) {
      for (PageId page : (*restore)->take_pages()) table.adopt(page);
    }
  }
  totals.prompt += n;
  totals.computed += n - from;
  if (!r.one_off) {
    totals.agent_prompt += n;
    totals.agent_computed += n - from;
  }
  Tokens all = r.prompt;
  all.insert(all.end(), r.answer.begin(), r.answer.end());
  int64_t pages = std::ssize(all) / kSpanTokens, had = table.size();
  KVASIR_CHECK(cache.make_room(pages - had) && table.grow(pages), "no room to compute");
  cache.publish({0, all}, had, table.ids().subspan(had));
  auto snapshot = [&](int64_t length, SnapshotUse use) {
    if (length > from)
      cache.put_snapshot({0, std::span(all).first(length)}, std::vector<std::byte>(kStateBytes), use);
  };
  snapshot(r.system, SnapshotUse::kSystem);
  snapshot(match.branch_length, SnapshotUse::kBranch);
  snapshot(n - 1, SnapshotUse::kPromptEnd);
  snapshot(std::ssize(all), SnapshotUse::kOutputEnd);
  cache.write_behind({0, all});
  // A real step takes longer than the disk needs; here it must be waited for.
  if (disk != nullptr) disk->wait_event();
}

Totals replay(const Options& o, int64_t pages, int64_t snapshot_bytes, DiskStore* disk) {
  PagePool pool(kPageBytes, pages);
  PrefixCache cache(
      pool, disk,
      {.page_tokens = kSpanTokens, .section_bytes = {kPageBytes}, .snapshot_bytes = snapshot_bytes});
  Trace trace(o);
  Totals totals;
  for (Request r; trace.next(r);) serve(cache, pool, disk, r, totals);
  cache.audit();
  return totals;
}

int run(const Options& o) {
  // How many pages and snapshots there are in all.
  PagePool pool(kPageBytes, 1 << 22);
  PrefixCache infinite(
      pool, nullptr,
      {.page_tokens = kSpanTokens, .section_bytes = {kPageBytes}, .snapshot_bytes = int64_t{1} << 40});
  Trace trace(o);
  Totals ideal;
  int64_t requests = 0;
  for (Request r; trace.next(r); ++requests) serve(infinite, pool, nullptr, r, ideal);
  auto all = infinite.metrics();

  auto pages = static_cast<int64_t>(static_cast<double>(all.pages) * o.memory_share);
  auto snapshot_bytes = static_cast<int64_t>(static_cast<double>(all.snapshot_bytes) * o.memory_share);
  std::unique_ptr<DiskStore> disk;
  std::string folder;
  if (o.disk) {
    folder = (std::filesystem::temp_directory_path() / "kvasir-replay-XXXXXX").string();
    KVASIR_CHECK(mkdtemp(folder.data()) != nullptr, "no folder");
    DiskOptions d;
    d.folder = folder;
    d.max_bytes = o.disk_mb << 20;
    d.section_bytes = {kPageBytes};
    auto opened = DiskStore::open(d);
    KVASIR_CHECK(opened, "{}", opened.error().message);
    disk = std::move(*opened);
  }
  Totals got = replay(o, pages, snapshot_bytes, disk.get());
  std::printf("trace        %lld requests of %lld agents, %lld prompt tokens, %lld pages, seed %u\n",
              static_cast<long long>(requests), static_cast<long long>(o.agents),
              static_cast<long long>(ideal.prompt), static_cast<long long>(all.pages), o.seed);
  std::printf("memory       %lld pages (%.0f %%), disk %s\n", static_cast<long long>(pages),
              100 * o.memory_share, o.disk ? (std::to_string(o.disk_mb) + " MB").c_str() : "none");
  auto line = [](const char* what, int64_t ideal_tokens, int64_t tokens) {
    std::printf("%-12s computed %lld, an infinite cache %lld: %+.2f %%\n", what,
                static_cast<long long>(tokens), static_cast<long long>(ideal_tokens),
                100.0 * static_cast<double>(tokens - ideal_tokens) / static_cast<double>(ideal_tokens));
  };
  line("all", ideal.computed, got.computed);
  line("agents", ideal.agent_computed, got.agent_computed);
  std::printf("             %.1f %% of prompt tokens hit, %.1f %% from disk\n",
              100.0 * static_cast<double>(got.prompt - got.computed) / static_cast<double>(got.prompt),
              100.0 * static_cast<double>(got.from_disk) / static_cast<double>(got.prompt));
  if (disk) {
    DiskMetrics m = disk->metrics();
    double per_page = static_cast<double>(m.bytes - m.snapshots * kStateBytes) /
                      static_cast<double>(std::max<int64_t>(m.pages, 1));
    std::printf("disk         %lld pages, %lld snapshots, %.1f MB\n", static_cast<long long>(m.pages),
                static_cast<long long>(m.snapshots), static_cast<double>(m.bytes) / 1e6);
    std::printf("             %.0f B a page beside the snapshots' bytes, of which %lld are the page\n",
                per_page, static_cast<long long>(kPageBytes));
    disk.reset();
    std::filesystem::remove_all(folder);
  }
  return 0;
}

}  // namespace
}  // namespace kvasir

int main(int argc, char** argv) {
  kvasir::Options o;
  for (int i = 1; i < argc; ++i) {
    std::string_view flag = argv[i];
    if (flag == "--no-disk") {
      o.disk = false;
      continue;
    }
    if (i + 1 == argc) break;
    std::string value = argv[++i];
    if (flag == "--agents") o.agents = std::stoll(value);
    if (flag == "--steps") o.steps = std::stoll(value);
    if (flag == "--memory-share") o.memory_share = std::stod(value);
    if (flag == "--disk-mb") o.disk_mb = std::stoll(value);
    if (flag == "--one-offs") o.one_offs = std::stod(value);
    if (flag == "--seed") o.seed = static_cast<uint32_t>(std::stoul(value));
  }
  return kvasir::run(o);
}
