// Kills a process that writes to the disk tier, again and again, and looks at what it left.
//
//   cache_crash [--rounds N] [--folder DIR] [--seed N]      default: 40 rounds in a new folder under $TMPDIR
//
// The child runs prompts through a PrefixCache over a DiskStore and prints the number of each prompt once
// save() has returned: acknowledged. The parent reads those numbers, kills it with SIGKILL at a random
// moment, opens the folder itself and checks that every acknowledged prompt is there, whole, byte for byte,
// and that whatever else is there is right. The folder goes on to the next round, so that a writer starts on
// what the killed one left. Exit code 0 and one line of counts; or 1 and what was wrong.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <charconv>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <map>
#include <random>
#include <set>
#include <thread>

#include "cache/block_table.h"
#include "cache/disk_store.h"
#include "cache/prefix_cache.h"

namespace kvasir {
namespace {

constexpr int64_t kSpanTokens = 128;
const std::vector<int64_t> kSections = {1024, 4096, 2048, 512};
constexpr int64_t kPageBytes = 7680;
constexpr int64_t kStateBytes = 5000;

constexpr uint32_t kOpened = ~0u;  // what the child says before its first prompt

// Prompt number n goes on from prompt n - n % 4, so that chains share pages.
std::vector<int32_t> prompt(uint32_t number) {
  std::vector<int32_t> tokens;
  auto add = [&](uint32_t seed, int64_t count) {
    std::mt19937 random(seed);
    for (int64_t i = 0; i < count; ++i) tokens.push_back(static_cast<int32_t>(random() % 129280));
  };
  add(number / 4 * 4, 300 + number / 4 % 5 * 128);
  if (number % 4 != 0) add(number, 200 + number % 7 * 128);
  return tokens;
}

void fill(std::byte* to, int64_t bytes, std::span<const int32_t> tokens) {
  uint64_t state = 1469598103934665603u;
  for (int32_t t : tokens) state = (state ^ static_cast<uint32_t>(t)) * 1099511628211u;
  for (int64_t i = 0; i < bytes; ++i) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    to[i] = static_cast<std::byte>(state >> 56);
  }
}

DiskOptions options_for(const std::string& folder) {
  DiskOptions o;
  o.folder = folder;
  o.max_bytes = int64_t{8} << 30;
  o.segment_bytes = 1 << 20;
  o.model = {.weights = {1, 2}, .numerics = 3, .layout = 4, .name = "crash test"};
  o.page_tokens = kSpanTokens;
  o.section_bytes = kSections;
  return o;
}

[[noreturn]] void fail(const std::string& what) {
  std::fprintf(stderr, "cache_crash: %s\n", what.c_str());
  std::_Exit(1);
}

[[noreturn]] void write_until_killed(const std::string& folder, uint32_t first, int out) {
  auto disk = DiskStore::open(options_for(folder));
  if (!disk) fail(disk.error().message);
  PagePool pool(kPageBytes, 400);
  PrefixCache cache(
      pool, disk->get(),
      {.page_tokens = kSpanTokens, .section_bytes = kSections, .snapshot_bytes = 20 * kStateBytes});
  if (write(out, &kOpened, sizeof kOpened) != sizeof kOpened) std::_Exit(0);
  for (uint32_t number = first;; ++number) {
    auto tokens = prompt(number);
    auto pages = std::ssize(tokens) / kSpanTokens;
    if (!cache.make_room(pages)) fail("no room");
    {
      BlockTable table(pool);
      if (!table.grow(pages)) fail("no pages");
      for (int64_t i = 0; i < pages; ++i)
        fill(table.addresses()[i], kPageBytes, std::span(tokens).first((i + 1) * kSpanTokens));
      cache.publish({0, tokens}, 0, table.ids());
    }
    std::vector<std::byte> state(kStateBytes);
    fill(state.data(), kStateBytes, tokens);
    cache.put_snapshot({0, tokens}, std::move(state), SnapshotUse::kOutputEnd);
    cache.write_behind({0, tokens});
    if (number % 3 != 0) continue;  // the others are written, and not acknowledged
    if (Status saved = cache.save({0, tokens}); !saved) fail(saved.error().message);
    if (write(out, &number, sizeof number) != sizeof number) std::_Exit(0);
  }
}

struct Counts {
  int64_t checked = 0, pages = 0, unacknowledged = 0, torn = 0;
};

// Everything of prompt `number` that the cache offers is right; `all` demands that it offers everything.
void check(PrefixCache& cache, PagePool& pool, uint32_t number, bool all, Counts& counts) {
  auto tokens = prompt(number);
  auto match = cache.lookup({0, tokens}, std::ssize(tokens));
  int64_t point = match.points.empty() ? 0 : match.points.back().length;
  int64_t full = std::ssize(tokens) / kSpanTokens * kSpanTokens;
  if (all && (match.page_tokens != full || point != std::ssize(tokens))) {
    fail("prompt " + std::to_string(number) + " was acknowledged: pages of " +
         std::to_string(match.page_tokens) + " of " + std::to_string(full) + " tokens and a snapshot at " +
         std::to_string(point) + " are there");
  }
  auto restore = cache.restore({0, tokens}, match.page_tokens, point);
  if (!restore) fail(restore.error().message);
  while (!(*restore)->done()) (*restore)->wait_section(static_cast<int>(kSections.size()) - 1);
  auto arrived = (*restore)->page_tokens();
  if (all && (arrived != full || (*restore)->snapshot() == nullptr))
    fail("prompt " + std::to_string(number) + " was acknowledged and is corrupt");
  auto pages = (*restore)->take_pages();
  std::vector<std::byte> expected(kPageBytes);
  for (int64_t i = 0; i < arrived / kSpanTokens; ++i) {
    fill(expected.data(), kPageBytes, std::span(tokens).first((i + 1) * kSpanTokens));
    if (std::memcmp(expected.data(), pool.address(pages[i]), kPageBytes) != 0)
      fail("prompt " + std::to_string(number) + ": wrong bytes in page " + std::to_string(i));
  }
  if (const auto* state = (*restore)->snapshot()) {
    expected.resize(kStateBytes);
    fill(expected.data(), kStateBytes, std::span(tokens).first(point));
    if (*state != expected) fail("prompt " + std::to_string(number) + ": wrong bytes in its snapshot");
  }
  for (PageId page : pages) pool.release(page);
  ++(all ? counts.checked : counts.unacknowledged);
  counts.pages += arrived / kSpanTokens;
}

int run(int rounds, const std::string& folder, uint32_t seed) {
  std::mt19937 random(seed);
  std::set<uint32_t> acknowledged;
  Counts counts;
  uint32_t first = 0;
  for (int round = 0; round < rounds; ++round) {
    int ends[2];
    if (pipe(ends) != 0) fail("no pipe");
    pid_t child = fork();
    if (child == 0) {
      close(ends[0]);
      write_until_killed(folder, first, ends[1]);
    }
    close(ends[1]);
    // One in five may die while it opens the folder, the others while they write.
    uint32_t number = 0, last = first;
    std::vector<uint32_t> fresh;
    if (random() % 5 != 0 && (read(ends[0], &number, sizeof number) != sizeof number || number != kOpened))
      fail("the writer did not open the folder");
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 60000));
    kill(child, SIGKILL);
    while (read(ends[0], &number, sizeof number) == sizeof number) {
      if (number != kOpened) fresh.push_back(number);
    }
    close(ends[0]);
    int status = 0;
    waitpid(child, &status, 0);
    if (!WIFSIGNALED(status)) fail("the writer ended by itself");
    for (uint32_t n : fresh) {
      acknowledged.insert(n);
      last = std::max(last, n);
    }

