// GgufWriter: writes a GGUF file (version 3, little endian), the format that llama.cpp and its kin read.
//
//   "GGUF", version, counts   | metadata: key, type, value   | per tensor: name, dims, type, offset
//   padding to 32             | tensor bytes, each padded to 32
//
//   GgufMetadata metadata;
//   metadata.add("general.architecture", std::string_view("deepseek4"));
//   KVASIR_TRY(auto out, GgufWriter::create(path, metadata, {{"output_norm.weight", GgufType::kF32,
//   {dim}}})); for (...) KVASIR_TRY_STATUS(out.write(bytes));   // tensor after tensor; padding is the
//   writer's work KVASIR_TRY_STATUS(out.finish());
//
// The file appears under its name only when finish() succeeds (AtomicFile). Source: spec/gguf.md.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "io/file.h"

namespace kvasir {

// Element types of tensors, with ggml's numbers.
enum class GgufType : uint32_t {
  kF32 = 0,
  kQ8_0 = 8,  // 32 values: an f16 scale, then 32 signed bytes
  kI32 = 26,
  kBf16 = 30,
  kMxfp4 = 39,  // 32 values: an e8m0 scale, then 16 bytes; byte j holds e2m1 values j (low) and j + 16 (high)
};
// Values that share a scale; 1 where every value stands alone.
int64_t gguf_block_values(GgufType type);
// Bytes of `values`, a multiple of gguf_block_values.
int64_t gguf_bytes(GgufType type, int64_t values);

struct GgufTensor {
  std::string name;
  GgufType type = GgufType::kF32;
  std::vector<int64_t> dims;  // the contiguous one first: a [rows, cols] matrix is {cols, rows}

  int64_t values() const;
  int64_t bytes() const { return gguf_bytes(type, values()); }
};

// Keys and values, encoded as they are added. A key is added once.
class GgufMetadata {
 public:
  void add(std::string_view key, uint32_t value);
  void add(std::string_view key, float value);
  void add(std::string_view key, bool value);
  void add(std::string_view key, std::string_view value);
  void add(std::string_view key, std::span<const int32_t> values);
  void add(std::string_view key, std::span<const float> values);
  void add(std::string_view key, std::span<const std::string> values);
  // A literal would otherwise become a bool.
  void add(std::string_view key, const char* value) { add(key, std::string_view(value)); }

 private:
  friend class GgufWriter;
  void begin(std::string_view key, uint32_t type);
  void begin_array(std::string_view key, uint32_t type, size_t count);

  std::string bytes_;
  uint64_t count_ = 0;
};

class GgufWriter {
 public:
  // Names must differ and the first dimension must be whole blocks. Errors: the file cannot be created or
  // written.
  static Result<GgufWriter> create(const std::string& path, const GgufMetadata& metadata,
                                   std::vector<GgufTensor> tensors);

  // The next bytes, tensor after tensor in the order given to create, in pieces of any size that do not cross
  // tensors.
  Status write(std::span<const std::byte> bytes);
  // All bytes must have been written.
  Status finish();

 private:
  GgufWriter(AtomicFile file, std::vector<GgufTensor> tensors)
      : file_(std::move(file)), tensors_(std::move(tensors)) {}
  Status pad(int64_t bytes);

  AtomicFile file_;
  std::vector<GgufTensor> tensors_;
  size_t tensor_ = 0;    // being written
  int64_t written_ = 0;  // of it
};

}  // namespace kvasir
