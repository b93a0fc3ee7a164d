// ReplayMemory: what the model really sampled for answers that clients will send back (protocol 6.4, RPL-1 to
// RPL-4).
//
// A client returns an answer as JSON; rendered again it may differ from the sampled tokens in blank lines,
// number forms or key order, and then the prefix cache misses. So each finished answer is remembered with its
// tokens: under each of its call ids, or without calls under a hash of (reasoning, content). Texts are
// compared without the white space around them, since clients trim it. Keys hold the cache namespace, so that
// no tenant's request can find another's answer.
//
// In memory the least recently used records go first once they exceed a number of bytes; a store may keep all
// of them and give them back (RPL-4). Any thread; the store is called without the lock held.
#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "text/chat_message.h"

namespace kvasir {

// An assistant message as it was sampled.
struct SampledTurn {
  // After the think token of the prompt, up to the end of the block or of the text; no end token.
  std::vector<int32_t> tokens = {};
  bool in_reasoning = false;  // the prompt ended with <think>
  std::string reasoning = {};
  std::string content = {};
  std::vector<ToolCall> calls =
      {};  // ids as emitted, names as in the prompt, arguments as JSON text in a string
};

// Where records live beyond this process. Either may be empty.
struct ReplayStore {
  std::function<void(const std::string& key, const std::string& value)> save;
  std::function<std::optional<std::string>(const std::string& key)> load;
};

// The bytes of a record, versioned; nothing if they are not ours (a damaged record is a miss).
std::string serialize_turn(const SampledTurn& turn);
std::optional<SampledTurn> parse_turn(std::string_view bytes);

std::string replay_call_key(uint64_t cache_namespace, std::string_view call_id);
std::string replay_text_key(uint64_t cache_namespace, std::string_view reasoning, std::string_view content);

// Equal as JSON values: members in any order, numbers by value.
bool json_equal(const JsonValue& a, const JsonValue& b);

class ReplayMemory {
 public:
  explicit ReplayMemory(size_t max_bytes, ReplayStore store = {})
      : max_bytes_(max_bytes), store_(std::move(store)) {}

  // Not for an answer that a stop string or a client cut: its tokens are not what the client was shown.
  void remember(uint64_t cache_namespace, const SampledTurn& turn);

  // The turn whose calls contain this id.
  std::shared_ptr<const SampledTurn> find_call(uint64_t cache_namespace, std::string_view call_id);
  // The turn that `message` repeats, for exact replay: the same calls with equal names and arguments, and no
  // text that differs; or, without calls, the same texts. Null if there is none or the client edited it
  // (RPL-3).
  std::shared_ptr<const SampledTurn> find_turn(uint64_t cache_namespace, const Message& message);

  size_t bytes() const;

 private:
  struct Record {
    std::string key;
    std::shared_ptr<const SampledTurn> turn;
    size_t bytes = 0;
  };
  std::shared_ptr<const SampledTurn> find(const std::string& key);
  void insert(const std::string& key, std::shared_ptr<const SampledTurn> turn, size_t bytes);

  const size_t max_bytes_;
  const ReplayStore store_;
  mutable std::mutex mutex_;
  // All guarded by mutex_. Front: used last.
  std::list<Record> records_;
  std::unordered_map<std::string_view, std::list<Record>::iterator> by_key_;  // views into the records' keys
  size_t bytes_ = 0;
};

}  // namespace kvasir
