#include "grammar/grammar_cache.h"

#include <fmt/core.h>

namespace kvasir {
namespace {

// Everything that compile_grammar reads. Lengths keep the parts apart.
std::string key_of(const GrammarRequest& request) {
  std::string key = fmt::format("{} {} ", static_cast<int>(request.content), request.parallel_calls);
  const auto add = [&](const JsonValue& value, const std::string& path, bool strict) {
    const std::string text = value.dump();
    key += fmt::format("{} {} {}:{}{}", strict, path.size(), text.size(), path, text);
  };
  add(request.schema, request.schema_path, true);
  for (const GrammarTool& tool : request.tools) add(tool.function, tool.path, tool.strict);
  return key;
}

}  // namespace

Result<SharedGrammar> GrammarCache::get(const GrammarRequest& request) {
  std::string key = key_of(request);
  {
    const std::lock_guard lock(mutex_);
    if (const auto place = places_.find(key); place != places_.end()) {
      entries_.splice(entries_.begin(), entries_, place->second);
      return place->second->second;
    }
  }
  KVASIR_TRY(SharedGrammar grammar, compile_grammar(request));
  insert(std::move(key), grammar);
  return grammar;
}

void GrammarCache::insert(std::string key, const SharedGrammar& grammar) {
  const auto cost = [](const Entry& e) { return 2 * e.first.size() + e.second->bytes(); };
  const std::lock_guard lock(mutex_);
  if (places_.contains(key)) return;  // another thread was faster
  entries_.emplace_front(key, grammar);
  places_.emplace(std::move(key), entries_.begin());
  bytes_ += cost(entries_.front());
  while (bytes_ > max_bytes_ && entries_.size() > 1) {
    bytes_ -= cost(entries_.back());
    places_.erase(entries_.back().first);
    entries_.pop_back();
  }
}

size_t GrammarCache::bytes() const {
  const std::lock_guard lock(mutex_);
  return bytes_;
}

size_t GrammarCache::size() const {
  const std::lock_guard lock(mutex_);
  return entries_.size();
}

}  // namespace kvasir
