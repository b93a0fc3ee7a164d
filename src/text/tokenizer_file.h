// TokenizerFile: what a tokenizer.json (Hugging Face tokenizers format) of V4's family says, checked.
//
// Everything that would make the result differ from V4's algorithm is refused, with the place in the
// file. Left unread, since they do not change ids: truncation, padding and the post-processor's
// template (kvasir's chat encoding writes BOS itself).
#pragma once

#include <array>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "text/bpe.h"

namespace kvasir {

struct TokenizerFile {
  // Limits: V4 has 129,280 ids and 7.5 MB. Larger than these is not a tokenizer that kvasir can load.
  static constexpr size_t kMaxBytes = 64 << 20;
  static constexpr TokenId kMaxIds = 1 << 20;
  static constexpr size_t kMaxTokenBytes = 1024;
  static constexpr size_t kMaxDepth = 32;

  struct Added {
    TokenId id;
    std::string content;
    bool special;
  };

  std::vector<std::string> tokens;  // [id]: bytes of the model's and the added tokens; empty: no such id
  std::array<TokenId, 256> bytes;   // [byte]: its token
  std::vector<Bpe::Merge> merges;   // in rank order; fit for Bpe
  std::vector<Added> added;
};

// `name` stands for the file in errors.
Result<TokenizerFile> parse_tokenizer_file(std::string_view json, std::string_view name);

}  // namespace kvasir
