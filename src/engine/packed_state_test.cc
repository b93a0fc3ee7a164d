// What a packed state holds: every byte a later step can read, and not much more.
#include "engine/packed_state.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>

namespace kvasir {
namespace {

// A sequence of `tokens` tokens whose state and pages are random bytes.
Sequence noise(const KvLayout& layout, PagePool& pool, int64_t tokens, uint32_t seed) {
  auto made = Sequence::make(layout, pool);
  EXPECT_TRUE(made);
  EXPECT_TRUE(made->reserve(tokens));
  made->advance(tokens);
  std::mt19937 rng(seed);
  for (int64_t i = 0; i < layout.state_bytes; ++i) made->state()[i] = static_cast<std::byte>(rng());
  for (int64_t p = 0; p < KvLayout::pages_for(tokens); ++p)
    for (int64_t i = 0; i < layout.page_bytes; ++i) made->pages()[p][i] = static_cast<std::byte>(rng());
  return *std::move(made);
}

// A sequence that shares the full pages of `from` and resumes from `packed`.
Result<Sequence> resumed(const KvLayout& layout, PagePool& pool, const Sequence& from, std::span<const std::byte> packed) {
  KVASIR_TRY(Sequence s, Sequence::make(layout, pool));
  auto full = from.page_ids().first(static_cast<size_t>(from.length() / kPageTokens));
  for (PageId page : full) pool.retain(page);
  s.adopt(full, from.length());
  KVASIR_TRY_STATUS(unpack_state(layout, packed, s));
  return s;
}

class PackedState : public testing::TestWithParam<Numerics> {
 protected:
  KvLayout layout = KvLayout::make(with_layers(flash_config(), 5), GetParam());
  PagePool pool{layout.page_bytes, 64};
};

TEST_P(PackedState, HoldsTheRowsThatTheNextTokensRead) {
  for (int64_t tokens : {1, 3, 4, 7, 127, 128, 129, 135, 136, 200, 255, 256, 261, 400}) {
    Sequence from = noise(layout, pool, tokens, static_cast<uint32_t>(tokens));
    auto made = resumed(layout, pool, from, pack_state(layout, from, DraftWindow::kLeave));
    ASSERT_TRUE(made) << made.error().message;
    for (int l = 0; l < 5; ++l) {
      LayerCache a = layout.layers[l].cache(from.state(), from.pages()), b = layout.layers[l].cache(made->state(), made->pages());
      auto same_row = [&](const KvRows& x, const KvRows& y, const KvRowFormat& f, int64_t row, const char* what) {
        EXPECT_EQ(std::memcmp(x.row_data(f, row), y.row_data(f, row), f.data_bytes), 0) << what << row << " of layer " << l << " at " << tokens;
        EXPECT_EQ(std::memcmp(x.row_scale(f, row), y.row_scale(f, row), f.scale_bytes), 0) << what << row;
      };
      for (int64_t p = std::max<int64_t>(0, tokens - 127); p < tokens; ++p)
        same_row(a.window, b.window, layout.entry_format, p % a.window_capacity, "window row ");
      int ratio = layout.layers[l].ratio;
      if (ratio == 0) continue;
      int lanes = ratio == 4 ? 2 : 1;
      // The next group to close pools from here on.
      for (int64_t p = std::max<int64_t>(0, (tokens / ratio - lanes + 1) * ratio); p < tokens; ++p) {
        int64_t width = 2 * lanes * layout.entry_format.dim, at = p % a.tail_capacity * width;
        EXPECT_EQ(std::memcmp(a.tail + at, b.tail + at, sizeof(float) * static_cast<size_t>(width)), 0) << "tail " << p << " at " << tokens;
      }
      for (int64_t e = 0; e < tokens / ratio; ++e) {
        int64_t page = e / a.entries.rows_per_page, slot = e % a.entries.rows_per_page;
        same_row(a.entries.in_page(a.pages[page]), b.entries.in_page(b.pages[page]), layout.entry_format, slot, "entry ");
        if (ratio == 4) same_row(a.keys.in_page(a.pages[page]), b.keys.in_page(b.pages[page]), layout.key_format, slot, "key ");
      }
    }
    EXPECT_EQ(pack_state(layout, *made, DraftWindow::kLeave), pack_state(layout, from, DraftWindow::kLeave)) << tokens;
  }
}

TEST_P(PackedState, IsSmallAtMultiplesOf128) {
  Sequence at = noise(layout, pool, 256, 1), behind = noise(layout, pool, 255, 1);
  auto small = static_cast<int64_t>(pack_state(layout, at, DraftWindow::kLeave).size());
  auto large = static_cast<int64_t>(pack_state(layout, behind, DraftWindow::kLeave).size());
  int64_t windows = 5 * 127 * layout.entry_format.row_bytes(), csa_tail = 4 * 4 * 4 * int64_t{layout.entry_format.dim + layout.key_format.dim};
  int csa = 0, hca = 0;
  for (int l = 0; l < 5; ++l) (layout.layers[l].ratio == 4 ? csa : hca) += layout.layers[l].ratio != 0;
  EXPECT_EQ(small, windows + csa * csa_tail + 16);
  EXPECT_GE(large - small, hca * int64_t{127} * 2 * 4 * layout.entry_format.dim);
}

TEST_P(PackedState, RefusesBytesThatAreNotAStateOfThisLayout) {
  Sequence from = noise(layout, pool, 200, 1);
  std::vector<std::byte> packed = pack_state(layout, from, DraftWindow::kLeave);
  EXPECT_EQ(packed_length(packed), 200);
  auto refused = [&](std::vector<std::byte> bytes) {
    auto made = resumed(layout, pool, from, bytes);
    EXPECT_FALSE(made);
    return !made && made.error().code == ErrorCode::kInvalid;
  };
  EXPECT_TRUE(refused({}));
  EXPECT_TRUE(refused({packed.begin(), packed.end() - 1}));
  std::vector<std::byte> longer = packed;
  longer.push_back({});
  EXPECT_TRUE(refused(longer));
  std::vector<std::byte> other_length = packed;
  other_length[8] = std::byte{199};
  EXPECT_TRUE(refused(other_length));
  std::vector<std::byte> other_format = packed;
  other_format[0] = {};
  EXPECT_TRUE(refused(other_format));
  EXPECT_EQ(packed_length(other_format), 0);
}

INSTANTIATE_TEST_SUITE_P(Formats, PackedState, testing::Values(Numerics::kExact, Numerics::kNative),
                         [](const auto& test) { return std::string(numerics_name(test.param)); });

}  // namespace
}  // namespace kvasir
