// A record, little-endian: magic "KVRT", version byte, flags byte, then each text as u32 length and bytes,
// the tokens as u32 count and i32 each, the calls as u32 count and three texts each. Every length is checked
// against the bytes that are there before anything is allocated.
#include "api/replay_memory.h"

#include <xxhash.h>

#include <algorithm>
#include <cstring>

#include "text/chat_template.h"

namespace kvasir {
namespace {

constexpr std::string_view kMagic = "KVRT";
constexpr char kVersion = 1;
constexpr size_t kRecordOverhead = 128;  // list node, map entry

void put_u32(std::string& out, size_t value) {
  for (int shift = 0; shift < 32; shift += 8) out += static_cast<char>(value >> shift & 0xFF);
}

void put_text(std::string& out, std::string_view text) {
  put_u32(out, text.size());
  out += text;
}

class RecordReader {
 public:
  explicit RecordReader(std::string_view bytes) : rest_(bytes) {}

  uint32_t u32() {
    if (rest_.size() < 4) return fail();
    uint32_t value = 0;
    for (int i = 3; i >= 0; --i) value = value << 8 | static_cast<unsigned char>(rest_[i]);
    rest_.remove_prefix(4);
    return value;
  }
  char byte() {
    if (rest_.empty()) return static_cast<char>(fail());
    const char c = rest_[0];
    rest_.remove_prefix(1);
    return c;
  }
  // A count of things of `size` bytes each that are all still there.
  uint32_t count(size_t size) {
    const uint32_t n = u32();
    return n > rest_.size() / size ? fail() : n;
  }
  std::string text() {
    const uint32_t n = count(1);
    std::string out(rest_.substr(0, n));
    rest_.remove_prefix(n);
    return out;
  }
  bool good() const { return good_ && rest_.empty(); }

 private:
  uint32_t fail() {
    good_ = false;
    rest_ = {};
    return 0;
  }
  std::string_view rest_;
  bool good_ = true;
};

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view kBlanks = " \t\r\n";
  const size_t begin = text.find_first_not_of(kBlanks);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kBlanks) - begin + 1);
}

// A text that the client sent back must be the one remembered; one that it left out is nothing to disagree
// with.
bool agrees(std::string_view sent, std::string_view remembered) {
  return trimmed(sent).empty() || trimmed(sent) == trimmed(remembered);
}

bool same_calls(const std::vector<ToolCall>& sent, const std::vector<ToolCall>& remembered) {
  return std::equal(sent.begin(), sent.end(), remembered.begin(), remembered.end(),
                    [](const ToolCall& a, const ToolCall& b) {
                      return a.id == b.id && a.name == b.name &&
                             json_equal(JsonValue(call_parameters(a.arguments)),
                                        JsonValue(call_parameters(b.arguments)));
                    });
}

}  // namespace

bool json_equal(const JsonValue& a, const JsonValue& b) {
  if (a.kind() != b.kind()) return false;
  switch (a.kind()) {
    case JsonValue::Kind::kArray:
      return std::equal(a.as_array().begin(), a.as_array().end(), b.as_array().begin(), b.as_array().end(),
                        json_equal);
    case JsonValue::Kind::kObject:
      return a.as_object().size() == b.as_object().size() &&
             std::all_of(a.as_object().begin(), a.as_object().end(), [&](const JsonValue::Member& member) {
               const JsonValue* other = b.find(member.key);
               return other != nullptr && json_equal(member.value, *other);
             });
    case JsonValue::Kind::kNumber:
      // Integers beyond a double's 53 bits are compared by their digits.
      if (a.is_integer() && b.is_integer()) return a.dump() == b.dump();
      return a.as_double() == b.as_double();
    default:
      return a.dump() == b.dump();
  }
}

std::string serialize_turn(const SampledTurn& turn) {
  std::string out(kMagic);
  out += kVersion;
  out += turn.in_reasoning ? 1 : 0;
  put_text(out, turn.reasoning);
  put_text(out, turn.content);
  put_u32(out, turn.tokens.size());
  for (const int32_t id : turn.tokens) put_u32(out, static_cast<uint32_t>(id));
  put_u32(out, turn.calls.size());
  for (const ToolCall& call : turn.calls) {
    put_text(out, call.id);
    put_text(out, call.name);
    put_text(out, call.arguments.is_string() ? call.arguments.as_string() : call.arguments.dump());
  }
  return out;
}

