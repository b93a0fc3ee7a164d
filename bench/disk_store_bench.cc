// disk_store_bench: how fast the disk tier writes and restores, beside what the disk itself reads, in one
// run.
//
//   disk_store_bench [--folder DIR] [--pages N] [--rounds N]
//
// Pages have V4-Flash's size and sections (21 CSA layers and one section of all HCA rows). One prefix of N
// pages is written, synced, and read back in alternation with plain 8 MB preads of the same file by the same
// number of threads, the system's cache dropped before each (posix_fadvise DONTNEED after sync; no O_DIRECT).
// The ceiling is the best of the plain reads. "first section" is when layer 0 of every page was there.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <string>
#include <thread>

#include "cache/disk_store.h"
#include "cache/prefix_cache.h"

namespace kvasir {
namespace {

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point t) { return std::chrono::duration<double>(Clock::now() - t).count(); }

// Plain reads of every segment, as fast as `threads` can.
double plain_read(const std::string& folder, int threads, int64_t& bytes) {
  struct Piece {
    int fd;
    int64_t offset, size;
  };
  std::vector<Piece> pieces;
  std::vector<int> fds;
  bytes = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().extension() != ".kv") continue;
    int fd = open(entry.path().c_str(), O_RDONLY);
    posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    fds.push_back(fd);
    auto size = static_cast<int64_t>(entry.file_size());
    for (int64_t at = 0; at < size; at += 8 << 20)
      pieces.push_back({fd, at, std::min<int64_t>(8 << 20, size - at)});
    bytes += size;
  }
  std::atomic<size_t> next{0};
  auto begin = Clock::now();
  std::vector<std::thread> workers;
  for (int t = 0; t < threads; ++t) {
    workers.emplace_back([&] {
      std::vector<char> buffer(8 << 20);
      for (size_t i = next++; i < pieces.size(); i = next++) {
        if (pread(pieces[i].fd, buffer.data(), pieces[i].size, pieces[i].offset) != pieces[i].size)
          std::abort();
      }
    });
  }
  for (auto& w : workers) w.join();
  double seconds = seconds_since(begin);
  for (int fd : fds) close(fd);
  return seconds;
}

int run(std::string folder, int64_t pages, int rounds) {
  constexpr int kThreads = 4;
  DiskOptions o;
  o.folder = folder + "/kv";
  o.max_bytes = int64_t{64} << 30;
  o.segment_bytes = int64_t{256} << 20;
  o.read_threads = kThreads;
  for (int layer = 0; layer < 21; ++layer) o.section_bytes.push_back(32 * (584 + 68));
  o.section_bytes.push_back(20 * 584);
  int64_t page_bytes = 0;
  for (int64_t s : o.section_bytes) page_bytes += s;
  PagePool pool(page_bytes, pages);
  std::vector<PageId> ids;
  std::vector<int32_t> tokens(pages * 128);
  for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<int32_t>(i * 2654435761u % 129280);
  for (int64_t i = 0; i < pages; ++i) {
    ids.push_back(*pool.allocate());
    auto* words = reinterpret_cast<uint64_t*>(pool.address(ids.back()));
    for (int64_t w = 0; w < page_bytes / 8; ++w)
      words[w] = static_cast<uint64_t>(i + 1) * 0x9e3779b97f4a7c15u * static_cast<uint64_t>(w + 1);
  }
  auto store = DiskStore::open(o);
  if (!store) return std::fprintf(stderr, "%s\n", store.error().message.c_str()), 1;
  PrefixCache cache(pool, store->get(),
                    {.page_tokens = 128, .section_bytes = o.section_bytes, .snapshot_bytes = 1 << 20});
  cache.publish({0, tokens}, 0, ids);
  auto begin = Clock::now();
  if (auto flushed = cache.flush(); !flushed)
    return std::fprintf(stderr, "%s\n", flushed.error().message.c_str()), 1;
  double write_seconds = seconds_since(begin);
  for (PageId id : ids) pool.release(id);
  double payload = static_cast<double>(pages * page_bytes);
  auto m = (*store)->metrics();
  std::printf("pages        %lld of %lld B, %.0f MB\n", static_cast<long long>(pages),
              static_cast<long long>(page_bytes), payload / 1e6);
  std::printf("on disk      %.4f bytes a byte of page (%.1f B a token)\n",
              static_cast<double>(m.bytes) / payload,
              static_cast<double>(m.bytes) / static_cast<double>(tokens.size()));
  std::printf("write        %.2f GB/s to the disk and synced\n", payload / write_seconds / 1e9);
  double best_plain = 0, best_restore = 0, worst_restore = 1e18;
  for (int round = 0; round < rounds; ++round) {
    int64_t bytes = 0;
    double seconds = plain_read(o.folder, kThreads, bytes);
    best_plain = std::max(best_plain, static_cast<double>(bytes) / seconds);
    if (!cache.make_room(pages)) return 1;
    (*store)->drop_cached();
    begin = Clock::now();
    auto restore = cache.restore({0, tokens}, pages * 128, 0);
    if (!restore) return 1;
    (*restore)->wait_section(0);
    double first = seconds_since(begin);
    (*restore)->wait_section(static_cast<int>(o.section_bytes.size()) - 1);
    seconds = seconds_since(begin);
    if (!(*restore)->done() || (*restore)->page_tokens() != pages * 128)
      return std::fprintf(stderr, "pages are missing\n"), 1;
    best_restore = std::max(best_restore, payload / seconds);
    worst_restore = std::min(worst_restore, payload / seconds);
    std::printf(
        "round %d      plain read %.2f GB/s, restore %.2f GB/s, first section after %.1f ms of %.1f\n", round,
        static_cast<double>(bytes) / plain_read(o.folder, kThreads, bytes) / 1e9, payload / seconds / 1e9,
        first * 1e3, seconds * 1e3);
  }
  std::printf("restore      %.2f GB/s (worst %.2f), %.0f %% of the %.2f GB/s that plain reads reach\n",
              best_restore / 1e9, worst_restore / 1e9, 100 * best_restore / best_plain, best_plain / 1e9);
  return 0;
}

}  // namespace
}  // namespace kvasir

int main(int argc, char** argv) {
  std::string folder;
  int64_t pages = 1024;
  int rounds = 5;
  for (int i = 1; i + 1 < argc; i += 2) {
    std::string_view flag = argv[i];
    if (flag == "--folder") folder = argv[i + 1];
    if (flag == "--pages") pages = std::stoll(argv[i + 1]);
    if (flag == "--rounds") rounds = std::stoi(argv[i + 1]);
  }
  if (folder.empty()) folder = std::filesystem::temp_directory_path().string();
  folder += "/kvasir-disk-XXXXXX";
  if (mkdtemp(folder.data()) == nullptr) return 1;
  int code = kvasir::run(folder, pages, rounds);
  std::filesystem::remove_all(folder);
  return code;
}
