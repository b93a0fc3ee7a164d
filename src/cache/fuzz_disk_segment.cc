// libFuzzer: a segment file of any bytes is scanned without a crash, and every record that is told of lies
// inside it.
#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "cache/disk_format.h"

namespace {

class MemoryFile : public kvasir::DiskFile {
 public:
  MemoryFile(const uint8_t* data, size_t size) : data_(data), size_(static_cast<int64_t>(size)) {}
  kvasir::Result<int64_t> size() override { return size_; }
  kvasir::Status read(int64_t offset, std::span<const iovec> parts) override {
    for (const iovec& part : parts) {
      auto bytes = static_cast<int64_t>(part.iov_len);
      if (offset < 0 || bytes > size_ - offset)
        return kvasir::Error{kvasir::ErrorCode::kInvalid, "the file ends before that"};
      std::memcpy(part.iov_base, data_ + offset, part.iov_len);
      offset += bytes;
    }
    return {};
  }
  kvasir::Status write(int64_t, std::span<const iovec>) override { std::abort(); }
  kvasir::Status sync() override { std::abort(); }
  kvasir::Status truncate(int64_t) override { std::abort(); }
  void drop_cached() override {}

 private:
  const uint8_t* data_;
  int64_t size_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace kvasir;
  auto bytes = std::as_bytes(std::span(data, size));
  (void)decode_segment_header(bytes);
  (void)decode_head(bytes, 16, 3);
  if (size >= static_cast<size_t>(kRecordHeaderBytes)) {
    // Past the checksum, which a fuzzer does not guess: what it finds behind a right one.
    std::vector<std::byte> head(bytes.begin(), bytes.end());
    uint64_t length = head.size() / 8 * 8;
    head.resize(length);
    uint32_t magic = 0x4352564b;
    std::memcpy(head.data(), &magic, 4);
    std::memcpy(head.data() + 8, &length, 8);
    std::memset(head.data() + 56, 0, 8);
    uint64_t sum = checksum_of(head);
    std::memcpy(head.data() + 56, &sum, 8);
    if (auto decoded = decode_head(head, 16, 3)) {
      auto again = decode_head(encode_head(*decoded), 16, 3);
      if (!again || again->extent.tokens != decoded->extent.tokens ||
          again->snapshot.tail != decoded->snapshot.tail)
        std::abort();
    }
  }
  MemoryFile file(data, size);
  auto scan = scan_segment(file, 16, 3, [&](const RecordHead& head, const LocatedHead& located) {
    int64_t end = located.offset + std::ssize(located.bytes) + head.payload_bytes;
    if (located.offset < kSegmentHeaderBytes || head.payload_bytes < 0 || end > static_cast<int64_t>(size))
      std::abort();
  });
  if (scan && scan->end > std::max<int64_t>(static_cast<int64_t>(size), kSegmentHeaderBytes)) std::abort();
  return 0;
}
