// CompressArgs without views, as the compressor's kernels take it.
#pragma once

#include <cstdint>

#include "ops/kv_page.h"

namespace kvasir::cuda {

struct CompressCall {
  const float* kv = nullptr;  // [T, lanes * dim]
  const float* score = nullptr;
  int64_t kv_row = 0, score_row = 0;  // strides
  const float* ape = nullptr;         // [ratio, lanes * dim]
  const float* norm = nullptr;
  float norm_eps = 0;
  const float* inv_freq = nullptr;
  int pairs = 0;
  const CacheSequence* sequences = nullptr;
  int num_sequences = 0;
  int64_t max_tokens = 0;
  int ratio = 0;
  int lanes = 0;
  int64_t tail = 0;  // offset in the state
  int64_t tail_capacity = 0;
  PageSection section;
  KvRowFormat format;
  bool hadamard = false;  // index keys
  bool native = false;
};

}  // namespace kvasir::cuda
