// export_gguf: a loaded V4 model as a GGUF file of architecture `deepseek4`, for engines that read that
// format.
//
// What GGUF cannot say exactly: FP8 has no type there, so matrices of FP8 (and FP4 experts) become the chosen
// type; everything that the checkpoint keeps as F32 stays F32. The separate hc_head of the MTP block has no
// tensor: readers use the trunk's for drafts. Source: spec/gguf.md.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/progress.h"
#include "base/result.h"
#include "io/gguf_writer.h"
#include "model/weights.h"

namespace kvasir {

enum class GgufWeights : uint8_t {
  kF32,    // every matrix
  kBf16,   // every matrix; exact for FP8 and FP4, whose values fit
  kQ8_0,   // what the checkpoint quantises (FP8, FP4); its BF16 matrices stay
  kMxfp4,  // as kQ8_0, and FP4 experts bit for bit as MXFP4
};

struct GgufExportOptions {
  GgufWeights weights = GgufWeights::kBf16;
  bool mtp = false;  // also the MTP block, which readers older than August 2026 take for a layer
  ProgressSink* progress = nullptr;  // may be null
};

struct GgufExportReport {
  int64_t tensors = 0;
  int64_t bytes = 0;  // of tensors
};

// The architecture's keys, with the tokenizer's and the name added by the caller.
void add_architecture(const ModelConfig& config, const GgufExportOptions& options, GgufMetadata& metadata);

// Writes the file. Errors: the disk's; kUnsupported for a matrix whose rows are not whole blocks of the
// chosen type, for weights too large for its scale, and for an MTP block that is asked for and not there.
Result<GgufExportReport> export_gguf(Model& model, const GgufMetadata& metadata, const std::string& path,
                                     const GgufExportOptions& options);

}  // namespace kvasir
