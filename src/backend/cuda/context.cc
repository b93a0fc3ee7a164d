// The chunks of scratch; see context.h.
#include "backend/cuda/context.h"

#include <algorithm>

#include "base/check.h"

namespace kvasir::cuda {
namespace {

constexpr int64_t kMinChunk = int64_t{64} << 20;

}  // namespace

std::byte* Scratch::take_bytes(int64_t bytes) {
  bytes = (std::max<int64_t>(bytes, 1) + 255) / 256 * 256;
  while (chunk_ < chunks_.size() && used_ + bytes > chunks_[chunk_].size()) {
    ++chunk_;
    used_ = 0;
  }
  if (chunk_ == chunks_.size()) {
    auto chunk = memory_.allocate(std::max(bytes, kMinChunk), "scratch of the CUDA backend");
    KVASIR_CHECK(chunk.has_value(), "{}", chunk.error().message);
    chunks_.push_back(*std::move(chunk));
    used_ = 0;
  }
  std::byte* at = chunks_[chunk_].data() + used_;
  used_ += bytes;
  return at;
}

}  // namespace kvasir::cuda
