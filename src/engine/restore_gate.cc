#include "engine/restore_gate.h"

namespace kvasir {

RestoreGate::RestoreGate(const KvLayout& layout) {
  std::vector<int64_t> bytes = layout.section_bytes();
  for (const auto& layer : layout.layers) {
    int section = layer.ratio == 0 ? -1 : 0;
    for (int64_t end = bytes[0]; section >= 0 && layer.entries.data_offset >= end; end += bytes[section])
      ++section;
    sections_.push_back(section);
  }
}

void RestoreGate::watch(Restore& restore) {
  restore_ = &restore;
  failed_ = false;
  waited_ = {};
}

bool RestoreGate::open(int layer) {
  int section = sections_[static_cast<size_t>(layer)];
  if (section < 0 || failed_) return !failed_;
  if (restore_->sections_ready() <= section) {
    auto begin = std::chrono::steady_clock::now();
    restore_->wait_section(section);
    waited_ += std::chrono::steady_clock::now() - begin;
  }
  failed_ = restore_->sections_ready() <= section;
  return !failed_;
}

}  // namespace kvasir
