// The tensor table: every tensor a V4 checkpoint of a given config has, once, with its shape, the way
// it is stored and the field of Model it belongs to.
//
// Loading, `kvasir inspect`, synthetic weights and all accounting of bytes and parameters walk this one
// list, so they cannot disagree. Source: spec 9.1.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "model/weights.h"
#include "tensor/dtype.h"

namespace kvasir {

// How the official files store a tensor.
enum class TensorKind : uint8_t {
  kBf16Vector,    // BF16 [n], used as f32
  kF32Vector,     // F32 [n]
  kF32Matrix,     // F32 [rows, cols]
  kBf16Matrix,    // BF16 [rows, cols]
  kFp8Matrix,     // F8_E4M3 [rows, cols] and F8_E8M0 [ceil(rows/128), ceil(cols/128)]
  kExpertMatrix,  // I8 [rows, cols/2] and F8_E8M0 [rows, cols/32]; or as kFp8Matrix (-Base), by its dtype
  kTokenTable,    // I64 [rows, cols]
};

// What a tensor is for, to add bytes and parameters up.
enum class Part : uint8_t {
  kEmbedding,
  kHead,
  kAttention,
  kCompressor,
  kIndexer,
  kGate,
  kExperts,
  kSharedExpert,
  kHyperConnection,
  kNorms
};
constexpr int kNumParts = 10;
std::string_view part_name(Part part);

using TensorSlot =
    std::variant<WeightMatrix*, View<const float, 1>*, View<const float, 2>*, View<const int32_t, 2>*>;

struct TensorEntry {
  std::string name;  // official; with ".weight" where the file has it. Scales are not entries of their own
  TensorKind kind;
  Part part;
  int layer;     // trunk layer; num_layers for MTP; -1 outside the layers
  int64_t rows;  // of a vector: its length
  int64_t cols;  // of a vector: 1
  TensorSlot slot;

  bool vector() const { return kind == TensorKind::kBf16Vector || kind == TensorKind::kF32Vector; }
  int64_t parameters() const { return rows * cols; }
};

// Gives `model` (whose config is set) its layers, experts and MTP block, all weights absent.
void shape_model(Model& model);

// Every tensor of `model`, in a fixed order: top level, layers, MTP. The slots point into `model`,
// which shape_model has shaped and which must not be moved while they are used.
std::vector<TensorEntry> list_tensors(Model& model);

// One tensor of a file: what is expected, or what was found.
struct StoredShape {
  DType dtype;
  std::array<int64_t, 2> size;
  int rank;

  int64_t bytes() const { return (rank == 2 ? size[0] * size[1] : size[0]) * dtype_bits(dtype) / 8; }
};

// The weight tensor of an entry as the official files store it; experts are FP4.
StoredShape official_weight(const TensorEntry& entry);
// The scales of FP8 128x128 tiles and of FP4 groups of 32.
StoredShape tile_scale(const TensorEntry& entry);
StoredShape group_scale(const TensorEntry& entry);

// "layers.0.attn.wq_a.weight" -> "layers.0.attn.wq_a.scale".
std::string scale_name(std::string_view weight_name);

}  // namespace kvasir
