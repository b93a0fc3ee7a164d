// A sequence's state as the prefix cache keeps it: only what a later step can read.
//
//   header | per layer: window rows, oldest first; live rows of the compressor tails | rows of the page that is not full
//
// Live at length L: the last window-1 rows of each window; of a tail, the tokens of the group that is not closed yet
// and, with two lanes, of the group before it; of the unfinished page, the closed groups' rows. At a multiple of 128 an
// HCA layer keeps nothing but its window. The window of the draft block is kept if it is in use: it changes how many
// drafts are right, never the text.
#pragma once

#include <cstddef>
#include <vector>

#include "base/result.h"
#include "engine/sequence.h"

namespace kvasir {

inline constexpr uint32_t kPackedVersion = 1;  // of the bytes described above

enum class DraftWindow { kLeave, kKeep };

std::vector<std::byte> pack_state(const KvLayout& layout, const Sequence& sequence, DraftWindow draft);

// The length of a packed state, 0 if it is none.
int64_t packed_length(std::span<const std::byte> packed);

// Into a sequence that has adopted its full pages at the packed length. Where the sequence's pages do not cover that
// length (the unfinished page) a page of its own is reserved for the rows. kInvalid: the bytes are not a state of this
// layout; kBusy: no page.
Status unpack_state(const KvLayout& layout, std::span<const std::byte> packed, Sequence& sequence);

}  // namespace kvasir
