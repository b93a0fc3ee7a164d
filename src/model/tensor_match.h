// Matches an entry of the tensor table with what a checkpoint holds: is it there, in a format that kvasir
// reads, with the right shape? Loading binds the answer; `kvasir inspect` only reports it.
#pragma once

#include <optional>

#include "model/checkpoint.h"
#include "model/tensor_table.h"

namespace kvasir {

struct MatchedTensor {
  StoredTensor weight;
  std::optional<StoredTensor> scale;
  WeightFormat format = WeightFormat::kNone;  // of a matrix; kNone for vectors and token tables
};

// Errors (kInvalid, one line with file, tensor, seen and expected): missing tensor or scale, wrong dtype,
// wrong shape. Under its official name a tensor has the official dtype (experts: FP4 or FP8); saved by
// transformers it may also be BF16 or F32, as training left it.
Result<MatchedTensor> match_tensor(const TensorEntry& entry, const Checkpoint& checkpoint);

}  // namespace kvasir
