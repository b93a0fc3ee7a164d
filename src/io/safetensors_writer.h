// SafetensorsWriter: writes a safetensors file as its bytes are made, so that nothing has to be held.
//
//   KVASIR_TRY(auto out, SafetensorsWriter::create(path, {{"logits", DType::kF32, {rows, vocab}}}));
//   for (...) KVASIR_TRY_STATUS(out.write(std::as_bytes(row)));
//   KVASIR_TRY_STATUS(out.finish());
//
// The shapes come first, since the header does. The file appears under its name only when finish()
// succeeds (AtomicFile); dropped earlier, it leaves nothing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "io/file.h"
#include "tensor/dtype.h"

namespace kvasir {

struct TensorToWrite {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
};

class SafetensorsWriter {
 public:
  // Names must differ and shapes must fill whole bytes. Errors: the file cannot be created or written (a full
  // disk).
  static Result<SafetensorsWriter> create(
      const std::string& path, std::vector<TensorToWrite> tensors,
      const std::vector<std::pair<std::string, std::string>>& metadata = {});

  // The next bytes, tensor after tensor in the order given to create, in pieces of any size.
  Status write(std::span<const std::byte> bytes);
  // All bytes must have been written.
  Status finish();

 private:
  SafetensorsWriter(AtomicFile file, int64_t bytes) : file_(std::move(file)), expected_(bytes) {}

  AtomicFile file_;
  int64_t expected_ = 0;  // of the data part
  int64_t written_ = 0;
};

}  // namespace kvasir
