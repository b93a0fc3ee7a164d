// The header's JSON and the counting of safetensors_writer.h.
#include "io/safetensors_writer.h"

#include <fmt/core.h>

#include <set>

#include "base/check.h"
#include "base/json_writer.h"
#include "io/safetensors.h"

namespace kvasir {
namespace {

std::string header_json(const std::vector<TensorToWrite>& tensors,
                        const std::vector<std::pair<std::string, std::string>>& metadata) {
  std::string json = "{";
  if (!metadata.empty()) {
    json += "\"__metadata__\":{";
    for (size_t i = 0; i < metadata.size(); ++i) {
      json +=
          fmt::format("{}{}:{}", i ? "," : "", json_quote(metadata[i].first), json_quote(metadata[i].second));
    }
    json += "}";
  }
  int64_t begin = 0;
  std::set<std::string_view> names;
  for (const TensorToWrite& t : tensors) {
    KVASIR_CHECK(names.insert(t.name).second, "tensor {} is written twice", t.name);
    int64_t bytes = tensor_bytes(t.dtype, t.shape);
    KVASIR_CHECK(bytes >= 0, "tensor {} {} {} has no whole number of bytes", t.name, dtype_name(t.dtype),
                 shape_text(t.shape));
    json += fmt::format("{}{}:{{\"dtype\":\"{}\",\"shape\":{},\"data_offsets\":[{},{}]}}",
                        json.size() > 1 ? "," : "", json_quote(t.name), dtype_name(t.dtype),
                        shape_text(t.shape), begin, begin + bytes);
    begin += bytes;
  }
  json += "}";
  json.append((8 - json.size() % 8) % 8, ' ');  // the data part starts on a multiple of 8
  return json;
}

}  // namespace

Result<SafetensorsWriter> SafetensorsWriter::create(
    const std::string& path, std::vector<TensorToWrite> tensors,
    const std::vector<std::pair<std::string, std::string>>& metadata) {
  std::string json = header_json(tensors, metadata);
  int64_t bytes = 0;
  for (const TensorToWrite& t : tensors) bytes += tensor_bytes(t.dtype, t.shape);
  KVASIR_TRY(AtomicFile file, AtomicFile::create(path));
  std::byte length[8];
  for (size_t i = 0; i < 8; ++i) length[i] = static_cast<std::byte>(json.size() >> (8 * i) & 0xff);
  KVASIR_TRY_STATUS(file.write(length));
  KVASIR_TRY_STATUS(file.write(std::as_bytes(std::span(json))));
  return SafetensorsWriter(std::move(file), bytes);
}

Status SafetensorsWriter::write(std::span<const std::byte> bytes) {
  written_ += static_cast<int64_t>(bytes.size());
  KVASIR_CHECK(written_ <= expected_, "{}: {} bytes written, its tensors have {}", file_.path(), written_,
               expected_);
  return file_.write(bytes);
}

Status SafetensorsWriter::finish() {
  KVASIR_CHECK(written_ == expected_, "{}: {} bytes written, its tensors have {}", file_.path(), written_,
               expected_);
  return file_.commit();
}

}  // namespace kvasir
