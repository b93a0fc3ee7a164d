// Pages are given out once, stay where they are, and come back.
#include "cache/page_pool.h"

#include <gtest/gtest.h>

#include <cstring>
#include <set>

#include "cache/block_table.h"

namespace kvasir {
namespace {

TEST(PagePool, GrowsBySlabsAndKeepsAddresses) {
  PagePool pool(4096, 1000);
  std::set<std::byte*> seen;
  std::byte* first = nullptr;
  for (int i = 0; i < 200; ++i) {
    auto page = pool.allocate();
    ASSERT_TRUE(page);
    std::byte* p = pool.address(*page);
    EXPECT_TRUE(seen.insert(p).second) << "page " << i << " is handed out twice";
    std::memset(p, i, 4096);
    if (i == 0) first = p;
  }
  EXPECT_EQ(static_cast<int>(*first), 0);  // still where it was, still its bytes
  EXPECT_EQ(pool.allocated_pages(), 200);
  EXPECT_EQ(pool.total_pages(), 256);
  EXPECT_EQ(pool.held_bytes(), 256 * 4096);
}

TEST(PagePool, SaysWhatIsInUseWhenFull) {
  PagePool pool(64, 64);
  ASSERT_TRUE(pool.reserve(64));
  for (int i = 0; i < 64; ++i) ASSERT_TRUE(pool.allocate());
  auto page = pool.allocate();
  ASSERT_FALSE(page);
  EXPECT_EQ(page.error().code, ErrorCode::kBusy);
  EXPECT_NE(page.error().message.find("64 of at most 64 are in use"), std::string::npos) << page.error().message;
}

TEST(PagePool, FreesAPageWhenItsLastReferenceGoes) {
  PagePool pool(64, 2);
  auto page = pool.allocate();
  ASSERT_TRUE(page);
  pool.retain(*page);
  EXPECT_EQ(pool.references(*page), 2);
  pool.release(*page);
  EXPECT_EQ(pool.allocated_pages(), 1) << "one reader is left";
  pool.audit();
  pool.release(*page);
  EXPECT_EQ(pool.allocated_pages(), 0);
  EXPECT_EQ(pool.available_pages(), 2);
  pool.audit();
}

TEST(PagePool, HoldsItsLimitInsideASlab) {
  PagePool pool(64, 3);
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(pool.allocate());
  EXPECT_FALSE(pool.allocate()) << "the slab has room, the budget has not";
  EXPECT_FALSE(pool.reserve(1));
}

TEST(PagePool, CountsPagesThatOnlyTheCacheHolds) {
  PagePool pool(64, 4);
  PageId page = *pool.allocate();
  pool.retain(page);
  pool.mark_cached(page, true);
  EXPECT_EQ(pool.idle_pages(), 0) << "somebody reads it";
  pool.release(page);
  EXPECT_EQ(pool.idle_pages(), 1);
  pool.retain(page);
  EXPECT_EQ(pool.idle_pages(), 0);
  pool.release(page);
  pool.audit();
  EXPECT_DEATH(pool.release(page), "the cache's");
  pool.mark_cached(page, false);
  EXPECT_EQ(pool.idle_pages(), 0);
  pool.release(page);
  EXPECT_EQ(pool.allocated_pages(), 0);
  pool.audit();
}

TEST(PagePoolDeathTest, RefusesToReleaseAFreePage) {
  PagePool pool(64, 3);
  auto page = pool.allocate();
  ASSERT_TRUE(page);
  pool.release(*page);
  EXPECT_DEATH(pool.release(*page), "is free");
}

TEST(BlockTable, SharesAdoptedPages) {
  PagePool pool(64, 128);
  BlockTable first(pool);
  ASSERT_TRUE(first.grow(3));
  {
    BlockTable second(pool);
    for (PageId page : first.ids().first(2)) {
      pool.retain(page);
      second.adopt(page);
    }
    ASSERT_TRUE(second.grow(3));
    EXPECT_EQ(second.addresses()[1], first.addresses()[1]);
    EXPECT_NE(second.addresses()[2], first.addresses()[2]);
    EXPECT_EQ(pool.allocated_pages(), 4);
  }
  EXPECT_EQ(pool.allocated_pages(), 3);
  pool.audit();
}

TEST(BlockTable, ReturnsItsPagesWhenItDies) {
  PagePool pool(64, 128);
  {
    BlockTable table(pool);
    ASSERT_TRUE(table.grow(100));
    EXPECT_EQ(pool.allocated_pages(), 100);
    table.truncate(40);
    EXPECT_EQ(pool.allocated_pages(), 40);
    EXPECT_FALSE(table.grow(200));
    EXPECT_EQ(table.size(), 40) << "a failed grow leaves the table as it was";
  }
  EXPECT_EQ(pool.allocated_pages(), 0);
}

}  // namespace
}  // namespace kvasir
