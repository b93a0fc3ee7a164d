// Kernels of the lightning indexer, one copy per instruction set (indexer_kernels.cc).
//
// Scores of a query and a key are the same bits wherever they are computed, so how queries and keys are cut
// into tasks cannot change what is selected.
#pragma once

#include "backend/cpu/per_isa.h"
#include "ops/indexer.h"

namespace kvasir::cpu {

inline constexpr int kKeyGroup = 64;  // keys expanded, scored and filtered at a time

inline constexpr int kMaxIndexDim = 512;

// IndexSelectSequence without views.
struct IndexCall {
  const float* q = nullptr;
  int64_t q_token = 0, q_head = 0;  // strides
  const float* weight = nullptr;
  int64_t weight_token = 0;  // stride
  int heads = 0, dim = 0;
  bool quantised = false;
  int64_t data_bytes = 0, scale_bytes = 0;
  std::byte* const* pages = nullptr;
  PageSection keys;
  const int64_t* visible = nullptr;  // [tokens] entries each row sees, ascending
  int64_t topk = 0;
  Numerics numerics = Numerics::kFast;
};

// The best entries of one query so far, ascending by number. Invariant: every entry not in it that was
// scanned has topk better ones before it in (score descending, number ascending) order.
struct IndexCandidates {
  float* scores = nullptr;
  int32_t* entries = nullptr;
  int64_t count = 0;
  float threshold = 0.f;  // only higher scores can still enter

  static int64_t capacity(int64_t topk) { return 2 * topk + 2 * kKeyGroup; }
};

struct IndexerKernels {
  int64_t (*scratch_bytes)(const IndexCall& call, int64_t queries);
  // Scans keys [begin, end), begin a multiple of kKeyGroup, for queries [q0, q1); best[i] belongs to query q0
  // + i.
  void (*scan)(const IndexCall& call, int64_t q0, int64_t q1, int64_t begin, int64_t end,
               IndexCandidates* best, std::byte* scratch);
  // Keeps the topk best, in order.
  void (*shrink)(IndexCandidates& best, int64_t topk);
};

KVASIR_PER_ISA(IndexerKernels, indexer_kernels)

}  // namespace kvasir::cpu
