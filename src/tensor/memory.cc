// The host's own memory; see memory.h.
#include "tensor/memory.h"

#include <unistd.h>

#include <cstring>

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
  bool on_host() const override { return true; }
  Result<int64_t> available() override {
    // What the kernel may hand out, page cache given back included: free and available are different there.
    return static_cast<int64_t>(sysconf(_SC_AVPHYS_PAGES)) * sysconf(_SC_PAGESIZE);
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
