// PrefixTree: what is known of prompts, span by span.
//
// A span is page_tokens tokens; its node is keyed by the hash of every token up to its end and keeps its own
// tokens, so that equal hashes can be checked. A node outlives its page: as long as it has a page in some
// tier, a snapshot, or a node after it, it stays, and a page that returns finds its place. A node whose own
// tokens are not known yet (only spans after it were found on disk) is a placeholder. Owns nodes and
// snapshots entries; knows no pool and no files. Threading: owned by its cache.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "cache/disk_store.h"
#include "cache/eviction_order.h"
#include "cache/page_pool.h"
#include "cache/prefix_cache.h"

namespace kvasir {

struct Span;

// A snapshot in some tier.
struct SnapshotEntry {
  Span* span = nullptr;  // the last full span before it
  int64_t length = 0;
  std::vector<int32_t> tail;  // tokens after that span
  SnapshotUse use = SnapshotUse::kPromptEnd;
  std::shared_ptr<const std::vector<std::byte>> state;  // null: not in memory
  std::optional<RecordId> record;                       // on disk
  std::optional<RecordId> writing;                      // on its way there
  int64_t bytes = 0;
  int64_t hits = 0;
  bool superseded = false;  // the prompt has gone on from here to a later one
  bool kept = false;
  uint64_t serial = 0;
  Standing standing;
};

struct DiskSlot {
  RecordId record{};
  int slot = 0;
};

// A page being read from disk into memory.
struct PageLoad {
  std::shared_ptr<DiskRead> read;
  size_t item = 0;
  std::shared_ptr<std::byte[]> staged;  // what is read, where pages are not on the host: it goes there in the end
};

struct Span {
  SpanHash hash;
  Span* parent = nullptr;  // null: a root or a placeholder
  uint64_t cache_namespace = 0;
  int64_t index = -1;  // the how manieth span; -1: a root, the prefix of no tokens
  bool known = false;  // tokens and parent are
  std::vector<int32_t> tokens;
  std::vector<Span*> children;  // known ones
  std::vector<std::unique_ptr<SnapshotEntry>> snapshots;

  std::optional<PageId> page;  // in memory, or being read into it
  std::optional<PageLoad> load;
  std::optional<DiskSlot> disk;
  std::optional<RecordId> writing;
  int64_t hits = 0;
  int64_t last_used = 0;  // when it was found on disk; 0: made since
  int64_t turns = 0;      // how often the prompt had been resumed and gone on before this span was made
  bool resumed = false;   // a sequence went on from a snapshot here
  bool kept = false;
  uint64_t serial = 0;
  Standing standing;

  bool in_memory() const { return page.has_value() && !load.has_value(); }
  bool available() const { return page.has_value() || disk.has_value(); }
};

class PrefixTree {
 public:
  explicit PrefixTree(int64_t page_tokens) : page_tokens_(page_tokens) {}
  PrefixTree(const PrefixTree&) = delete;
  PrefixTree& operator=(const PrefixTree&) = delete;

  int64_t page_tokens() const { return page_tokens_; }

  // The known spans of a prompt, first to last, up to the first that is not known.
  struct Path {
    Span* root = nullptr;  // null: nothing of this namespace
    std::vector<Span*> spans;
    Span* last() const { return spans.empty() ? root : spans.back(); }
  };
  Path walk(PrefixKey key) const;
  // The same, making the nodes that are missing. Shorter than the prompt only where another prompt has the
  // same hash.
  Path make(PrefixKey key);
  // A node found on disk, under `before`, which may not be known yet. Null: its hash is taken by other
  // tokens.
  Span* make_found(uint64_t cache_namespace, SpanHash before, int64_t index, std::span<const int32_t> tokens);
  // The node before such a one, or the last full span of a snapshot found on disk.
  Span& make_place(uint64_t cache_namespace, SpanHash hash, int64_t index);

  // Removes `span` if nothing needs it, then those before it likewise.
  void prune(Span* span);
  SnapshotEntry& add_snapshot(Span& span, std::span<const int32_t> tail);
  SnapshotEntry* find_snapshot(const Path& path, PrefixKey key) const;
  void remove_snapshot(SnapshotEntry& entry);

  Span* find(SpanHash hash) const;
  const std::unordered_map<SpanHash, std::unique_ptr<Span>>& spans() const { return spans_; }
  // Every token up to the end of `span`; empty if some are not known.
  std::vector<int32_t> tokens_to(const Span& span) const;

  void audit() const;

 private:
  bool matches(const Span& span, const Span& parent, std::span<const int32_t> tokens) const;
  void learn(Span& span, Span& parent, std::span<const int32_t> tokens);

  int64_t page_tokens_;
  uint64_t serial_ = 0;
  std::unordered_map<SpanHash, std::unique_ptr<Span>> spans_;
};

}  // namespace kvasir
