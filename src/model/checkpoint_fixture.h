// Small checkpoints on disk, made from synthetic weights, for tests: in the official spelling or as
// transformers saves them, whole or in shards, and with anything in them replaced. Tests only.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "io/temp_dir.h"
#include "model/load.h"

namespace kvasir {

struct RawTensor {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  std::vector<std::byte> bytes;
};

// Every kind of layer in little: ratios 0, 0, 4, 128 and an MTP block, one hash layer, 4 experts.
ModelConfig tiny_config();

// config.json as the official checkpoints have it, and as transformers saves it.
std::string official_config_json(const ModelConfig& config);
std::string transformers_config_json(const ModelConfig& config);

// The tensors of a model (which must own official formats, as synthetic ones do), officially named.
std::vector<RawTensor> official_tensors(Model& model);
// The same under the names of spec 9.3, experts fused.
std::vector<RawTensor> transformers_tensors(const std::vector<RawTensor>& official);

RawTensor& tensor_named(std::vector<RawTensor>& tensors, const std::string& name);
void drop_tensor(std::vector<RawTensor>& tensors, const std::string& name);
// Zeros of a dtype and shape.
RawTensor zeros(const std::string& name, DType dtype, std::vector<int64_t> shape);

// In an order that aligns every tensor, or in the order given.
void write_tensors(const TempDir& dir, const std::string& file, std::vector<RawTensor> tensors);
void write_in_order(const TempDir& dir, const std::string& file, const std::vector<RawTensor>& tensors);
// model-0000N-of-0000M.safetensors and the index.
void write_shards(const TempDir& dir, const std::vector<RawTensor>& tensors, int shards);

}  // namespace kvasir
