// Walking, growing and pruning; see prefix_tree.h.
#include "cache/prefix_tree.h"

#include <algorithm>

namespace kvasir {

Span* PrefixTree::find(SpanHash hash) const {
  auto it = spans_.find(hash);
  return it == spans_.end() ? nullptr : it->second.get();
}

bool PrefixTree::matches(const Span& span, const Span& parent, std::span<const int32_t> tokens) const {
  return span.known && span.parent == &parent && std::ranges::equal(span.tokens, tokens);
}

PrefixTree::Path PrefixTree::walk(PrefixKey key) const {
  Path path;
  Span* at = find(root_hash(key.cache_namespace));
  if (at == nullptr || at->index != -1 || at->cache_namespace != key.cache_namespace) return path;
  path.root = at;
  for (size_t begin = 0; begin + page_tokens_ <= key.tokens.size(); begin += page_tokens_) {
    auto tokens = key.tokens.subspan(begin, page_tokens_);
    Span* next = find(next_hash(at->hash, tokens));
    if (next == nullptr || !matches(*next, *at, tokens)) break;
    path.spans.push_back(next);
    at = next;
  }
  return path;
}

PrefixTree::Path PrefixTree::make(PrefixKey key) {
  Path path;
  Span* at = &make_place(key.cache_namespace, root_hash(key.cache_namespace), -1);
  path.root = at;
  for (size_t begin = 0; begin + page_tokens_ <= key.tokens.size(); begin += page_tokens_) {
    auto tokens = key.tokens.subspan(begin, page_tokens_);
    Span* next = make_found(key.cache_namespace, at->hash, at->index + 1, tokens);
    if (next == nullptr || next->parent != at) break;
    path.spans.push_back(next);
    at = next;
  }
  return path;
}

Span& PrefixTree::make_place(uint64_t cache_namespace, SpanHash hash, int64_t index) {
  auto& slot = spans_[hash];
  if (!slot) {
    slot = std::make_unique<Span>();
    slot->hash = hash;
    slot->cache_namespace = cache_namespace;
    slot->index = index;
    slot->known = index == -1;
    slot->serial = ++serial_;
  }
  return *slot;
}

Span* PrefixTree::make_found(uint64_t cache_namespace, SpanHash before, int64_t index,
                             std::span<const int32_t> tokens) {
  Span& parent = make_place(cache_namespace, before, index - 1);
  Span& span = make_place(cache_namespace, next_hash(before, tokens), index);
  bool fits = parent.index == index - 1 && span.index == index && parent.cache_namespace == cache_namespace &&
              span.cache_namespace == cache_namespace;
  if (fits && !span.known) learn(span, parent, tokens);
  if (fits && matches(span, parent, tokens)) return &span;
  prune(&span);  // in case they were made just now
  prune(find(before));
  return nullptr;
}

void PrefixTree::learn(Span& span, Span& parent, std::span<const int32_t> tokens) {
  span.known = true;
  span.parent = &parent;
  span.tokens.assign(tokens.begin(), tokens.end());
  // A prompt that goes on from where it was resumed is a conversation; one that leaves a way others took
  // begins anew.
  bool fork = !parent.children.empty();
  span.turns = fork ? 0 : parent.turns + (parent.resumed ? 1 : 0);
  parent.children.push_back(&span);
}

void PrefixTree::prune(Span* span) {
  while (span != nullptr) {
    bool needed =
        span->page || span->disk || span->writing || !span->children.empty() || !span->snapshots.empty();
    if (needed) return;
    Span* parent = span->parent;
    if (parent != nullptr) std::erase(parent->children, span);
    spans_.erase(SpanHash(span->hash));
    span = parent;
  }
}

SnapshotEntry& PrefixTree::add_snapshot(Span& span, std::span<const int32_t> tail) {
  auto entry = std::make_unique<SnapshotEntry>();
  entry->span = &span;
  entry->length = (span.index + 1) * page_tokens_ + static_cast<int64_t>(tail.size());
  entry->tail.assign(tail.begin(), tail.end());
  entry->serial = ++serial_;
  span.snapshots.push_back(std::move(entry));
  return *span.snapshots.back();
}

SnapshotEntry* PrefixTree::find_snapshot(const Path& path, PrefixKey key) const {
  size_t full = key.tokens.size() / page_tokens_;
  if (path.root == nullptr || path.spans.size() < full) return nullptr;
  const Span* span = full == 0 ? path.root : path.spans[full - 1];
  for (const auto& entry : span->snapshots) {
    if (std::ranges::equal(entry->tail, key.tokens.subspan(full * page_tokens_))) return entry.get();
  }
  return nullptr;
}

void PrefixTree::remove_snapshot(SnapshotEntry& entry) {
  Span* span = entry.span;
  std::erase_if(span->snapshots, [&](const auto& e) { return e.get() == &entry; });
  prune(span);
}

std::vector<int32_t> PrefixTree::tokens_to(const Span& span) const {
  std::vector<const Span*> path;
  const Span* at = &span;
  for (; at != nullptr && at->index >= 0; at = at->parent) path.push_back(at);
  std::vector<int32_t> tokens;
  if (at == nullptr) return tokens;
  for (auto it = path.rbegin(); it != path.rend(); ++it)
    tokens.insert(tokens.end(), (*it)->tokens.begin(), (*it)->tokens.end());
  return tokens;
}

void PrefixTree::audit() const {
  for (const auto& [hash, span] : spans_) {
    KVASIR_CHECK(span->hash == hash, "a span under another's hash");
    if (span->index == -1)
      KVASIR_CHECK(span->parent == nullptr && hash == root_hash(span->cache_namespace),
                   "a root that is none");
    if (span->parent != nullptr) {
      KVASIR_CHECK(
          span->index == span->parent->index + 1 && hash == next_hash(span->parent->hash, span->tokens),
          "a hash that is not its tokens'");
      KVASIR_CHECK(std::ranges::count(span->parent->children, span.get()) == 1,
                   "a span its parent does not know");
      KVASIR_CHECK(find(span->parent->hash) == span->parent, "a parent that is not in the tree");
    } else {
      KVASIR_CHECK(span->index == -1 || !span->known, "a known span without a parent");
      KVASIR_CHECK(span->index == -1 || !span->page, "a page under a placeholder");
    }
    for (const Span* child : span->children) KVASIR_CHECK(child->parent == span.get(), "a child of two");
    bool needed =
        span->page || span->disk || span->writing || !span->children.empty() || !span->snapshots.empty();
    KVASIR_CHECK(needed || span->index == -1, "span {} is needed by nothing", span->index);
    KVASIR_CHECK(!span->load || span->page, "read into no page");
    for (const auto& entry : span->snapshots) {
      KVASIR_CHECK(entry->span == span.get() && entry->length == (span->index + 1) * page_tokens_ +
                                                                     static_cast<int64_t>(entry->tail.size()),
                   "a snapshot in the wrong place");
      KVASIR_CHECK(entry->state || entry->record || entry->writing, "a snapshot that is nowhere");
    }
  }
}

}  // namespace kvasir
