// The trie is built in one pass over the tokens in order of their bytes: each shares a prefix with the one
// before it, and what it has beyond that prefix are new nodes.
#include "grammar/vocabulary.h"

#include <algorithm>

#include "text/special_text.h"

namespace kvasir {
namespace {

constexpr size_t kMaxTokenBytes = 65534;

}  // namespace

Result<std::shared_ptr<const Vocabulary>> Vocabulary::make(const Tokenizer& tokenizer) {
  std::shared_ptr<Vocabulary> v(new Vocabulary);
  v->eos_ = tokenizer.added_id(kEosText);
  v->dsml_ = tokenizer.added_id(kDsmlText);
  v->end_think_ = tokenizer.added_id(kEndThinkText);
  if (v->eos_ < 0 || v->dsml_ < 0) {
    return Error{ErrorCode::kInvalid, "the tokenizer lacks an added token for the end of text or ｜DSML｜"};
  }
  v->offsets_.push_back(0);
  std::vector<int32_t> order;
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    if (!tokenizer.is_added(id) && !tokenizer.is_special(id)) v->bytes_ += tokenizer.token_bytes(id);
    v->offsets_.push_back(static_cast<uint32_t>(v->bytes_.size()));
    const size_t bytes = v->bytes(id).size();
    if (bytes > kMaxTokenBytes) return Error{ErrorCode::kInvalid, "a token of the vocabulary is too long"};
    if (bytes > 0) order.push_back(id);
  }
  std::sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    const int by_bytes = v->bytes(a).compare(v->bytes(b));
    return by_bytes != 0 ? by_bytes < 0 : a < b;
  });
  std::string_view before;
  for (int32_t id : order) {
    v->add_nodes(before, v->bytes(id), id);
    before = v->bytes(id);
  }
  // Every node knows its depth; its end is the next node that is not deeper.
  std::vector<uint32_t> open;
  for (uint32_t i = 0; i < v->trie_.size(); ++i) {
    while (!open.empty() && v->trie_[open.back()].depth >= v->trie_[i].depth) {
      v->trie_[open.back()].end = i;
      open.pop_back();
    }
    open.push_back(i);
  }
  for (uint32_t i : open) v->trie_[i].end = static_cast<uint32_t>(v->trie_.size());
  const uint32_t size = static_cast<uint32_t>(v->trie_.size());
  v->trie_.push_back({.end = size + 1, .token = v->dsml_, .depth = 0, .symbol = kDsmlSymbol});
  return std::shared_ptr<const Vocabulary>(std::move(v));
}

void Vocabulary::add_nodes(std::string_view before, std::string_view bytes, int32_t token) {
  size_t shared = 0;
  while (shared < before.size() && shared < bytes.size() && before[shared] == bytes[shared]) ++shared;
  if (shared == bytes.size()) --shared;  // the same bytes again: a sibling of its own
  for (size_t i = shared; i < bytes.size(); ++i) {
    trie_.push_back({.depth = static_cast<uint16_t>(i), .symbol = static_cast<uint8_t>(bytes[i])});
  }
  trie_.back().token = token;
  max_depth_ = std::max(max_depth_, static_cast<uint32_t>(bytes.size()));
}

std::string_view Vocabulary::bytes(int32_t token) const {
  if (token < 0 || token >= size()) return {};
  const auto t = static_cast<size_t>(token);
  return std::string_view(bytes_).substr(offsets_[t], offsets_[t + 1] - offsets_[t]);
}

}  // namespace kvasir
