// The encoding and the padding of gguf_writer.h. The machine is little endian, as all that kvasir runs on
// are.
#include "io/gguf_writer.h"

#include <array>
#include <bit>
#include <cstring>
#include <set>
#include <utility>

#include "base/check.h"

namespace kvasir {
namespace {

static_assert(std::endian::native == std::endian::little, "values are written as they lie in memory");

constexpr uint32_t kVersion = 3;
constexpr int64_t kAlignment = 32;  // GGUF's default; no general.alignment is written
// Types of metadata values.
constexpr uint32_t kU32 = 4, kI32 = 5, kF32 = 6, kBool = 7, kString = 8, kArray = 9;

template <class T>
void put(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}

void put_string(std::string& out, std::string_view text) {
  put(out, uint64_t{text.size()});
  out += text;
}

int64_t padding(int64_t bytes) { return (kAlignment - bytes % kAlignment) % kAlignment; }

}  // namespace

int64_t gguf_block_values(GgufType type) {
  return type == GgufType::kQ8_0 || type == GgufType::kMxfp4 ? 32 : 1;
}

int64_t gguf_bytes(GgufType type, int64_t values) {
  switch (type) {
    case GgufType::kF32:
    case GgufType::kI32:
      return values * 4;
    case GgufType::kBf16:
      return values * 2;
    case GgufType::kQ8_0:
      return values / 32 * 34;
    case GgufType::kMxfp4:
      return values / 32 * 17;
  }
  KVASIR_CHECK(false, "GGUF type {}", static_cast<uint32_t>(type));
}

int64_t GgufTensor::values() const {
  int64_t count = 1;
  for (int64_t d : dims) count *= d;
  return count;
}

void GgufMetadata::begin(std::string_view key, uint32_t type) {
  put_string(bytes_, key);
  put(bytes_, type);
  ++count_;
}

void GgufMetadata::begin_array(std::string_view key, uint32_t type, size_t count) {
  begin(key, kArray);
  put(bytes_, type);
  put(bytes_, uint64_t{count});
}

void GgufMetadata::add(std::string_view key, uint32_t value) {
  begin(key, kU32);
  put(bytes_, value);
}

void GgufMetadata::add(std::string_view key, float value) {
  begin(key, kF32);
  put(bytes_, value);
}

void GgufMetadata::add(std::string_view key, bool value) {
  begin(key, kBool);
  put(bytes_, static_cast<uint8_t>(value));
}

void GgufMetadata::add(std::string_view key, std::string_view value) {
  begin(key, kString);
  put_string(bytes_, value);
}

void GgufMetadata::add(std::string_view key, std::span<const int32_t> values) {
  begin_array(key, kI32, values.size());
  for (int32_t v : values) put(bytes_, v);
}

void GgufMetadata::add(std::string_view key, std::span<const float> values) {
  begin_array(key, kF32, values.size());
  for (float v : values) put(bytes_, v);
}

void GgufMetadata::add(std::string_view key, std::span<const std::string> values) {
  begin_array(key, kString, values.size());
  for (const std::string& v : values) put_string(bytes_, v);
}

Result<GgufWriter> GgufWriter::create(const std::string& path, const GgufMetadata& metadata,
                                      std::vector<GgufTensor> tensors) {
  std::string header = "GGUF";
  put(header, kVersion);
  put(header, uint64_t{tensors.size()});
  put(header, metadata.count_);
  header += metadata.bytes_;
  int64_t offset = 0;
  std::set<std::string_view> names;
  for (const GgufTensor& t : tensors) {
    KVASIR_CHECK(names.insert(t.name).second, "tensor {} is written twice", t.name);
    KVASIR_CHECK(!t.dims.empty() && t.dims.size() <= 4 && t.values() > 0,
                 "tensor {} has {} dimensions, {} values", t.name, t.dims.size(), t.values());
    KVASIR_CHECK(t.dims[0] % gguf_block_values(t.type) == 0, "tensor {}: {} values do not fill blocks",
                 t.name, t.dims[0]);
    put_string(header, t.name);
    put(header, static_cast<uint32_t>(t.dims.size()));
    for (int64_t d : t.dims) put(header, static_cast<uint64_t>(d));
    put(header, static_cast<uint32_t>(t.type));
    put(header, static_cast<uint64_t>(offset));
    offset += t.bytes() + padding(t.bytes());
  }
  header.append(static_cast<size_t>(padding(std::ssize(header))), '\0');
  KVASIR_TRY(AtomicFile file, AtomicFile::create(path));
  KVASIR_TRY_STATUS(file.write(std::as_bytes(std::span(header))));
  return GgufWriter(std::move(file), std::move(tensors));
}

Status GgufWriter::pad(int64_t bytes) {
  constexpr std::array<std::byte, kAlignment> kZeros{};
  return file_.write(std::span(kZeros).first(static_cast<size_t>(padding(bytes))));
}

Status GgufWriter::write(std::span<const std::byte> bytes) {
  KVASIR_CHECK(tensor_ < tensors_.size(), "{}: bytes after its last tensor", file_.path());
  const int64_t expected = tensors_[tensor_].bytes();
  written_ += std::ssize(bytes);
  KVASIR_CHECK(written_ <= expected, "{}: {} bytes of {}, which has {}", file_.path(), written_,
               tensors_[tensor_].name, expected);
  KVASIR_TRY_STATUS(file_.write(bytes));
  if (written_ < expected) return {};
  ++tensor_;
  written_ = 0;
  return pad(expected);
}

Status GgufWriter::finish() {
  KVASIR_CHECK(tensor_ == tensors_.size(), "{}: {} of {} tensors written", file_.path(), tensor_,
               tensors_.size());
  return file_.commit();
}

}  // namespace kvasir
