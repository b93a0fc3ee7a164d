// Inspection: what a checkpoint folder holds, added up, and whether kvasir can run it; from headers alone.
// Verification: the same folder read to its last byte, looking for values that cannot be weights.
//
// Everything is counted by walking the tensor table (tensor_table.h). Printing is cli/inspect.cc.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/progress.h"
#include "base/result.h"
#include "model/checkpoint.h"
#include "model/tensor_table.h"

namespace kvasir {

struct Amount {
  int64_t tensors = 0;     // as stored: a weight and its scale are two
  int64_t bytes = 0;       // as stored
  int64_t parameters = 0;  // logical weights, without scales

  void operator+=(const Amount& o) { tensors += o.tensors, bytes += o.bytes, parameters += o.parameters; }
};

// What the tensor table says of a config: the trunk, by part, and the MTP block.
struct Inventory {
  std::array<Amount, kNumParts> parts;  // of the trunk
  Amount trunk;
  Amount mtp;
  std::map<DType, Amount> by_dtype;  // trunk and MTP; parameters stay 0

  int64_t active_blocks = 0;   // parameters that compute one token, in the layers and the final norm
  int64_t active_head = 0;     // the head's
  int64_t active_embed = 0;    // the embedding's (one row is read, the convention counts all)
  int64_t read_per_token = 0;  // weight bytes that one decoded token reads at batch 1, head included
};

// With the official formats, FP4 experts (spec 9.2).
Inventory official_inventory(const ModelConfig& config);

// Tensors that are alike: same dtype and shape, names that differ in numbers only.
struct TensorGroup {
  std::string pattern;  // "layers.*.attn.wq_a.weight"
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  int64_t count = 0;
  int64_t bytes = 0;  // of all of them
};

struct Inspection {
  std::string dir;
  ModelConfig config;
  DraftKind draft = DraftKind::kNone;
  ChatRevision revision = ChatRevision::kA;
  bool has_tokenizer = false;
  int64_t files = 0;
  Amount stored;                                   // everything in the files; parameters stay 0
  std::map<DType, Amount> by_dtype;                // of everything in the files; parameters stay 0
  Amount draft_blocks;                             // mtp.*: bytes and tensors
  Amount unknown;                                  // tensors that V4 does not have
  Inventory inventory;                             // of what matched the table
  std::map<WeightFormat, int64_t> expert_formats;  // expert matrices by format
  std::vector<TensorGroup> groups;                 // in order of first appearance
  std::vector<std::string> problems;               // why kvasir cannot run it, one line each; empty: it can
  std::vector<std::string> notes;
};

// A tensor that is missing or has another shape or dtype than the config wants is a problem of the result,
// so that all of them can be told at once. `dir` is where `opened` was opened.
Inspection inspect_checkpoint(const OpenedCheckpoint& opened, const std::string& dir);

struct Verification {
  int64_t bytes = 0;
  double seconds = 0;
  int64_t bad_tensors = 0;
  std::vector<std::string> problems;  // of the first tensors; one line each
};

// Reads every listed tensor once: E8M0 255, NaN in E4M3, NaN and infinity in BF16 and F32, and hash-routing
// entries that are no expert. Errors: a file that cannot be read (kIo) or ends early.
Result<Verification> verify_checkpoint(const OpenedCheckpoint& opened, int threads, ProgressSink* progress);

}  // namespace kvasir
