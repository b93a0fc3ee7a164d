// Vocabulary: the tokens of a tokenizer as a byte trie, which masks are computed from.
//
// Only ordinary tokens are in the trie, and ｜DSML｜ as one symbol of its own: a constrained text is made of
// nothing else, so every other added token is banned there by being absent. Immutable; any thread.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "base/result.h"
#include "text/tokenizer.h"

namespace kvasir {

// What a grammar reads: a byte, or the special token ｜DSML｜.
using Symbol = uint16_t;
inline constexpr Symbol kDsmlSymbol = 256;

class Vocabulary {
 public:
  // The trie in preorder: a node's children follow it, up to `end`. Two tokens of the same bytes are two
  // siblings of the same symbol.
  struct TrieNode {
    uint32_t end = 0;    // after the node's last descendant
    int32_t token = -1;  // that ends here, or -1
    uint16_t depth = 0;  // of a root's child: 0
    Symbol symbol = 0;
  };

  // kInvalid: the tokenizer lacks an end token or ｜DSML｜, or has a token of 65,535 bytes or more. The
  // tokenizer is not kept.
  static Result<std::shared_ptr<const Vocabulary>> make(const Tokenizer& tokenizer);

  const std::vector<TrieNode>& trie() const { return trie_; }
  int32_t size() const { return static_cast<int32_t>(offsets_.size()) - 1; }
  size_t mask_words() const { return (static_cast<size_t>(size()) + 31) / 32; }
  uint32_t max_depth() const { return max_depth_; }

  // Bytes of an ordinary token; none for an added one.
  std::string_view bytes(int32_t token) const;

  int32_t eos() const { return eos_; }
  int32_t dsml() const { return dsml_; }
  int32_t end_think() const { return end_think_; }  // -1: the tokenizer has none

 private:
  Vocabulary() = default;
  void add_nodes(std::string_view before, std::string_view bytes, int32_t token);

  std::string bytes_;
  std::vector<uint32_t> offsets_;
  std::vector<TrieNode> trie_;
  uint32_t max_depth_ = 0;
  int32_t eos_ = -1;
  int32_t dsml_ = -1;
  int32_t end_think_ = -1;
};

}  // namespace kvasir
