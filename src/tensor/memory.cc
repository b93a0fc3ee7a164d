// The host's own memory; see memory.h.
#include "tensor/memory.h"

#include <cstring>
#include <fstream>
#include <string>

namespace kvasir {
namespace {

class HostMemory final : public Memory {
 public:
  Result<Buffer> allocate(int64_t bytes, const char* what) override { return Buffer::make(bytes, what); }
  void write(void* to, const void* from, int64_t bytes) override { copy(to, from, bytes); }
  void read(void* to, const void* from, int64_t bytes) override { copy(to, from, bytes); }
  void copy(void* to, const void* from, int64_t bytes) override {
    if (bytes > 0) std::memmove(to, from, static_cast<size_t>(bytes));
  }
  void draw(const RandomDraw& d) override {
    auto bytes = static_cast<size_t>(d.element_bytes);
    int64_t of_piece = d.piece_bytes / d.element_bytes;
    for (int64_t i = 0; i < d.count; ++i) {
      uint64_t state = random_state(d.seed, d.tensor, static_cast<uint64_t>(i / of_piece));
      auto at = static_cast<uint64_t>(i % of_piece);
      auto pick = static_cast<uint16_t>(random_bits(state + (at / 4 + 1) * kRandomStep) >> (16 * (at % 4)));
      std::memcpy(static_cast<std::byte*>(d.to) + i * d.element_bytes, static_cast<const std::byte*>(d.table) + pick * bytes, bytes);
    }
  }
  bool on_host() const override { return true; }
  Result<int64_t> available() override {
    // With what the page cache would give back; a huge number where the kernel does not say.
    std::ifstream file("/proc/meminfo");
    for (std::string key, unit; file >> key;) {
      int64_t kib = 0;
      if (key == "MemAvailable:" && file >> kib) return kib * 1024;
      std::getline(file, unit);
    }
    return int64_t{1} << 62;
  }
};

}  // namespace

Memory& host_memory() {
  static HostMemory memory;
  return memory;
}

HostBytes::HostBytes(Memory& memory, std::byte* there, int64_t bytes, Content content) : memory_(memory), there_(there) {
  if (memory.on_host() || !there) return;
  copy_.resize(static_cast<size_t>(bytes));
  if (content == Content::kFetch) memory.read(copy_.data(), there, bytes);
}

void HostBytes::write_back() {
  if (!copy_.empty()) memory_.write(there_, copy_.data(), static_cast<int64_t>(copy_.size()));
}

}  // namespace kvasir
