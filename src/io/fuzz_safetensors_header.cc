// libFuzzer: a safetensors header of any bytes is either refused or true of the file: every tensor it
// gives lies inside, fills its range, and shares no byte with another.
#include <algorithm>
#include <cstdlib>
#include <span>

#include "io/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace kvasir;
  std::span<const std::byte> bytes = std::as_bytes(std::span(data, size));
  auto header = parse_safetensors_header(bytes, static_cast<int64_t>(size), "fuzz");
  if (!header) {
    const std::string& message = header.error().message;
    if (message.empty() || message.size() > 1000 || message.find('\n') != std::string::npos) std::abort();
    return 0;
  }
  const auto file_size = static_cast<int64_t>(size);
  std::vector<std::pair<int64_t, int64_t>> ranges;
  int64_t used = 0;
  for (size_t i = 0; i < header->tensors.size(); ++i) {
    const TensorInfo& t = header->tensors[i];
    if (i > 0 && header->tensors[i - 1].name >= t.name) std::abort();
    if (t.begin < header->data_begin || t.bytes < 0 || t.begin + t.bytes > file_size) std::abort();
    if (tensor_bytes(t.dtype, t.shape) != t.bytes) std::abort();
    ranges.emplace_back(t.begin, t.bytes);
    used += t.bytes;
  }
  std::sort(ranges.begin(), ranges.end());
  for (size_t i = 1; i < ranges.size(); ++i) {
    if (ranges[i - 1].first + ranges[i - 1].second > ranges[i].first) std::abort();
  }
  if (header->unused_bytes != file_size - header->data_begin - used) std::abort();
  return 0;
}
