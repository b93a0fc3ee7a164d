// What the tests of the cache share: a pool with a cache over it, prompts made of a seed, pages whose bytes
// tell what they are the pages of, so that a wrong page is seen. Tests only.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <random>

#include "cache/block_table.h"
#include "cache/prefix_cache.h"

namespace kvasir {

inline constexpr int64_t kSpanTokens = 16;
inline constexpr int64_t kPageBytes = 512;

using Tokens = std::vector<int32_t>;

inline Tokens prompt(uint32_t seed, int64_t tokens) {
  std::mt19937 random(seed);
  Tokens out(tokens);
  for (int32_t& t : out) t = static_cast<int32_t>(random() % 129280);
  return out;
}

inline Tokens joined(Tokens a, const Tokens& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

// The bytes that a page of the span ending at `tokens` must have.
inline void fill_page(std::byte* page, std::span<const int32_t> tokens, int64_t bytes) {
  uint64_t state = 1469598103934665603u;
  for (int32_t t : tokens) state = (state ^ static_cast<uint32_t>(t)) * 1099511628211u;
  for (int64_t i = 0; i < bytes; ++i) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    page[i] = static_cast<std::byte>(state >> 56);
  }
}

inline bool page_is(const std::byte* page, std::span<const int32_t> tokens, int64_t bytes) {
  std::vector<std::byte> expected(bytes);
  fill_page(expected.data(), tokens, bytes);
  return std::memcmp(page, expected.data(), bytes) == 0;
}

inline std::vector<std::byte> state_of(std::span<const int32_t> tokens, int64_t bytes) {
  std::vector<std::byte> state(bytes);
  fill_page(state.data(), tokens, bytes);
  return state;
}

// Memory that the host may not touch, as a device's: its addresses lead nowhere.
class FarMemory final : public Memory {
 public:
  Result<Buffer> allocate(int64_t bytes, const char* what) override {
    KVASIR_TRY(Buffer near, host_memory().allocate(bytes, what));
    std::byte* data = near.data();
    near_.push_back(std::move(near));
    return Buffer::adopt(data + kFar, bytes, [](std::byte*, int64_t) {});
  }
  void write(void* to, const void* from, int64_t bytes) override { std::memcpy(near(to), from, static_cast<size_t>(bytes)); }
  void read(void* to, const void* from, int64_t bytes) override {
    std::memcpy(to, near(const_cast<void*>(from)), static_cast<size_t>(bytes));
  }
  void copy(void* to, const void* from, int64_t bytes) override { host_memory().copy(near(to), near(const_cast<void*>(from)), bytes); }
  void draw(const RandomDraw&) override {}
  bool on_host() const override { return false; }
  Result<int64_t> available() override { return host_memory().available(); }

 private:
  static constexpr int64_t kFar = int64_t{1} << 56;  // no address that a process can have
  static void* near(void* far) { return static_cast<std::byte*>(far) - kFar; }
  std::vector<Buffer> near_;
};

struct CacheUnderTest {
  explicit CacheUnderTest(int64_t pages, int64_t snapshot_bytes = 1 << 20, DiskStore* disk = nullptr,
                          int64_t page_bytes = kPageBytes,
                          std::vector<int64_t> sections = {kPageBytes / 4, kPageBytes / 2, kPageBytes / 4},
                          Memory& memory = host_memory())
      : pool(page_bytes, pages, memory),
        cache(std::make_unique<PrefixCache>(pool, disk,
                                            PrefixCacheOptions{.page_tokens = kSpanTokens,
                                                               .section_bytes = std::move(sections),
                                                               .snapshot_bytes = snapshot_bytes})) {}

  // As an engine would: reuses what it can, computes the rest, publishes it. Returns how many tokens it had
  // to compute, or -1 if there was no room.
  int64_t run(const Tokens& tokens, SnapshotUse use = SnapshotUse::kPromptEnd, int64_t state_bytes = 64,
              bool write = true, uint64_t ns = 0) {
    PrefixKey key{ns, tokens};
    auto match = cache->lookup(key, std::ssize(tokens));
    int64_t from = match.points.empty() ? 0 : match.points.back().length;
    BlockTable table(pool);
    if (from > 0) {
      auto restore = cache->restore(key, from / kSpanTokens * kSpanTokens, from);
      if (!restore) return -1;
      while (!(*restore)->done()) (*restore)->wait_section(1 << 20);
      bool whole =
          (*restore)->snapshot() != nullptr && (*restore)->page_tokens() == from / kSpanTokens * kSpanTokens;
      if (whole) {
        EXPECT_EQ(*(*restore)->snapshot(),
                  state_of(std::span(tokens).first(from), std::ssize(*(*restore)->snapshot())));
        for (PageId page : (*restore)->take_pages()) table.adopt(page);
      } else {
        from = 0;
      }
    }
    for (int64_t i = 0; i < table.size(); ++i) {
      HostBytes page(pool.memory(), table.host_addresses()[i], pool.page_bytes(), HostBytes::Content::kFetch);
      EXPECT_TRUE(page_is(page.data(), std::span(tokens).first((i + 1) * kSpanTokens), pool.page_bytes())) << "page " << i;
    }
    int64_t had = table.size();
    int64_t all = std::ssize(tokens) / kSpanTokens;
    if (!cache->make_room(all - had) || !table.grow(all)) return -1;
    for (int64_t i = had; i < all; ++i) {
      HostBytes page(pool.memory(), table.host_addresses()[i], pool.page_bytes(), HostBytes::Content::kUnset);
      fill_page(page.data(), std::span(tokens).first((i + 1) * kSpanTokens), pool.page_bytes());
      page.write_back();
    }
    cache->publish(key, had, table.ids().subspan(had));
    if (match.branch_length > from) {
      auto branch = std::span(tokens).first(match.branch_length);
      cache->put_snapshot({ns, branch}, state_of(branch, state_bytes), SnapshotUse::kBranch);
    }
    cache->put_snapshot(key, state_of(tokens, state_bytes), use);
    if (write) cache->write_behind(key);
    return std::ssize(tokens) - from;
  }

  PagePool pool;
  std::unique_ptr<PrefixCache> cache;
};

}  // namespace kvasir
