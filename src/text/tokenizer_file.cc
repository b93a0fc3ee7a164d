// TokenizerFile: reads tokenizer.json with simdjson's DOM, which validates all of it first.
#include "text/tokenizer_file.h"

#include <fmt/core.h>
#include <simdjson.h>

#include <bit>
#include <functional>
#include <optional>
#include <unordered_map>

#include "text/unicode_class.h"

namespace kvasir {
namespace {

namespace dom = simdjson::dom;

// The three splits of V4 (protocol 1.2), which pretokenizer.cc carries out by hand. Compared as text.
constexpr std::string_view kSplits[3] = {
    R"(\p{N}{1,3})",
    "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+|"
    " ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
};

// A string as part of a one-line message: cut, quoted, without control characters.
std::string quote(std::string_view text) {
  constexpr size_t kMost = 60;
  std::string out = "\"";
  size_t pos = 0;
  while (pos < text.size() && pos < kMost) {
    const Utf8Step step = step_utf8(text, pos);
    const uint8_t first = static_cast<uint8_t>(text[pos]);
    if (!step.valid || first < 0x20 || first == 0x7f) {
      out += fmt::format("\\x{:02x}", first);
      ++pos;
    } else {
      out.append(text, pos, step.bytes);
      pos += step.bytes;
    }
  }
  return out + (pos < text.size() ? "\"..." : "\"");
}

std::string describe(dom::element e) {
  switch (e.type()) {
    case dom::element_type::ARRAY:
      return fmt::format("an array of {}", dom::array(e).size());
    case dom::element_type::OBJECT:
      return "an object";
    case dom::element_type::STRING:
      return quote(std::string_view(e));
    default:
      return simdjson::minify(e);
  }
}

// The GPT-2 table (protocol 1.2, step 5): which character of a token's spelling stands for which byte.
class ByteAlphabet {
 public:
  ByteAlphabet() {
    uint32_t next = 0x100;
    bytes_.fill(-1);
    for (uint32_t b = 0; b < 256; ++b) {
      const bool itself = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
      bytes_[itself ? b : next++] = static_cast<int16_t>(b);
    }
  }

  // Writes the bytes that `spelling` stands for; false if a character is not of the alphabet.
  bool read(std::string_view spelling, std::string& bytes) const {
    bytes.clear();
    for (size_t pos = 0; pos < spelling.size();) {
      const Utf8Char c = decode_utf8(spelling, pos);
      if (c.code >= bytes_.size() || bytes_[c.code] < 0) return false;
      bytes += static_cast<char>(bytes_[c.code]);
      pos += c.bytes;
    }
    return true;
  }

 private:
  std::array<int16_t, 0x100 + 68> bytes_;
};

// Finds a token of the model's vocabulary by its bytes: open addressing over ids, sized once.
class BytesIndex {
 public:
  BytesIndex(const std::vector<std::string>& tokens, size_t count)
      : tokens_(tokens), slots_(std::bit_ceil(count * 2 + 2), -1) {}

  TokenId find(std::string_view bytes) const { return slots_[slot_of(bytes)]; }
  void insert(TokenId id) { slots_[slot_of(tokens_[static_cast<size_t>(id)])] = id; }

 private:
  size_t slot_of(std::string_view bytes) const {
    const size_t mask = slots_.size() - 1;
    size_t slot = std::hash<std::string_view>()(bytes) & mask;
    while (slots_[slot] >= 0 && tokens_[static_cast<size_t>(slots_[slot])] != bytes) slot = (slot + 1) & mask;
    return slot;
  }

  const std::vector<std::string>& tokens_;
  std::vector<TokenId> slots_;
};

// Reads the parts in order; each step relies on those before it.
class Parser {
 public:
  explicit Parser(std::string_view name) : name_(name) {}

  Result<TokenizerFile> parse(std::string_view json);

 private:
  Error wrong(std::string_view path, std::string_view seen, std::string_view expected) const {
    return {ErrorCode::kInvalid, fmt::format("{}: {}: seen {}, expected {}", name_, path, seen, expected)};
  }
  template <class T>
  Result<T> get(dom::object object, std::string_view parent, const char* key,
                std::string_view expected) const;
  Status expect_false(dom::object object, std::string_view parent, const char* key) const;
  Status expect_absent(dom::object object, std::string_view parent, const char* key) const;

