// Fingerprint: tells checkpoints apart, for whatever is kept between runs and belongs to one set of weights.
//
// Two checkpoints of equal fingerprint have the same config, the same tensors in name, type and shape, and
// the same bytes at the places that were read: everything in a checkpoint of up to 256 MB, else 4 KB from the
// middle of each tensor. Weights that were changed by hand in few places could escape that; training, merging
// and quantising cannot.
#pragma once

#include <cstdint>
#include <string>

#include "base/result.h"

namespace kvasir {

struct Fingerprint {
  uint64_t high = 0, low = 0;
};

Result<Fingerprint> checkpoint_fingerprint(const std::string& dir);

}  // namespace kvasir
