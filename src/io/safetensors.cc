// Checks a safetensors header against the file it stands in. The order matters: nothing is allocated
// from a size the header claims before that size was compared with the file's.
#include "io/safetensors.h"

#include <fmt/core.h>

#include <algorithm>
#include <cstring>
#include <limits>

#include "io/file.h"
#include "io/json.h"

namespace kvasir {
namespace {

// The longest real header is V4-Pro's if all its 145,116 tensors were in one file: 19 MB.
constexpr JsonLimits kHeaderLimits{64 << 20, 8};
constexpr size_t kMaxRank = 8;
constexpr std::string_view kMetadataKey = "__metadata__";

using simdjson::dom::element;

Error invalid(const std::string& where, std::string_view tensor, std::string message) {
  return Error{ErrorCode::kInvalid, fmt::format("{}: tensor {}: {}", where, printable(tensor), message)};
}

// The value of `key` in a tensor's record, or an error that names it.
Result<element> member(element record, const char* key, const std::string& where, std::string_view name) {
  element value;
  if (record.at_key(key).get(value))
    return invalid(where, name, fmt::format("its header record has no \"{}\"", key));
  return value;
}

Result<std::vector<int64_t>> read_sizes(element value, const char* key, size_t max_count,
                                        const std::string& where, std::string_view name) {
  simdjson::dom::array array;
  if (value.get(array))
    return invalid(where, name, fmt::format("{} is {}, expected an array", key, json_kind(value)));
  std::vector<int64_t> out;
  for (element item : array) {
    int64_t size = 0;
    if (item.get(size) || size < 0) {
      return invalid(where, name, fmt::format("{} holds something other than a size of at most 2^63-1", key));
    }
    if (out.size() == max_count) {
      return invalid(where, name, fmt::format("{} has more than {} entries", key, max_count));
    }
    out.push_back(size);
  }
  return out;
}

Result<TensorInfo> read_tensor(std::string_view name, element record, int64_t data_begin, int64_t data_bytes,
                               const std::string& where) {
  if (!record.is_object()) {
    return invalid(where, name,
                   fmt::format("its header record is {}, expected an object", json_kind(record)));
  }
  TensorInfo tensor;
  tensor.name = std::string(name);
  KVASIR_TRY(element dtype, member(record, "dtype", where, name));
  std::string_view dtype_text;
  if (dtype.get(dtype_text))
    return invalid(where, name, fmt::format("dtype is {}, expected a string", json_kind(dtype)));
  if (!parse_dtype(dtype_text, tensor.dtype)) {
    return invalid(
        where, name,
        fmt::format(
            "dtype {} is unknown, expected BF16, F32, F8_E4M3, F8_E8M0, I8, I64 or another plain type",
            printable(dtype_text)));
  }
  KVASIR_TRY(element shape, member(record, "shape", where, name));
  KVASIR_TRY(tensor.shape, read_sizes(shape, "shape", kMaxRank, where, name));
  KVASIR_TRY(element offsets, member(record, "data_offsets", where, name));
  KVASIR_TRY(std::vector<int64_t> range, read_sizes(offsets, "data_offsets", 2, where, name));
  if (range.size() != 2 || range[0] > range[1]) {
    return invalid(where, name, fmt::format("data_offsets is {}, expected [begin, end]", shape_text(range)));
  }
  if (range[1] > data_bytes) {
    return invalid(
        where, name,
        fmt::format("bytes {} to {} of the data part lie outside the file, whose data part has {} bytes "
                    "(truncated file or wrong header)",
                    range[0], range[1], data_bytes));
  }
  tensor.begin = data_begin + range[0];
  tensor.bytes = range[1] - range[0];
  int64_t expected = tensor_bytes(tensor.dtype, tensor.shape);
  if (expected != tensor.bytes) {
    return invalid(where, name,
                   expected < 0
                       ? fmt::format("{} {} has no whole number of bytes", dtype_name(tensor.dtype),
                                     shape_text(tensor.shape))
                       : fmt::format("its byte range has {} bytes, expected {} for {} {}", tensor.bytes,
                                     expected, dtype_name(tensor.dtype), shape_text(tensor.shape)));
  }
  return tensor;
}

// Names once each, ranges disjoint; leaves the tensors sorted by name and counts unclaimed bytes.
Status check_together(SafetensorsHeader& header, int64_t data_bytes, const std::string& where) {
  auto& tensors = header.tensors;
  std::sort(tensors.begin(), tensors.end(), [](const TensorInfo& a, const TensorInfo& b) {
    return a.begin != b.begin ? a.begin < b.begin : a.bytes < b.bytes;
  });
  int64_t used = 0;
  for (size_t i = 0; i < tensors.size(); ++i) {
    used += tensors[i].bytes;
    if (i == 0 || tensors[i - 1].begin + tensors[i - 1].bytes <= tensors[i].begin) continue;
    return invalid(
        where, tensors[i].name,
        fmt::format("its bytes, from {} of the file, overlap those of {}, which end at {}", tensors[i].begin,
                    printable(tensors[i - 1].name), tensors[i - 1].begin + tensors[i - 1].bytes));
  }
  header.unused_bytes = data_bytes - used;
  std::sort(tensors.begin(), tensors.end(),
            [](const TensorInfo& a, const TensorInfo& b) { return a.name < b.name; });
  for (size_t i = 1; i < tensors.size(); ++i) {
    if (tensors[i].name == tensors[i - 1].name)
      return invalid(where, tensors[i].name, "appears twice in the header, expected once");
  }
  return {};
}

Status read_metadata(element value, SafetensorsHeader& header, const std::string& where) {
  simdjson::dom::object object;
  if (value.get(object)) {
    return Error{ErrorCode::kInvalid,
                 fmt::format("{}: __metadata__ is {}, expected an object", where, json_kind(value))};
  }
  for (auto field : object) {
    std::string_view text;
    if (field.value.get(text)) {
      return Error{ErrorCode::kInvalid, fmt::format("{}: __metadata__ key {} is {}, expected a string", where,
                                                    printable(field.key), json_kind(field.value))};
    }
    header.metadata.emplace_back(field.key, text);
  }
  return {};
}

}  // namespace

std::string shape_text(std::span<const int64_t> shape) {
  std::string out = "[";
  for (size_t i = 0; i < shape.size(); ++i) out += fmt::format("{}{}", i ? ", " : "", shape[i]);
  return out + "]";
}

int64_t tensor_bytes(DType dtype, std::span<const int64_t> shape) {
  int64_t bits = dtype_bits(dtype);
  bool zero = std::find(shape.begin(), shape.end(), 0) != shape.end();
  if (zero) return 0;
  for (int64_t size : shape) {
    if (size < 0 || bits > std::numeric_limits<int64_t>::max() / size) return -1;
    bits *= size;
  }
  return bits % 8 == 0 ? bits / 8 : -1;
}

Result<SafetensorsHeader> parse_safetensors_header(std::span<const std::byte> file, int64_t file_size,
                                                   const std::string& where) {
  auto bad = [&](std::string message) {
    return Error{ErrorCode::kInvalid, fmt::format("{}: {}", where, message)};
  };
  if (file_size < 8 || file.size() < 8)
    return bad(fmt::format("{} bytes, too short for a safetensors header", file_size));
  uint64_t length = 0;
  for (int i = 7; i >= 0; --i) length = length << 8 | static_cast<uint64_t>(file[static_cast<size_t>(i)]);
  if (length > static_cast<uint64_t>(kHeaderLimits.bytes)) {
    return bad(fmt::format(
        "its first 8 bytes say that the header has {} bytes, expected at most {} (not a safetensors file?)",
        length, kHeaderLimits.bytes));
  }
  if (length > file.size() - 8) {
    return bad(fmt::format("header of {} bytes in a file of {} bytes (truncated?)", length, file_size));
  }
  std::string_view text(reinterpret_cast<const char*>(file.data()) + 8, length);
  KVASIR_TRY(JsonDocument json, JsonDocument::parse(text, where + ": header", kHeaderLimits));
  simdjson::dom::object root;
  if (json.root().get(root))
    return bad(fmt::format("its header is {}, expected an object", json_kind(json.root())));

  SafetensorsHeader header;
  header.data_begin = 8 + static_cast<int64_t>(length);
  int64_t data_bytes = file_size - header.data_begin;
  for (auto field : root) {
    if (field.key == kMetadataKey) {
      KVASIR_TRY_STATUS(read_metadata(field.value, header, where));
      continue;
    }
    KVASIR_TRY(TensorInfo tensor, read_tensor(field.key, field.value, header.data_begin, data_bytes, where));
    header.tensors.push_back(std::move(tensor));
  }
  KVASIR_TRY_STATUS(check_together(header, data_bytes, where));
  return header;
}

Result<SafetensorsFile> SafetensorsFile::open(const std::string& path) {
  SafetensorsFile out;
  KVASIR_TRY(out.file_, MappedFile::open(path));
  std::span<const std::byte> bytes(out.file_.data(), static_cast<size_t>(out.file_.size()));
  KVASIR_TRY(out.header_, parse_safetensors_header(bytes, out.file_.size(), path));
  return out;
}

const TensorInfo* SafetensorsFile::find(std::string_view name) const {
  const auto& tensors = header_.tensors;
  auto it = std::lower_bound(tensors.begin(), tensors.end(), name,
                             [](const TensorInfo& t, std::string_view n) { return t.name < n; });
  return it != tensors.end() && it->name == name ? &*it : nullptr;
}

}  // namespace kvasir
