// Bpe: merges the bytes of a piece into tokens, always the lowest-ranked adjacent pair, leftmost first.
//
// Linear in the piece for pieces of any length, with memory for a window of it (bpe.cc says why a
// window is exact). Immutable; any number of threads may encode, each with a BpeScratch of its own.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace kvasir {

using TokenId = int32_t;

// Working memory of encoding, kept between pieces so that pieces do not allocate.
struct BpeScratch {
  struct Node {
    uint32_t symbol;
    uint32_t previous;
    uint32_t next;
  };
  std::vector<Node> nodes;
  std::vector<uint64_t> heap;
  std::vector<uint32_t> window;
};

class Bpe {
 public:
  struct Merge {
    TokenId left;
    TokenId right;
    TokenId product;
  };

  Bpe() = default;

  // `bytes[b]` is the token of byte b; `merges` are in rank order. What the tokenizer file was checked for:
  //  (1) the byte tokens differ, and no merge makes one of them;
  //  (2) no two merges make the same token (so no two join the same pair);
  //  (3) a merge joins byte tokens and products of merges of lower rank.
  Bpe(const std::array<TokenId, 256>& bytes, std::span<const Merge> merges);

  // Appends the tokens of `piece`, which is shorter than 4 GiB.
  void encode(std::string_view piece, BpeScratch& scratch, std::vector<TokenId>& out) const;

 private:
  // A byte, or 256 + the rank of the merge that makes it: among pairs, the one that makes the lowest
  // symbol is the one of lowest rank.
  using Symbol = uint32_t;
  static constexpr Symbol kNoMerge = 0x7fffffff;
  static constexpr size_t kShort = 64;  // bytes that are merged on the stack, by scanning

  Symbol merged(Symbol left, Symbol right) const;
  size_t merge_short(std::string_view text, Symbol* symbols) const;
  void merge_long(std::string_view text, BpeScratch& scratch) const;
  void encode_windows(std::string_view piece, BpeScratch& scratch, std::vector<TokenId>& out) const;

  std::vector<TokenId> tokens_;     // [symbol]
  std::vector<uint32_t> lengths_;   // [symbol], bytes
  std::vector<Symbol> byte_pairs_;  // [left * 256 + right]: what two bytes make, the most frequent question
  std::vector<uint64_t> slots_;     // the other pairs, open addressing: left, right, product, 21 bits each
  int shift_ = 63;                  // from a hash to a slot
};

}  // namespace kvasir