std::optional<SampledTurn> parse_turn(std::string_view bytes) {
  if (!bytes.starts_with(kMagic)) return std::nullopt;
  RecordReader reader(bytes.substr(kMagic.size()));
  if (reader.byte() != kVersion) return std::nullopt;
  SampledTurn turn;
  turn.in_reasoning = reader.byte() != 0;
  turn.reasoning = reader.text();
  turn.content = reader.text();
  turn.tokens.resize(reader.count(4));
  for (int32_t& id : turn.tokens) id = static_cast<int32_t>(reader.u32());
  turn.calls.resize(reader.count(12));
  for (ToolCall& call : turn.calls) {
    call.id = reader.text();
    call.name = reader.text();
    call.arguments = JsonValue(reader.text());
  }
  if (!reader.good()) return std::nullopt;
  return turn;
}

std::string replay_call_key(uint64_t cache_namespace, std::string_view call_id) {
  return "call/" + std::to_string(cache_namespace) + "/" + std::string(call_id);
}

std::string replay_text_key(uint64_t cache_namespace, std::string_view reasoning, std::string_view content) {
  std::string both;
  put_text(both, trimmed(reasoning));
  both += trimmed(content);
  const XXH128_hash_t hash = XXH3_128bits(both.data(), both.size());
  return "text/" + std::to_string(cache_namespace) + "/" + std::to_string(hash.high64) + "-" +
         std::to_string(hash.low64);
}

void ReplayMemory::remember(uint64_t cache_namespace, const SampledTurn& turn) {
  const auto shared = std::make_shared<const SampledTurn>(turn);
  const std::string value = serialize_turn(turn);
  std::vector<std::string> keys;
  for (const ToolCall& call : turn.calls) keys.push_back(replay_call_key(cache_namespace, call.id));
  if (keys.empty()) keys.push_back(replay_text_key(cache_namespace, turn.reasoning, turn.content));
  for (const std::string& key : keys) {
    insert(key, shared, value.size());
    if (store_.save) store_.save(key, value);
  }
}

std::shared_ptr<const SampledTurn> ReplayMemory::find_call(uint64_t cache_namespace,
                                                           std::string_view call_id) {
  auto turn = find(replay_call_key(cache_namespace, call_id));
  if (turn == nullptr || std::none_of(turn->calls.begin(), turn->calls.end(),
                                      [&](const ToolCall& call) { return call.id == call_id; })) {
    return nullptr;
  }
  return turn;
}

std::shared_ptr<const SampledTurn> ReplayMemory::find_turn(uint64_t cache_namespace, const Message& message) {
  std::shared_ptr<const SampledTurn> turn;
  const std::string_view reasoning =
      message.reasoning ? std::string_view(*message.reasoning) : std::string_view();
  if (message.tool_calls.empty()) {
    turn = find(replay_text_key(cache_namespace, reasoning, message.content));
    // The hash only finds it.
    if (turn && (trimmed(turn->reasoning) != trimmed(reasoning) || !turn->calls.empty() ||
                 trimmed(turn->content) != trimmed(message.content))) {
      return nullptr;
    }
    return turn;
  }
  turn = find_call(cache_namespace, message.tool_calls[0].id);
  if (turn == nullptr || !same_calls(message.tool_calls, turn->calls)) return nullptr;
  if (!agrees(reasoning, turn->reasoning) || !agrees(message.content, turn->content)) return nullptr;
  return turn;
}

std::shared_ptr<const SampledTurn> ReplayMemory::find(const std::string& key) {
  {
    std::lock_guard lock(mutex_);
    const auto found = by_key_.find(key);
    if (found != by_key_.end()) {
      records_.splice(records_.begin(), records_, found->second);
      return found->second->turn;
    }
  }
  if (!store_.load) return nullptr;
  const std::optional<std::string> bytes = store_.load(key);
  if (!bytes) return nullptr;
  std::optional<SampledTurn> parsed = parse_turn(*bytes);
  if (!parsed) return nullptr;
  auto turn = std::make_shared<const SampledTurn>(*std::move(parsed));
  insert(key, turn, bytes->size());
  return turn;
}

void ReplayMemory::insert(const std::string& key, std::shared_ptr<const SampledTurn> turn, size_t bytes) {
  std::lock_guard lock(mutex_);
  const auto old = by_key_.find(key);
  if (old != by_key_.end()) {
    const auto record = old->second;
    bytes_ -= record->bytes;
    by_key_.erase(old);
    records_.erase(record);
  }
  records_.push_front({key, std::move(turn), key.size() + bytes + kRecordOverhead});
  by_key_.emplace(records_.front().key, records_.begin());
  bytes_ += records_.front().bytes;
  while (bytes_ > max_bytes_) {
    bytes_ -= records_.back().bytes;
    by_key_.erase(records_.back().key);
    records_.pop_back();
  }
}

size_t ReplayMemory::bytes() const {
  std::lock_guard lock(mutex_);
  return bytes_;
}

}  // namespace kvasir