  Status read_steps(dom::object root) const;
  Status read_normalizer(dom::object root) const;
  Status read_pre_tokenizer(dom::object root) const;
  Status read_post_processor(dom::element processor, const std::string& path) const;
  Status read_added_tokens(dom::array added);
  Status read_vocab(dom::object vocab);
  Status read_vocab_entry(std::string_view spelling, dom::element value, BytesIndex& index);
  Status read_merges(dom::array merges, const BytesIndex& index);
  Result<std::pair<std::string_view, std::string_view>> merge_parts(dom::element merge, size_t rank) const;
  Status read_merge(std::pair<std::string_view, std::string_view> parts, size_t rank,
                    const BytesIndex& index);
  Result<TokenId> read_id(dom::element value, const std::string& path) const;
  void set_token(TokenId id, std::string_view bytes);

  std::string_view name_;
  ByteAlphabet alphabet_;
  TokenizerFile file_;
  std::vector<int32_t> rank_of_;  // [id]: the merge that makes it, -1 if none
  std::unordered_map<std::string_view, TokenId> added_by_content_;  // views into the document
  std::unordered_map<TokenId, std::string_view> added_by_id_;
  std::string buffer_, left_, right_;
};

template <class T>
Result<T> Parser::get(dom::object object, std::string_view parent, const char* key,
                      std::string_view expected) const {
  const std::string path = fmt::format("{}.{}", parent, key);
  dom::element e;
  if (object[key].get(e) != simdjson::SUCCESS) return wrong(path, "nothing", expected);
  T value;
  if (e.get(value) != simdjson::SUCCESS) return wrong(path, describe(e), expected);
  return value;
}

Status Parser::expect_false(dom::object object, std::string_view parent, const char* key) const {
  dom::element e;
  bool value = false;
  if (object[key].get(e) != simdjson::SUCCESS || (e.get(value) == simdjson::SUCCESS && !value)) return {};
  return wrong(fmt::format("{}.{}", parent, key), describe(e), "false, as in V4");
}

Status Parser::expect_absent(dom::object object, std::string_view parent, const char* key) const {
  dom::element e;
  if (object[key].get(e) != simdjson::SUCCESS || e.is_null()) return {};
  if (e.is_string() && std::string_view(e).empty()) return {};
  return wrong(fmt::format("{}.{}", parent, key), describe(e), "null, as in V4");
}

Result<TokenizerFile> Parser::parse(std::string_view json) {
  if (json.size() > TokenizerFile::kMaxBytes) {
    return wrong("$", fmt::format("{} bytes", json.size()),
                 fmt::format("at most {}", TokenizerFile::kMaxBytes));
  }
  dom::parser parser(TokenizerFile::kMaxBytes);
  const size_t capacity = std::max<size_t>(json.size(), simdjson::dom::MINIMAL_DOCUMENT_CAPACITY);
  const simdjson::padded_string padded(json);
  dom::element document;
  auto failed = parser.allocate(capacity, TokenizerFile::kMaxDepth);
  if (!failed) failed = parser.parse(padded).get(document);
  if (failed == simdjson::DEPTH_ERROR) {
    return wrong("$", "deeper nesting", fmt::format("at most {} levels", TokenizerFile::kMaxDepth));
  }
  if (failed) return wrong("$", simdjson::error_message(failed), "JSON");
  dom::object root;
  if (document.get(root)) return wrong("$", describe(document), "an object");

  KVASIR_TRY_STATUS(read_steps(root));
  KVASIR_TRY(const auto added, get<dom::array>(root, "$", "added_tokens", "an array"));
  KVASIR_TRY_STATUS(read_added_tokens(added));

  KVASIR_TRY(const auto model, get<dom::object>(root, "$", "model", "an object"));
  KVASIR_TRY(const auto type, get<std::string_view>(model, "$.model", "type", "\"BPE\""));
  if (type != "BPE") return wrong("$.model.type", quote(type), "\"BPE\"");
  for (const char* key : {"dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix"}) {
    KVASIR_TRY_STATUS(expect_absent(model, "$.model", key));
  }
  for (const char* key : {"byte_fallback", "ignore_merges"})
    KVASIR_TRY_STATUS(expect_false(model, "$.model", key));
  KVASIR_TRY(const auto vocab, get<dom::object>(model, "$.model", "vocab", "an object of token ids"));
  KVASIR_TRY(const auto merges, get<dom::array>(model, "$.model", "merges", "an array"));
  BytesIndex index(file_.tokens, vocab.size());
  for (const dom::key_value_pair entry : vocab)
    KVASIR_TRY_STATUS(read_vocab_entry(entry.key, entry.value, index));
  KVASIR_TRY_STATUS(read_merges(merges, index));
  for (const TokenizerFile::Added& token : file_.added) set_token(token.id, token.content);
  return std::move(file_);
}

// What happens around the model: only V4's pre-tokenizer, and nothing that changes text or adds tokens.
Status Parser::read_steps(dom::object root) const {
  KVASIR_TRY_STATUS(read_normalizer(root));
  KVASIR_TRY_STATUS(read_pre_tokenizer(root));
  KVASIR_TRY(const auto decoder, get<dom::object>(root, "$", "decoder", "an object"));
  KVASIR_TRY(const auto type, get<std::string_view>(decoder, "$.decoder", "type", "\"ByteLevel\""));
  if (type != "ByteLevel") return wrong("$.decoder.type", quote(type), "\"ByteLevel\"");
  dom::element processor;
  if (root["post_processor"].get(processor)) return {};
  return read_post_processor(processor, "$.post_processor");
}

Status Parser::read_normalizer(dom::object root) const {
  dom::element normalizer;
  if (root["normalizer"].get(normalizer) || normalizer.is_null()) return {};
  dom::array steps;
  if (!normalizer["normalizers"].get(steps) && steps.size() == 0) return {};
  return wrong("$.normalizer", describe(normalizer), "null or an empty Sequence: V4 does not change text");
}

// ByteLevel adds nothing; TemplateProcessing, which saved fine-tunes have, would add BOS, which is the chat
// encoding's work here.
Status Parser::read_post_processor(dom::element processor, const std::string& path) const {
  if (processor.is_null()) return {};
  constexpr std::string_view kExpected = "null, ByteLevel, TemplateProcessing or a Sequence of them";
  dom::object object;
  if (processor.get(object)) return wrong(path, describe(processor), kExpected);
  KVASIR_TRY(const auto type, get<std::string_view>(object, path, "type", kExpected));
  if (type == "ByteLevel" || type == "TemplateProcessing") return {};
  if (type != "Sequence") return wrong(path + ".type", quote(type), kExpected);
  KVASIR_TRY(const auto steps, get<dom::array>(object, path, "processors", "an array"));
  size_t i = 0;
  for (const dom::element step : steps) {
    KVASIR_TRY_STATUS(read_post_processor(step, fmt::format("{}.processors[{}]", path, i++)));
  }
  return {};
}

Status Parser::read_pre_tokenizer(dom::object root) const {
  KVASIR_TRY(const auto sequence, get<dom::object>(root, "$", "pre_tokenizer", "V4's sequence of splits"));
  KVASIR_TRY(const auto steps, get<dom::array>(sequence, "$.pre_tokenizer", "pretokenizers", "an array"));
  if (steps.size() != 4) {
    return wrong("$.pre_tokenizer.pretokenizers", fmt::format("{} steps", steps.size()),
                 "V4's three splits and ByteLevel");
  }
  size_t i = 0;
  for (const dom::element step : steps) {
    const std::string path = fmt::format("$.pre_tokenizer.pretokenizers[{}]", i);
    dom::object object;
    if (step.get(object)) return wrong(path, describe(step), "an object");
    const std::string expected_type = i < 3 ? "Split" : "ByteLevel";
    KVASIR_TRY(const auto type, get<std::string_view>(object, path, "type", quote(expected_type)));
    if (type != expected_type) return wrong(path + ".type", quote(type), quote(expected_type));
    if (i == 3) {
      KVASIR_TRY_STATUS(expect_false(object, path, "add_prefix_space"));
      KVASIR_TRY(const bool use_regex, get<bool>(object, path, "use_regex", "false, as in V4"));
      if (use_regex) return wrong(path + ".use_regex", "true", "false, as in V4");
      break;
    }
    KVASIR_TRY(const auto pattern, get<dom::object>(object, path, "pattern", "an object"));
    KVASIR_TRY(const auto regex, get<std::string_view>(pattern, path + ".pattern", "Regex", "V4's pattern"));
    if (regex != kSplits[i])
      return wrong(path + ".pattern.Regex", quote(regex), "V4's: " + quote(kSplits[i]));
    KVASIR_TRY(const auto behavior, get<std::string_view>(object, path, "behavior", "\"Isolated\""));
    if (behavior != "Isolated") return wrong(path + ".behavior", quote(behavior), "\"Isolated\"");
    KVASIR_TRY_STATUS(expect_false(object, path, "invert"));
    ++i;
  }
  return {};
}

Result<TokenId> Parser::read_id(dom::element value, const std::string& path) const {
  int64_t id = -1;
  if (value.get(id) != simdjson::SUCCESS || id < 0 || id >= TokenizerFile::kMaxIds) {
    return wrong(path, describe(value), fmt::format("a token id from 0 to {}", TokenizerFile::kMaxIds - 1));
  }
  return static_cast<TokenId>(id);
}

void Parser::set_token(TokenId id, std::string_view bytes) {
  const size_t i = static_cast<size_t>(id);
  if (i >= file_.tokens.size()) file_.tokens.resize(i + 1);
  file_.tokens[i] = bytes;
}

Status Parser::read_added_tokens(dom::array added) {
  for (const dom::element e : added) {
    const std::string path = fmt::format("$.added_tokens[{}]", file_.added.size());
    dom::object object;
    if (e.get(object)) return wrong(path, describe(e), "an object");
    KVASIR_TRY(const auto id_value, get<dom::element>(object, path, "id", "a token id"));
    KVASIR_TRY(const TokenId id, read_id(id_value, path + ".id"));
    KVASIR_TRY(const auto content, get<std::string_view>(object, path, "content", "a string"));
    if (content.empty() || content.size() > TokenizerFile::kMaxTokenBytes) {
      return wrong(path + ".content", fmt::format("{} bytes", content.size()),
                   fmt::format("1 to {}", TokenizerFile::kMaxTokenBytes));
    }
    for (const char* key : {"single_word", "lstrip", "rstrip"}) {
      KVASIR_TRY_STATUS(expect_false(object, path, key));
    }
    dom::element special_value;
    bool special = false;
    if (!object["special"].get(special_value) && special_value.get(special)) {
      return wrong(path + ".special", describe(special_value), "true or false");
    }
    if (!added_by_id_.emplace(id, content).second) {
      return wrong(path + ".id", std::to_string(id), "an id that no added token before it has");
    }
    if (!added_by_content_.emplace(content, id).second) {
      return wrong(path + ".content", quote(content), "a content that no added token before it has");
    }
    file_.added.push_back({id, std::string(content), special});
  }
  return {};
}

Status Parser::read_vocab_entry(std::string_view spelling, dom::element value, BytesIndex& index) {
  // The path is made only for an error: there are a hundred thousand entries.
  const auto path = [&] { return fmt::format("$.model.vocab[{}]", quote(spelling)); };
  int64_t wide = -1;
  if (value.get(wide) != simdjson::SUCCESS || wide < 0 || wide >= TokenizerFile::kMaxIds) {
    return read_id(value, path()).error();
  }
  const TokenId id = static_cast<TokenId>(wide);
  if (spelling.empty()) return wrong("$.model.vocab", "an empty token", "tokens of at least one byte");

  const auto by_content = added_by_content_.find(spelling);
  const auto by_id = added_by_id_.find(id);
  if (by_content != added_by_content_.end() && by_content->second != id) {
    return wrong(path(), std::to_string(id),
                 fmt::format("{}, its id among added_tokens", by_content->second));
  }
  if (by_id != added_by_id_.end() && by_id->second != spelling) {
    return wrong(path(), std::to_string(id),
                 fmt::format("an id other than that of the added token {}", quote(by_id->second)));
  }
  const bool byte_level = alphabet_.read(spelling, buffer_);
  if (!byte_level && by_id == added_by_id_.end()) {
    return wrong(path(), "a character outside the byte-level alphabet", "a byte-level or an added token");
  }
  if (!byte_level) buffer_ = spelling;
  if (by_id != added_by_id_.end() && buffer_ != spelling) {
    return wrong(path(), "a byte-level spelling", "an added token's literal content");
  }
  if (buffer_.size() > TokenizerFile::kMaxTokenBytes) {
    return wrong(path(), fmt::format("{} bytes", buffer_.size()),
                 fmt::format("at most {}", TokenizerFile::kMaxTokenBytes));
  }
  if (static_cast<size_t>(id) < file_.tokens.size() && !file_.tokens[static_cast<size_t>(id)].empty()) {
    return wrong(path(), fmt::format("{}, the id of {}", id, quote(file_.tokens[static_cast<size_t>(id)])),
                 "an id of its own");
  }
  if (byte_level && index.find(buffer_) >= 0) return wrong(path(), "a second entry", "one entry a token");
  set_token(id, buffer_);
  if (byte_level) index.insert(id);
  return {};
}

Status Parser::read_merges(dom::array merges, const BytesIndex& index) {
  for (size_t b = 0; b < 256; ++b) {
    const char byte = static_cast<char>(b);
    file_.bytes[b] = index.find({&byte, 1});
    if (file_.bytes[b] < 0) {
      return wrong("$.model.vocab", fmt::format("no token for byte 0x{:02x}", b), "all 256 byte tokens");
    }
  }
  rank_of_.assign(file_.tokens.size(), -1);
  size_t rank = 0;
  for (const dom::element merge : merges) {
    KVASIR_TRY(const auto parts, merge_parts(merge, rank));
    KVASIR_TRY_STATUS(read_merge(parts, rank, index));
    ++rank;
  }
  return {};
}

// A merge is "a b" or, in newer files, ["a", "b"].
Result<std::pair<std::string_view, std::string_view>> Parser::merge_parts(dom::element merge,
                                                                          size_t rank) const {
  constexpr std::string_view kExpected = "two tokens, as \"a b\" or [\"a\", \"b\"]";
  const auto path = [&] { return fmt::format("$.model.merges[{}]", rank); };
  std::string_view text;
  if (!merge.get(text)) {
    const size_t space = text.find(' ');
    if (space == 0 || space == std::string_view::npos || space + 1 == text.size()) {
      return wrong(path(), quote(text), kExpected);
    }
    return std::pair(text.substr(0, space), text.substr(space + 1));
  }
  dom::array array;
  std::string_view left, right;
  if (merge.get(array) || array.size() != 2 || array.at(0).get(left) || array.at(1).get(right) ||
      left.empty() || right.empty()) {
    return wrong(path(), describe(merge), kExpected);
  }
  return std::pair(left, right);
}

Status Parser::read_merge(std::pair<std::string_view, std::string_view> parts, size_t rank,
                          const BytesIndex& index) {
  const auto path = [&] { return fmt::format("$.model.merges[{}]", rank); };
  TokenId ids[2];
  for (int side = 0; side < 2; ++side) {
    const std::string_view spelling = side == 0 ? parts.first : parts.second;
    std::string& bytes = side == 0 ? left_ : right_;
    ids[side] = alphabet_.read(spelling, bytes) ? index.find(bytes) : -1;
    if (ids[side] < 0) return wrong(path(), quote(spelling), "a token of the vocabulary");
    if (bytes.size() > 1 && rank_of_[static_cast<size_t>(ids[side])] < 0) {
      return wrong(path(), quote(spelling), "a byte, or a token that an earlier merge makes");
    }
  }
  left_ += right_;
  const TokenId product = index.find(left_);
  if (product < 0) {
    return wrong(path(), fmt::format("{} and {}", quote(parts.first), quote(parts.second)),
                 "tokens that make a token of the vocabulary");
  }
  int32_t& made_by = rank_of_[static_cast<size_t>(product)];
  if (made_by >= 0) {
    return wrong(path(), fmt::format("the token that merges[{}] makes", made_by), "each token made once");
  }
  made_by = static_cast<int32_t>(rank);
  file_.merges.push_back({ids[0], ids[1], product});
  return {};
}

}  // namespace

Result<TokenizerFile> parse_tokenizer_file(std::string_view json, std::string_view name) {
  return Parser(name).parse(json);
}

}  // namespace kvasir
