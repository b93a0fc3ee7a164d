// Tokenizer: added tokens, then pieces, then merges. See the header.
#include "text/tokenizer.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <fstream>

#include "base/check.h"
#include "text/pretokenizer.h"
#include "text/tokenizer_file.h"

namespace kvasir {
namespace {

// PieceCache: the tokens of the short pieces met so far in one encode call. Text repeats its words, so
// most pieces are merged once. Direct mapped: a new piece takes the place of whatever was there.
class PieceCache {
 public:
  static constexpr size_t kMaxBytes = 16;
  static constexpr size_t kMaxTokens = 3;

  struct Entry {
    uint64_t low = 0, high = 0;  // the piece, zeros after it
    TokenId ids[kMaxTokens] = {};
    uint16_t bytes = 0;  // of the piece; 0: nothing here
    uint16_t count = 0;  // of ids
  };

  // Sized to the text, so that a short one does not pay for clearing a large table.
  explicit PieceCache(size_t text_bytes)
      : entries_(std::clamp<size_t>(std::bit_ceil(text_bytes / 16 + 1), 16, 8192)),
        shift_(64 - std::countr_zero(entries_.size())) {}

  // Where `piece` (1 to kMaxBytes bytes) is or would be, and its key. `readable`: at least 16 bytes may
  // be read from its start.
  struct Place {
    Entry* entry;
    uint64_t low, high;
    bool found;
  };
  Place find(std::string_view piece, bool readable) {
    uint64_t words[2] = {0, 0};
    const size_t n = piece.size();
    if (readable) [[likely]] {
      std::memcpy(words, piece.data(), 16);
      words[0] &= n >= 8 ? ~uint64_t{0} : (uint64_t{1} << 8 * n) - 1;
      words[1] &= n <= 8 ? 0 : n == 16 ? ~uint64_t{0} : (uint64_t{1} << 8 * (n - 8)) - 1;
    } else {
      std::memcpy(words, piece.data(), n);
    }
    const uint64_t hash = (words[0] ^ (words[1] * 0x9e3779b97f4a7c15u) ^ n) * 0xd6e8feb86659fd93u;
    Entry* entry = &entries_[hash >> shift_];
    return {entry, words[0], words[1],
            entry->low == words[0] && entry->high == words[1] && entry->bytes == n};
  }

 private:
  std::vector<Entry> entries_;
  int shift_;
};

}  // namespace

Tokenizer::Tokenizer(const TokenizerFile& file)
    : bpe_(file.bytes, file.merges), flags_(file.tokens.size(), 0) {
  offsets_.reserve(file.tokens.size() + 1);
  offsets_.push_back(0);
  for (const std::string& token : file.tokens) {
    bytes_ += token;
    offsets_.push_back(static_cast<uint32_t>(bytes_.size()));
  }
  for (const TokenizerFile::Added& token : file.added) {
    added_.add(token.content, token.id);
    flags_[static_cast<size_t>(token.id)] = kAdded | (token.special ? kSpecial : 0);
  }
}

Result<Tokenizer> Tokenizer::parse(std::string_view json, std::string_view name) {
  KVASIR_TRY(const TokenizerFile file, parse_tokenizer_file(json, name));
  return Tokenizer(file);
}

Result<Tokenizer> Tokenizer::load(const std::filesystem::path& folder) {
  const std::filesystem::path path = folder / "tokenizer.json";
  std::error_code failed;
  if (!std::filesystem::is_regular_file(path, failed)) {
    return Error{ErrorCode::kNotFound,
                 fmt::format("{}: no such file, expected V4's tokenizer.json", path.string())};
  }
  const uintmax_t bytes = std::filesystem::file_size(path, failed);
  if (failed) return Error{ErrorCode::kIo, fmt::format("{}: {}", path.string(), failed.message())};
  if (bytes > TokenizerFile::kMaxBytes) {
    return Error{ErrorCode::kInvalid, fmt::format("{}: seen {} bytes, expected at most {}", path.string(),
                                                  bytes, TokenizerFile::kMaxBytes)};
  }
  std::string json(static_cast<size_t>(bytes), '\0');
  std::ifstream in(path, std::ios::binary);
  if (!in.read(json.data(), static_cast<std::streamsize>(json.size()))) {
    return Error{ErrorCode::kIo, fmt::format("{}: read {} of {} bytes", path.string(), in.gcount(), bytes)};
  }
  return parse(json, path.string());
}

std::vector<TokenId> Tokenizer::encode(std::string_view text, std::span<const ByteRange> client_text) const {
  for (size_t i = 0; i < client_text.size(); ++i) {
    const ByteRange r = client_text[i];
    const size_t least = i == 0 ? 0 : client_text[i - 1].end;
    KVASIR_CHECK(r.begin >= least && r.begin <= r.end && r.end <= text.size(),
                 "range {} is [{}, {}) after {} in {} bytes", i, r.begin, r.end, least, text.size());
  }
  std::vector<TokenId> out;
  out.reserve(text.size() / 4 + 16);
  BpeScratch scratch;
  PieceCache cache(text.size());
  const char* const text_end = text.data() + text.size();

  auto encode_segment = [&](std::string_view segment) {
    PieceReader reader(segment);
    for (std::string_view piece; reader.next(piece);) {
      if (piece.size() > PieceCache::kMaxBytes) {
        bpe_.encode(piece, scratch, out);
        continue;
      }
      const auto place = cache.find(piece, text_end - piece.data() >= 16);
      PieceCache::Entry& entry = *place.entry;
      if (place.found) {
        out.insert(out.end(), entry.ids, entry.ids + entry.count);
        continue;
      }
      const size_t before = out.size();
      bpe_.encode(piece, scratch, out);
      const size_t count = out.size() - before;
      if (count > PieceCache::kMaxTokens) continue;
      entry = {place.low, place.high, {}, static_cast<uint16_t>(piece.size()), static_cast<uint16_t>(count)};
      std::copy(out.begin() + static_cast<ptrdiff_t>(before), out.end(), entry.ids);
    }
  };

  size_t from = 0;
  AddedTokens::Match match;
  while (added_.find(text, from, client_text, match)) {
    encode_segment(text.substr(from, match.begin - from));
    out.push_back(match.id);
    from = match.end;
  }
  encode_segment(text.substr(from));
  return out;
}

std::string Tokenizer::decode(std::span<const TokenId> ids) const {
  std::string out;
  for (TokenId id : ids) out += token_bytes(id);
  return out;
}

std::string_view Tokenizer::token_bytes(TokenId id) const {
  if (id < 0 || id >= vocab_size()) return {};
  const size_t i = static_cast<size_t>(id);
  return std::string_view(bytes_).substr(offsets_[i], offsets_[i + 1] - offsets_[i]);
}

TokenId Tokenizer::id_of(std::string_view bytes) const {
  if (const TokenId id = added_.id_of(bytes); id >= 0) return id;
  for (TokenId id = 0; id < vocab_size(); ++id) {
    if (token_bytes(id) == bytes) return id;
  }
  return -1;
}

}  // namespace kvasir
