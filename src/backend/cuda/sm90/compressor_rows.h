// kFast compression at V4's shapes: entries of 512 (64 rotated) and index keys of 128, ratio 4 with two lanes
// and ratio 128.
#pragma once

#include <cuda_runtime_api.h>

#include "backend/cuda/sm90/compressor_call.h"

namespace kvasir::cuda {

bool compress_rows_serves(const CompressCall& call);
void compress_rows(cudaStream_t stream, const CompressCall& call);
// Both compressors of a CSA layer in one launch; each call is served and both are of the same batch.
void compress_rows_pair(cudaStream_t stream, const CompressCall& entry, const CompressCall& key);

}  // namespace kvasir::cuda
