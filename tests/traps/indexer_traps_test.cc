// Traps 11, 12, 13, 21, 32: what the indexer selects.
#include "trap_fixture.h"

namespace kvasir {
namespace {

class IndexerTraps : public TrapOps {
 protected:
  static constexpr int kDim = 128;

  // Selects for rows at positions start.. over `keys`; returns [rows, topk].
  std::vector<int32_t> select(Ops& ops, const std::vector<float>& q, const std::vector<float>& weight, int heads,
                              const std::vector<std::vector<float>>& keys, int64_t start, int64_t rows, int topk) {
    KvRowFormat format = KvRowFormat::index_key(ops.numerics(), kDim);
    OneLayerPages pages(format, 32, static_cast<int64_t>(keys.size()) + 32);
    for (size_t b = 0; b < keys.size(); ++b) pages.put(static_cast<int64_t>(b), keys[b]);
    std::vector<int32_t> out(rows * topk, -7);
    IndexSelectSequence a;
    a.q = view<3>(q, {rows, heads, kDim});
    a.weight = view<2>(weight, {rows, heads});
    a.start = start;
    a.format = format;
    a.pages = pages.addresses.data();
    a.keys = pages.section;
    a.selected = {out.data(), {rows, topk}};
    index_select(ops, a);
    return out;
  }
};

TEST_P(IndexerTraps, Trap11MaskBeforeTopK) {
  auto ops = make();
  std::vector<std::vector<float>> keys;
  for (int b = 0; b < 40; ++b) keys.push_back(random(kDim));  // keys beyond the visible one score higher or not: irrelevant
  std::vector<float> q = random(8 * kDim), w(8, 1.f);
  std::vector<int32_t> got = select(*ops, q, w, 8, keys, 5, 1, 512);
  EXPECT_EQ(got[0], 0);  // t = 5 sees block 0 only
  for (int j = 1; j < 512; ++j) ASSERT_EQ(got[j], -1) << j;
}

TEST_P(IndexerTraps, Trap12IndexerFormula) {
  // Head 0 votes for key 0, head 1 against it; the ReLU is per head, before the weights, which may be negative.
  auto ops = make();
  std::vector<std::vector<float>> keys(4, std::vector<float>(kDim, 0.f));
  keys[0][0] = 4.f, keys[0][32] = -4.f;  // head 0: +, head 1: - (cut off by ReLU)
  keys[1][0] = 1.f, keys[1][32] = 2.f;   // both positive
  keys[2][0] = -2.f, keys[2][32] = -2.f; // both cut off: score 0
  keys[3][0] = 0.f, keys[3][32] = 4.f;   // head 1 only, weighted negatively
  std::vector<float> q(2 * kDim, 0.f);
  q[0] = 1.f;          // head 0 reads channel 0
  q[kDim + 32] = 1.f;  // head 1 reads channel 32
  // Scores 4*1, 1 - 2*0.25 = 0.5, 0, -1. A softmax or sigmoid, or a ReLU after the sum, would give another order.
  std::vector<float> w = {1.f, -0.25f};
  EXPECT_EQ(select(*ops, q, w, 2, keys, 15, 1, 1), (std::vector<int32_t>{0}));
  EXPECT_EQ(select(*ops, q, w, 2, keys, 15, 1, 2), (std::vector<int32_t>{0, 1}));
  EXPECT_EQ(select(*ops, q, w, 2, keys, 15, 1, 3), (std::vector<int32_t>{0, 1, 2}));
}

TEST_P(IndexerTraps, Trap13IndexTopkIsTheConfigs) {
  auto ops = make();
  std::vector<std::vector<float>> keys;
  for (int b = 0; b < 1500; ++b) keys.push_back(random(kDim));
  std::vector<float> q = random(8 * kDim), w(8, 1.f);
  for (int topk : {512, 1024}) {
    std::vector<int32_t> got = select(*ops, q, w, 8, keys, 4 * 1500 - 1, 1, topk);
    for (int j = 0; j < topk; ++j) ASSERT_GE(got[j], 0) << "of " << topk;
    EXPECT_TRUE(std::is_sorted(got.begin(), got.end()));
    EXPECT_EQ(std::adjacent_find(got.begin(), got.end()), got.end());
  }
  EXPECT_EQ(flash_config().index_topk, 512);
  EXPECT_EQ(pro_config().index_topk, 1024);
}

TEST_P(IndexerTraps, Trap21SelectionIsLocalToItsSequence) {
  // Unaligned widths and a start that is no multiple of anything: every row agrees with the row alone.
  auto ops = make();
  const int rows = 9, heads = 8, topk = 16;
  std::vector<std::vector<float>> keys;
  for (int b = 0; b < 77; ++b) keys.push_back(random(kDim));
  std::vector<float> q = random(rows * heads * kDim), w = random(rows * heads);
  std::vector<int32_t> all = select(*ops, q, w, heads, keys, 293, rows, topk);
  for (int i = 0; i < rows; ++i) {
    std::vector<float> qi(q.begin() + i * heads * kDim, q.begin() + (i + 1) * heads * kDim), wi(w.begin() + i * heads, w.begin() + (i + 1) * heads);
    std::vector<int32_t> row(all.begin() + i * topk, all.begin() + (i + 1) * topk);
    EXPECT_EQ(select(*ops, qi, wi, heads, keys, 293 + i, 1, topk), row) << "row " << i;
    for (int32_t b : row) EXPECT_LT(b, (293 + i + 1) / 4);
  }
}

TEST_P(IndexerTraps, Trap32NoEntriesBeyondThoseThatExist) {
  auto ops = make();
  std::vector<std::vector<float>> keys;
  for (int b = 0; b < 3; ++b) keys.push_back(std::vector<float>(kDim, 0.f));  // all scores equal, zero
  std::vector<float> q = random(5 * 8 * kDim), w(5 * 8, 1.f);
  std::vector<int32_t> got = select(*ops, q, w, 8, keys, 9, 5, 4);
  EXPECT_EQ(got, (std::vector<int32_t>{0, 1, -1, -1, 0, 1, -1, -1, 0, 1, 2, -1, 0, 1, 2, -1, 0, 1, 2, -1}));
}

TEST_P(IndexerTraps, EqualScoresGoToTheLowestEntry) {
  auto ops = make();
  std::vector<float> key = random(kDim);
  std::vector<std::vector<float>> keys(50, key);
  std::vector<float> q = key, w(1, 1.f);
  EXPECT_EQ(select(*ops, q, w, 1, keys, 199, 1, 5), (std::vector<int32_t>{0, 1, 2, 3, 4}));
}

KVASIR_TRAP_SUITE(IndexerTraps);

}  // namespace
}  // namespace kvasir
