// AddedTokens: finds the tokens that are matched in raw text before anything else (protocol 1.2, step 1).
//
// Leftmost match, longest on ties, no condition on what stands around it. Immutable, any thread.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "text/bpe.h"
#include "text/byte_range.h"

namespace kvasir {

class AddedTokens {
 public:
  struct Match {
    size_t begin;
    size_t end;
    TokenId id;
  };

  // `content` is not empty and was not added before.
  void add(std::string_view content, TokenId id);

  // The token whose content is exactly this, or -1.
  TokenId id_of(std::string_view content) const;

  // The next match at or after `from`, or false. One that overlaps a range of `protect` (sorted by
  // begin, not overlapping each other) is no match. `protect` loses the ranges that end before the
  // match, so that a scan of a text with many ranges stays linear.
  bool find(std::string_view text, size_t from, std::span<const ByteRange>& protect, Match& match) const;

 private:
  // A trie: siblings are a list, since few bytes follow any one.
  struct Node {
    uint8_t byte = 0;
    TokenId id = -1;  // the token that ends here
    int32_t child = -1;
    int32_t sibling = -1;
  };

  int32_t child_of(int32_t node, uint8_t byte) const;

  std::vector<Node> nodes_;
  std::array<int32_t, 256> roots_ = make_roots();  // node of a first byte, or -1

  static std::array<int32_t, 256> make_roots() {
    std::array<int32_t, 256> roots;
    roots.fill(-1);
    return roots;
  }
};

}  // namespace kvasir
