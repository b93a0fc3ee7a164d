// Accounting: what one token of context costs, in cache bytes and in floating-point operations, for a
// model of the family and for three yardsticks: DeepSeek-V3.2, and the same trunk with ordinary attention
// (GQA with 8 key-value heads, and MHA). Every figure carries the formula that it was computed by.
//
// Nothing here is measured. The cache rows are those of ops/kv_page.h, so the growing part is what a
// sequence's pages really hold. Source: spec 10.1 (bytes), 10.2 (FLOPs).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/config.h"
#include "ops/numerics.h"

namespace kvasir {

// Whether a term of the cache grows with the context.
enum class ByteKind : uint8_t {
  kGrowing,  // entries and keys: one row per `compress_ratio` tokens
  kWindow,   // the last `window` rows of every layer: fixed
  kState,    // compressor tails and the MTP block's window: fixed, and not part of kv_bytes
};

struct ByteTerm {
  std::string name;
  ByteKind kind = ByteKind::kGrowing;
  int64_t bytes = 0;           // at the footprint's context
  double bytes_per_token = 0;  // growth per token of context; 0 for what is fixed
  std::string formula;
};

// Decode work of one token, 2 FLOPs per multiply-add.
struct FlopTerm {
  std::string name;
  double flops = 0;
  // What one of these FLOPs costs on hardware whose FP8 rate is 1: bf16 and f32 2, FP8 (and FP4 weights
  // with FP8 activations) 1, FP4 x FP4 0.5. The report's "equivalent FP8 FLOPs".
  double fp8_cost = 1;
  std::string formula;
};

// One architecture at one context length: one sequence, one token decoded.
struct Footprint {
  std::string name;
  std::string source;  // where the dimensions and formulas come from
  int64_t context = 0;
  std::vector<ByteTerm> bytes;
  std::vector<FlopTerm> flops;

  int64_t kv_bytes() const;           // growing part + windows
  int64_t state_bytes() const;        // the rest
  double kv_bytes_per_token() const;  // growth only
  double flops_per_token() const;
  double flops_per_token_fp8_equivalent() const;
};

// Bytes of one cached row of each kind.
struct CacheRows {
  int64_t entry = 0;      // a window row or a compressed entry
  int64_t index_key = 0;  // an index key of a ratio-4 layer

  // What kvasir stores (ops/kv_page.h): 584 and 68 at the published shapes unless numerics is exact.
  static CacheRows stored(const ModelConfig& config, Numerics numerics);
};

// `context` counts the tokens in the cache when the token is decoded. `config` must be valid: every layer's
// compress_ratio is 0, 4 or 128.
Footprint v4_footprint(const ModelConfig& config, int64_t context, const CacheRows& rows);

// DeepSeek-V3.2 as published (61 layers). One latent row of `latent_row_bytes` and one 132-byte FP8 index key
// per token and layer: 656 is the FP8 row it is served with, 1152 the bf16 one.
constexpr int64_t kV32LatentFp8 = 512 + 4 * 4 + 64 * 2;
constexpr int64_t kV32LatentBf16 = (512 + 64) * 2;
Footprint v3_2_footprint(int64_t context, int64_t latent_row_bytes = kV32LatentFp8);

// The same trunk (layers, width, experts, head) with full attention: heads of 128, bf16 keys and values,
// and 8 key-value heads (GQA8) or as many as query heads (MHA). A model with fewer than 8 heads or narrower
// ones is compared with its own number and width.
Footprint gqa8_footprint(const ModelConfig& config, int64_t context);
Footprint mha_footprint(const ModelConfig& config, int64_t context);

}  // namespace kvasir
