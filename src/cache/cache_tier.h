// CacheTier: where a piece of a prefix was found.
#pragma once

namespace kvasir {

enum class CacheTier { kNone, kMemory, kDisk };

}  // namespace kvasir
