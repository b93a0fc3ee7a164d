// Memory: where a backend computes, as the rooms above it see it: bytes that can be had, filled, fetched and moved.
//
// Addresses of memory that is not on the host are good for arithmetic and for the backend's own ops, nothing else.
// write, copy and clear are ordered with the ops of the backend that the memory belongs to: an op that is called later
// sees them. Faults of a device surface where the op's do, at Ops::synchronize.
// Threading: as the backend's ops, one caller at a time.
#pragma once

#include <vector>

#include "tensor/buffer.h"

namespace kvasir {

// Random elements: each is one of a table's 65,536, picked by 16 bits of a generator. Every stretch of `piece_bytes` has a
// generator of its own, random_state(seed, tensor, piece), so it can be drawn anywhere and in any order.
struct RandomDraw {
  void* to = nullptr;
  int64_t count = 0;        // elements
  int element_bytes = 1;    // 1, 2 or 4
  const void* table = nullptr;  // on the host
  uint64_t seed = 0, tensor = 0;
  int64_t piece_bytes = 0;
};

// The generator: splitmix64. Draw number n (from 0) of a piece is random_bits(state + (n + 1) * kRandomStep); element i is
// picked by bits [16 (i % 4), 16 (i % 4) + 16) of draw i / 4.
inline constexpr uint64_t kRandomStep = 0x9e3779b97f4a7c15u;
constexpr uint64_t random_bits(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}
constexpr uint64_t random_state(uint64_t seed, uint64_t tensor, uint64_t piece) {
  return random_bits(random_bits(random_bits(seed) + tensor) + piece);
}

class Memory {
 public:
  virtual ~Memory() = default;

  // Zeroed. `what` names the purpose in the error text. kBusy: there is not enough.
  virtual Result<Buffer> allocate(int64_t bytes, const char* what) = 0;
  // From the host; `from` may be reused when this returns.
  virtual void write(void* to, const void* from, int64_t bytes) = 0;
  // To the host, after every op that was called before.
  virtual void read(void* to, const void* from, int64_t bytes) = 0;
  // Within the memory. The stretches may overlap.
  virtual void copy(void* to, const void* from, int64_t bytes) = 0;
  // For synthetic weights in memory that is not on the host; the host's is drawn by its threads (model/synthetic.cc).
  virtual void draw(const RandomDraw& draw) = 0;
  // Whether the host may follow its addresses.
  virtual bool on_host() const = 0;
  // Bytes that allocate() could still give.
  virtual Result<int64_t> available() = 0;
};

// Ordinary memory of this process, for backends that compute on the CPU.
Memory& host_memory();

// A stretch of a memory as the host may see it: itself, or a copy.
class HostBytes {
 public:
  enum class Content { kFetch, kUnset };  // whether a copy is to hold what is there now
  HostBytes(Memory& memory, std::byte* there, int64_t bytes, Content content);

  std::byte* data() { return copy_.empty() ? there_ : copy_.data(); }
  // The copy goes to where it came from.
  void write_back();

 private:
  Memory& memory_;
  std::byte* there_;
  std::vector<std::byte> copy_;
};

}  // namespace kvasir
