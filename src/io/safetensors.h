// safetensors files: named tensors behind a JSON header.
//
//   8 bytes   n, little endian
//   n bytes   {"name": {"dtype": "BF16", "shape": [a, b], "data_offsets": [begin, end]}, ..., "__metadata__":
//   {...}} the rest  tensor bytes; offsets count from here
//
// A header comes from strangers: everything it says is checked against the file before any tensor is
// touched. Reading maps the file (mapped_file.h), so opening 160 GB costs a header.
// Source: the format's description in huggingface/safetensors; spec 9.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "io/mapped_file.h"
#include "tensor/dtype.h"

namespace kvasir {

struct TensorInfo {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  int64_t begin = 0;  // byte offset in the file (not in the data part)
  int64_t bytes = 0;
};

// "[129280, 4096]", for messages and tables.
std::string shape_text(std::span<const int64_t> shape);
// Bytes that `dtype` and `shape` need; -1 when that overflows or splits a byte.
int64_t tensor_bytes(DType dtype, std::span<const int64_t> shape);

struct SafetensorsHeader {
  std::vector<TensorInfo> tensors;                            // ascending by name
  std::vector<std::pair<std::string, std::string>> metadata;  // "__metadata__", in file order
  int64_t data_begin = 0;
  int64_t unused_bytes = 0;  // bytes of the data part that belong to no tensor
};

// Parses the start of a file of `file_size` bytes; `file` holds at least the header, as far as the file
// goes. `where` names the file in errors. Errors, all kInvalid and of one line: a file too short for its
// header, a header too large, too deep or not JSON, a name given twice, an unknown dtype, a shape whose
// size is not that of the byte range, a range outside the file, ranges that overlap.
Result<SafetensorsHeader> parse_safetensors_header(std::span<const std::byte> file, int64_t file_size,
                                                   const std::string& where);

// A mapped safetensors file. Move-only; the bytes stay where they are while it (moved or not) lives.
class SafetensorsFile {
 public:
  static Result<SafetensorsFile> open(const std::string& path);

  const std::vector<TensorInfo>& tensors() const { return header_.tensors; }
  const SafetensorsHeader& header() const { return header_; }
  const TensorInfo* find(std::string_view name) const;  // null: not in this file
  const std::byte* data(const TensorInfo& tensor) const { return file_.data() + tensor.begin; }
  const MappedFile& file() const { return file_; }

 private:
  MappedFile file_;
  SafetensorsHeader header_;
};

}  // namespace kvasir
