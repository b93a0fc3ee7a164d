// Tokenizer: text to token ids and back, exactly as DeepSeek-V4's tokenizer.json says (protocol 1).
//
// Any tokenizer.json of V4's family serves: its byte-level BPE and three-stage split, with whatever
// merges, added tokens and ids the file has. No id is known in advance: ask id_of("<｜User｜>").
//
// Bytes that are not UTF-8 are text too: each counts as an unassigned character when pieces are cut,
// is encoded by its byte token, and decodes to itself. So encode and decode return any bytes unchanged.
// Immutable after loading; any number of threads may use one.
#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "text/added_tokens.h"
#include "text/bpe.h"

namespace kvasir {

struct TokenizerFile;

class Tokenizer {
 public:
  // Reads `folder`/tokenizer.json. An error names the file, the place in it (JSON path), what was seen
  // and what was expected.
  static Result<Tokenizer> load(const std::filesystem::path& folder);
  // The same from memory; `name` stands for the file in errors.
  static Result<Tokenizer> parse(std::string_view json, std::string_view name);

  // The tokens of `text`, added tokens included; nothing is put before or after it. Linear in the text.
  // An added-token match that overlaps a range of `client_text` (sorted, disjoint, inside the text) is
  // ignored and nothing else changes (TOK-2): template text around it is cut as if it were one text.
  // Cutting a text right before or after an added token never changes its ids (TOK-3).
  std::vector<TokenId> encode(std::string_view text, std::span<const ByteRange> client_text = {}) const;

  // The bytes of the tokens, one after the other. Not always UTF-8: see Detokenizer for text.
  std::string decode(std::span<const TokenId> ids) const;

  // Ids are 0 .. vocab_size() - 1; a file may leave ids out, and a model may have more logits than that.
  TokenId vocab_size() const { return static_cast<TokenId>(offsets_.size()) - 1; }
  // Bytes of a token; an id that the file does not have gives none.
  std::string_view token_bytes(TokenId id) const;
  // Whether the token is matched in raw text before BPE, and whether the file calls it special
  // (structure, not text).
  bool is_added(TokenId id) const { return has_flag(id, kAdded); }
  bool is_special(TokenId id) const { return has_flag(id, kSpecial); }

  // The added token with exactly this content, or -1.
  TokenId added_id(std::string_view content) const { return added_.id_of(content); }
  // The token with exactly these bytes, an added one if there are both, or -1.
  TokenId id_of(std::string_view bytes) const;

 private:
  static constexpr uint8_t kAdded = 1;
  static constexpr uint8_t kSpecial = 2;

  explicit Tokenizer(const TokenizerFile& file);
  bool has_flag(TokenId id, uint8_t flag) const {
    return id >= 0 && id < vocab_size() && (flags_[static_cast<size_t>(id)] & flag) != 0;
  }

  Bpe bpe_;
  AddedTokens added_;
  std::string bytes_;              // of all tokens, by id
  std::vector<uint32_t> offsets_;  // [id], [id + 1]: the token's part of bytes_
  std::vector<uint8_t> flags_;     // [id]
};

}  // namespace kvasir
