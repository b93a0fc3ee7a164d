// GrammarCache: compiled grammars by the text of what they were compiled from, so that the same tools or
// schema in every request of a conversation cost one compilation.
//
// Bounded by the bytes of the grammars and their keys; what was not used for longest goes first, and lives on
// while a request holds it. Refusals are not kept. Any thread; compiling happens outside the lock.
#pragma once

#include <cstddef>
#include <list>
#include <mutex>
#include <string>
#include <unordered_map>
#include <utility>

#include "base/result.h"
#include "grammar/compile_grammar.h"

namespace kvasir {

class GrammarCache {
 public:
  explicit GrammarCache(size_t max_bytes = size_t{64} << 20) : max_bytes_(max_bytes) {}

  Result<SharedGrammar> get(const GrammarRequest& request);

  size_t bytes() const;
  size_t size() const;

 private:
  using Entry = std::pair<std::string, SharedGrammar>;

  void insert(std::string key, const SharedGrammar& grammar);

  const size_t max_bytes_;
  mutable std::mutex mutex_;
  std::list<Entry> entries_;                                            // guarded by mutex_; the newest first
  std::unordered_map<std::string, std::list<Entry>::iterator> places_;  // guarded by mutex_
  size_t bytes_ = 0;                                                    // guarded by mutex_
};

}  // namespace kvasir
