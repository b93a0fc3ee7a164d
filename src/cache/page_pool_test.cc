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
