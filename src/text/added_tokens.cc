// AddedTokens: a trie walked from every byte that begins a token.
#include "text/added_tokens.h"

#include "base/check.h"

namespace kvasir {

int32_t AddedTokens::child_of(int32_t node, uint8_t byte) const {
  int32_t child = nodes_[node].child;
  while (child >= 0 && nodes_[child].byte != byte) child = nodes_[child].sibling;
  return child;
}

void AddedTokens::add(std::string_view content, TokenId id) {
  KVASIR_CHECK(!content.empty(), "added token {} is empty", id);
  auto append = [&](uint8_t byte, int32_t sibling) {
    nodes_.push_back({byte, -1, -1, sibling});
    return static_cast<int32_t>(nodes_.size()) - 1;
  };
  int32_t& root = roots_[static_cast<uint8_t>(content[0])];
  if (root < 0) root = append(static_cast<uint8_t>(content[0]), -1);
  int32_t node = root;
  for (char c : content.substr(1)) {
    const uint8_t byte = static_cast<uint8_t>(c);
    int32_t child = child_of(node, byte);
    if (child < 0) {
      child = append(byte, nodes_[node].child);
      nodes_[node].child = child;
    }
    node = child;
  }
  KVASIR_CHECK(nodes_[node].id < 0, "added token {} has the content of {}", id, nodes_[node].id);
  nodes_[node].id = id;
}

TokenId AddedTokens::id_of(std::string_view content) const {
  if (content.empty()) return -1;
  int32_t node = roots_[static_cast<uint8_t>(content[0])];
  for (size_t i = 1; i < content.size() && node >= 0; ++i)
    node = child_of(node, static_cast<uint8_t>(content[i]));
  return node < 0 ? -1 : nodes_[node].id;
}

bool AddedTokens::find(std::string_view text, size_t from, std::span<const ByteRange>& protect,
                       Match& match) const {
  for (size_t begin = from; begin < text.size(); ++begin) {
    int32_t node = roots_[static_cast<uint8_t>(text[begin])];
    if (node < 0) [[likely]]
      continue;

    // No match may reach past `limit`, where the first protected range that ends after `begin` starts.
    while (!protect.empty() &&
           (protect.front().end <= begin || protect.front().begin == protect.front().end)) {
      protect = protect.subspan(1);
    }
    const size_t limit = protect.empty() ? text.size() : protect.front().begin;
    if (limit <= begin) {
      begin = protect.front().end - 1;  // client text: on to what follows it
      continue;
    }
    match.id = -1;
    for (size_t end = begin + 1;; ++end) {
      if (end > limit) break;
      if (nodes_[node].id >= 0) match = {begin, end, nodes_[node].id};
      if (end == text.size()) break;
      node = child_of(node, static_cast<uint8_t>(text[end]));
      if (node < 0) break;
    }
    if (match.id >= 0) return true;
  }
  return false;
}

}  // namespace kvasir
