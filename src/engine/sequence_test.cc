// The bytes that a sequence holds, against the specification.
#include "engine/sequence.h"

#include <gtest/gtest.h>

#include "model/accounting.h"

namespace kvasir {
namespace {

// What the pool and the sequence hold for one sequence of `tokens`, without the slack of the rings and the tails, which
// spec 10.1 counts apart.
int64_t held_at(const ModelConfig& config, int64_t tokens) {
  KvLayout layout = KvLayout::make(config, Numerics::kNative);
  PagePool pool(layout.page_bytes, KvLayout::pages_for(tokens));
  auto sequence = Sequence::make(layout, pool);
  EXPECT_TRUE(sequence);
  EXPECT_TRUE(sequence->reserve(tokens));
  EXPECT_EQ(pool.held_bytes() + layout.state_bytes, sequence->held_bytes());
  return sequence->held_bytes();
}

TEST(Sequence, HoldsTheBytesOfTheSpecificationAtOneMillionTokens) {
  // Slabs are anonymous memory that nothing writes here, so this costs address space only.
  for (const auto& [config, growing_and_windows] : {std::pair{flash_config(), 3.688e9}, {pro_config(), 5.280e9}}) {
    auto held = static_cast<double>(held_at(config, 1048576));
    Footprint footprint = v4_footprint(config, 1048576, CacheRows::stored(config, Numerics::kNative));
    auto expected = static_cast<double>(footprint.kv_bytes());
    EXPECT_NEAR(expected, growing_and_windows, 0.001e9);  // the table's own rounding
    // Everything held, tails and slack included, against the growing part and the windows alone.
    EXPECT_LE(std::abs(held - expected) / expected, 0.01) << held << " bytes held, spec 10.1: " << expected;
  }
}

TEST(Sequence, MemoryGrowsWithItsLength) {
  ModelConfig config = flash_config();
  KvLayout layout = KvLayout::make(config, Numerics::kNative);
  PagePool pool(layout.page_bytes, 1 << 14);
  auto sequence = Sequence::make(layout, pool);
  ASSERT_TRUE(sequence);
  int64_t empty = sequence->held_bytes();
  ASSERT_TRUE(sequence->reserve(1));
  EXPECT_EQ(sequence->held_bytes() - empty, layout.page_bytes);
  ASSERT_TRUE(sequence->reserve(128));
  EXPECT_EQ(sequence->held_bytes() - empty, layout.page_bytes);
  ASSERT_TRUE(sequence->reserve(129));
  EXPECT_EQ(sequence->held_bytes() - empty, 2 * layout.page_bytes);
}

TEST(Sequence, PageBytesAreTheOfficialOnes) {
  // 32 entries and keys in each of 21 CSA layers and one entry in each of 20 HCA layers, padded to 64 bytes.
  KvLayout layout = KvLayout::make(flash_config(), Numerics::kNative);
  EXPECT_EQ(layout.page_bytes, (21 * 32 * (584 + 68) + 20 * 584 + 63) / 64 * 64);
}

}  // namespace
}  // namespace kvasir
