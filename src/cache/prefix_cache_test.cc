// The memory tier: what is found, what is kept, and who goes first.
#include "cache/prefix_cache.h"

#include "cache/cache_fixture_test.h"

namespace kvasir {
namespace {

TEST(PrefixCache, FindsAPublishedPromptAndGivesItsOwnBytes) {
  CacheUnderTest t(64);
  Tokens a = prompt(1, 70);
  EXPECT_EQ(t.run(a), 70);
  auto match = t.cache->lookup({0, a}, 69);
  EXPECT_EQ(match.page_tokens, 64);
  EXPECT_TRUE(match.points.empty()) << "the only snapshot is at 70";
  EXPECT_EQ(t.run(joined(a, prompt(2, 30))), 30);
  EXPECT_EQ(t.run(joined(a, prompt(2, 30))), 0);
  t.cache->audit();
}

TEST(PrefixCache, LimitsWhatItOffers) {
  CacheUnderTest t(64);
  Tokens a = prompt(1, 64);
  t.run(a);
  auto at_limit = t.cache->lookup({0, a}, 64);
  EXPECT_EQ(at_limit.page_tokens, 64);
  ASSERT_EQ(at_limit.points.size(), 1u);
  EXPECT_EQ(at_limit.points[0].length, 64);
  EXPECT_EQ(at_limit.points[0].tier, CacheTier::kMemory);
  auto below = t.cache->lookup({0, a}, 63);
  EXPECT_EQ(below.page_tokens, 48);
  EXPECT_TRUE(below.points.empty());
}

TEST(PrefixCache, SharesNothingBetweenNamespaces) {
  CacheUnderTest t(64);
  Tokens a = prompt(1, 70);
  t.run(a, SnapshotUse::kPromptEnd, 64, true, 7);
  EXPECT_EQ(t.cache->lookup({8, a}, 70).page_tokens, 0);
  EXPECT_EQ(t.cache->lookup({7, a}, 70).page_tokens, 64);
}

TEST(PrefixCache, SaysWherePromptsPart) {
  CacheUnderTest t(64);
  Tokens system = prompt(1, 40);
  t.run(joined(system, prompt(2, 50)));
  Tokens other = joined(system, prompt(3, 50));
  EXPECT_EQ(t.cache->lookup({0, other}, 90).branch_length, 40);
  EXPECT_EQ(t.run(other), 90);
  EXPECT_EQ(t.run(joined(system, prompt(4, 50))), 50) << "the branch point serves the third";
  EXPECT_EQ(t.cache->lookup({0, joined(system, prompt(5, 50))}, 90).branch_length, 0)
      << "a point is there already";
  Tokens longer = joined(other, prompt(6, 20));
  EXPECT_EQ(t.cache->lookup({0, longer}, 110).branch_length, 0) << "going on is not parting";
  EXPECT_EQ(t.cache->lookup({0, std::span(other).first(85)}, 85).branch_length, 0) << "nor is stopping early";
  t.cache->audit();
}

TEST(PrefixCache, AMissingPageShortensAHitAndNothingMore) {
  CacheUnderTest t(64);
  Tokens a = prompt(1, 64);
  t.run(a, SnapshotUse::kPromptEnd, 64, false);
  ASSERT_TRUE(t.cache->make_room(62)) << "two pages of a may stay";
  auto match = t.cache->lookup({0, a}, 64);
  EXPECT_EQ(match.page_tokens, 32) << "leaves go before parents";
  EXPECT_TRUE(match.points.empty()) << "the snapshot is there, its pages are not";
  EXPECT_EQ(t.run(a, SnapshotUse::kPromptEnd, 64, false), 64);
  EXPECT_EQ(t.cache->lookup({0, a}, 64).page_tokens, 64);
  t.cache->audit();
}

TEST(PrefixCache, NeverEvictsWhatIsRead) {
  CacheUnderTest t(8);
  Tokens a = prompt(1, 64);
  t.run(a);
  auto restore = t.cache->restore({0, a}, 64, 64);
  ASSERT_TRUE(restore);
  ASSERT_TRUE(t.cache->make_room(4));
  Status more = t.cache->make_room(5);
  ASSERT_FALSE(more);
  EXPECT_EQ(more.error().code, ErrorCode::kBusy);
  EXPECT_TRUE((*restore)->done());
  EXPECT_EQ((*restore)->page_tokens(), 64);
  EXPECT_EQ((*restore)->tier(), CacheTier::kMemory);
  restore->reset();
  EXPECT_TRUE(t.cache->make_room(8));
  EXPECT_EQ(t.pool.allocated_pages(), 0);
  t.cache->audit();
}

TEST(PrefixCache, CountsWhatIsIdleAsReadersComeAndGo) {
  CacheUnderTest t(16);
  Tokens a = prompt(1, 4 * kSpanTokens), b = prompt(2, 3 * kSpanTokens);
  t.run(a);
  t.run(b);
  EXPECT_EQ(t.cache->idle_pages(), 7);
  auto restore = t.cache->restore({0, a}, 2 * kSpanTokens, 0);
  ASSERT_TRUE(restore);
  EXPECT_EQ(t.cache->idle_pages(), 5);
  t.cache->audit();
  restore->reset();
  EXPECT_EQ(t.cache->idle_pages(), 7);
  t.cache->forget({0, b});
  EXPECT_EQ(t.cache->idle_pages(), 4);
  auto metrics = t.cache->metrics();
  EXPECT_EQ(metrics.pages, 4);
  EXPECT_EQ(metrics.idle_pages, 4);
  EXPECT_EQ(metrics.snapshots, 1);
  EXPECT_EQ(metrics.snapshot_bytes, 64);
  t.cache->audit();
  ASSERT_TRUE(t.cache->make_room(16));
  EXPECT_EQ(t.cache->idle_pages(), 0);
  t.cache->audit();
}

TEST(PrefixCache, OneOffRequestsNeverPushOutAConversation) {  // CACHE-5
  CacheUnderTest t(64, 64 * 40);
  Tokens chat = prompt(1, 160);
  t.run(chat);
  chat = joined(chat, prompt(2, 80));
  EXPECT_EQ(t.run(chat), 80);
  for (uint32_t i = 0; i < 300; ++i) ASSERT_EQ(t.run(prompt(1000 + i, 100)), 100);
  chat = joined(chat, prompt(3, 32));
  EXPECT_EQ(t.run(chat), 32) << "after 28 times the memory in requests that came once";
  t.cache->audit();
}

TEST(PrefixCache, WhatWasPopularOnceDoesNotStarveWhatBeginsNow) {
  CacheUnderTest t(64, 1 << 20);
  for (uint32_t i = 0; i < 8; ++i) {
    for (int turn = 0; turn < 3; ++turn) t.run(prompt(i, 128));
  }
  Tokens chat = prompt(50, 96);
  t.run(chat);
  t.run(prompt(51, 64));  // something else in between
  EXPECT_EQ(t.run(joined(chat, prompt(52, 16))), 16);
}

TEST(PrefixCache, MakingRoomSparesThePrefixOfTheIncomingPrompt) {  // CACHE-6
  CacheUnderTest t(16, 64 * 4);
  Tokens stored = prompt(1, 64), next = joined(stored, prompt(2, 64));
  t.run(stored);
  for (uint32_t i = 0; i < 3; ++i) t.run(prompt(10 + i, 64));
  auto match = t.cache->lookup({0, next}, 127);
  ASSERT_EQ(match.points.size(), 1u);
  // A displaced sequence stores its state and its pages go; the incoming one then takes its own.
  Tokens displaced = prompt(20, 64);
  t.cache->put_snapshot({0, displaced}, state_of(displaced, 64), SnapshotUse::kOutputEnd);
  ASSERT_TRUE(t.cache->make_room(4));
  EXPECT_EQ(t.run(next), 64);
}

TEST(PrefixCache, KeepsTheStateOfPreemptedSequences) {
  CacheUnderTest t(64, 64 * 2);
  Tokens a = prompt(1, 64);
  t.run(a, SnapshotUse::kPreempted);
  for (uint32_t i = 0; i < 10; ++i) t.run(prompt(10 + i, 32));
  EXPECT_EQ(t.cache->lookup({0, a}, 64).points.size(), 1u);
  t.cache->drop_snapshot({0, a});
  EXPECT_TRUE(t.cache->lookup({0, a}, 64).points.empty());
  t.cache->audit();
}

TEST(PrefixCache, SnapshotsStayInTheirBudget) {
  CacheUnderTest t(64, 1000);
  for (uint32_t i = 0; i < 20; ++i) {
    t.run(prompt(i, 32), SnapshotUse::kPromptEnd, 300);
    EXPECT_LE(t.cache->metrics().snapshot_bytes, 1000);
  }
  EXPECT_EQ(t.cache->metrics().snapshots, 3);
  EXPECT_EQ(t.cache->metrics().evicted_snapshots, 17);
}

TEST(PrefixCache, PublishingTwiceKeepsTheFirstPage) {
  CacheUnderTest t(64);
  Tokens a = prompt(1, 16);
  BlockTable first(t.pool), second(t.pool);
  ASSERT_TRUE(first.grow(1) && second.grow(1));
  fill_page(first.addresses()[0], a, kPageBytes);
  fill_page(second.addresses()[0], a, kPageBytes);
  t.cache->publish({0, a}, 0, first.ids());
  t.cache->publish({0, a}, 0, second.ids());
  EXPECT_EQ(t.pool.references(first.ids()[0]), 2);
  EXPECT_EQ(t.pool.references(second.ids()[0]), 1);
  t.cache->audit();
}

TEST(PrefixCache, ForgetsAPromptButNotWhatOthersShare) {
  CacheUnderTest t(64);
  Tokens system = prompt(1, 48), a = joined(system, prompt(2, 60)), b = joined(system, prompt(3, 60));
  t.run(system, SnapshotUse::kSystem);
  t.run(a);
  t.run(b);
  t.cache->forget({0, a});
  t.cache->audit();
  auto match = t.cache->lookup({0, a}, 108);
  EXPECT_EQ(match.page_tokens, 48);
  ASSERT_EQ(match.points.size(), 1u);
  EXPECT_EQ(match.points[0].length, 48);
  EXPECT_EQ(t.run(joined(b, prompt(4, 10))), 10);
  t.cache->forget({0, system});
  t.cache->audit();
  EXPECT_EQ(t.cache->lookup({0, b}, 108).page_tokens, 0) << "it begins with what was forgotten";
  EXPECT_EQ(t.pool.allocated_pages(), 0);
}

TEST(PrefixCache, KeepsOfAForgottenPromptWhatOthersStillWant) {
  CacheUnderTest t(64);
  Tokens first = prompt(1, 60), second = joined(first, prompt(2, 60));
  t.run(first);
  t.run(second);
  t.cache->forget({0, first}, 60);
  EXPECT_EQ(t.cache->lookup({0, second}, 120).page_tokens, 112) << "it goes on from what is kept";
  t.cache->forget({0, second}, 60);
  t.cache->audit();
  auto match = t.cache->lookup({0, second}, 120);
  EXPECT_EQ(match.page_tokens, 48);
  ASSERT_FALSE(match.points.empty());
  EXPECT_EQ(match.points.back().length, 60);
}

TEST(PrefixCache, ListsWhatItKnows) {
  CacheUnderTest t(64);
  Tokens a = prompt(1, 48);
  t.run(a);
  t.run(a);
  auto list = t.cache->list();
  ASSERT_EQ(list.size(), 1u);
  EXPECT_EQ(list[0].tokens, 48);
  EXPECT_EQ(list[0].memory_bytes, 3 * kPageBytes + 64);
  EXPECT_EQ(list[0].hits, 1);
  EXPECT_EQ(t.cache->tokens_of(list[0].id), a);
  EXPECT_TRUE(t.cache->tokens_of(SpanHash{1, 2}).empty());
}

}  // namespace
}  // namespace kvasir