    auto disk = DiskStore::open(options_for(folder));
    if (!disk) fail("does not start again: " + disk.error().message);
    PagePool pool(kPageBytes, 400);
    PrefixCache cache(
        pool, disk->get(),
        {.page_tokens = kSpanTokens, .section_bytes = kSections, .snapshot_bytes = 20 * kStateBytes});
    cache.audit();
    // All of this round, a sample of what earlier rounds left, and what nobody promised.
    std::set<uint32_t> chosen(fresh.begin(), fresh.end());
    std::vector<uint32_t> all(acknowledged.begin(), acknowledged.end());
    for (int i = 0; i < 20 && !all.empty(); ++i) chosen.insert(all[random() % all.size()]);
    if (round + 1 == rounds) chosen = acknowledged;
    for (uint32_t n : chosen) check(cache, pool, n, true, counts);
    for (uint32_t n = last + 1; n < last + 8; ++n) check(cache, pool, n, false, counts);
    cache.audit();
    counts.torn += disk->get()->metrics().corrupt_records;
    first = last + 8;
  }
  std::printf(
      "cache_crash: %d kills, %zu prompts acknowledged, %lld checks of them, %lld of others, %lld pages "
      "compared, %lld torn tails: nothing lost, nothing wrong\n",
      rounds, acknowledged.size(), static_cast<long long>(counts.checked),
      static_cast<long long>(counts.unacknowledged), static_cast<long long>(counts.pages),
      static_cast<long long>(counts.torn));
  return 0;
}

}  // namespace
}  // namespace kvasir

int main(int argc, char** argv) {
  int rounds = 40;
  uint32_t seed = 1;
  std::string folder;
  for (int i = 1; i + 1 < argc; i += 2) {
    std::string_view flag = argv[i], value = argv[i + 1];
    if (flag == "--rounds") std::from_chars(value.data(), value.data() + value.size(), rounds);
    if (flag == "--seed") std::from_chars(value.data(), value.data() + value.size(), seed);
    if (flag == "--folder") folder = value;
  }
  bool own = folder.empty();
  if (own) {
    folder = (std::filesystem::temp_directory_path() / "kvasir-crash-XXXXXX").string();
    if (mkdtemp(folder.data()) == nullptr) return 1;
  }
  int code = kvasir::run(rounds, folder, seed);
  if (own) std::filesystem::remove_all(folder);
  return code;
}
