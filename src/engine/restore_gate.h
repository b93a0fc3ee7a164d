// RestoreGate: lets a sequence compute while its pages are still being read from disk. A layer runs once its
// section of every page is there (KvLayout::section_bytes), so that the first layers compute while the last
// ones are read.
//
// For one restore at a time; engine thread.
#pragma once

#include <chrono>
#include <vector>

#include "cache/prefix_cache.h"
#include "model/forward.h"

namespace kvasir {

class RestoreGate final : public LayerGate {
 public:
  explicit RestoreGate(const KvLayout& layout);

  // From now on the gate is this restore's, which outlives its use.
  void watch(Restore& restore);
  bool open(int layer) override;

  bool failed() const { return failed_; }
  // Time in open() since watch().
  std::chrono::steady_clock::duration waited() const { return waited_; }

 private:
  std::vector<int> sections_;  // that each layer reads; -1: none
  Restore* restore_ = nullptr;
  bool failed_ = false;
  std::chrono::steady_clock::duration waited_{};
};

}  // namespace kvasir
