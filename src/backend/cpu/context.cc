#include "backend/cpu/context.h"

#include <algorithm>

#include "base/check.h"

namespace kvasir::cpu {
namespace {

constexpr int64_t kAlign = 64;
constexpr int64_t kMinChunk = 1 << 20;

}  // namespace

int64_t Scratch::held() const {
  int64_t bytes = 0;
  for (const Buffer& chunk : chunks_) bytes += chunk.size();
  return bytes;
}

std::byte* Scratch::take_bytes(int64_t bytes) {
  KVASIR_CHECK(bytes >= 0, "{} bytes", bytes);
  bytes = (bytes + kAlign - 1) / kAlign * kAlign;
  while (chunk_ < chunks_.size() && used_ + bytes > chunks_[chunk_].size()) {
    ++chunk_;
    used_ = 0;
  }
  if (chunk_ == chunks_.size()) {
    auto chunk = Buffer::make(std::max(bytes, kMinChunk), "scratch of the CPU backend");
    KVASIR_CHECK(chunk.has_value(), "{}", chunk.error().message);
    chunks_.push_back(*std::move(chunk));
  }
  std::byte* p = chunks_[chunk_].data() + used_;
  used_ += bytes;
  return p;
}

void Scratch::rewind(size_t chunk, int64_t used) {
  chunk_ = chunk;
  used_ = used;
  if (chunk != 0 || used != 0 || chunks_.size() <= 1) return;
  // Nothing is taken: one chunk of the whole size replaces the pieces, so that the next op of this size finds
  // its memory in one place and allocates nothing.
  int64_t bytes = held();
  chunks_.clear();
  auto whole = Buffer::make(bytes, "scratch of the CPU backend");
  KVASIR_CHECK(whole.has_value(), "{}", whole.error().message);
  chunks_.push_back(*std::move(whole));
}

}  // namespace kvasir::cpu
