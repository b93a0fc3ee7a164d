// The disk tier: what was acknowledged comes back byte for byte, and nothing that is wrong ever does.
#include "cache/disk_store.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <deque>
#include <filesystem>

#include "cache/disk_fixture_test.h"

namespace kvasir {
namespace {

namespace fs = std::filesystem;

struct PrefixOnDisk {
  RecordId id{};
  Tokens tokens;
  std::vector<std::vector<std::byte>> pages;
};

PrefixOnDisk make_prefix(uint32_t seed, int pages) {
  PrefixOnDisk p;
  p.tokens = prompt(seed, pages * kSpanTokens);
  for (int i = 0; i < pages; ++i) {
    p.pages.emplace_back(kPageBytes);
    fill_page(p.pages.back().data(), std::span(p.tokens).first((i + 1) * kSpanTokens), kPageBytes);
  }
  return p;
}

bool put(DiskStore& store, PrefixOnDisk& p, DiskWorth worth = {}) {
  ExtentHead extent;
  extent.before = root_hash(0);
  extent.tokens = p.tokens;
  std::vector<const std::byte*> pages;
  for (const auto& page : p.pages) pages.push_back(page.data());
  auto id = store.put_pages(extent, pages, worth);
  if (id) p.id = *id;
  return id.has_value();
}

// How many of the pages come back; those that do are compared.
int pages_back(DiskStore& store, const PrefixOnDisk& p) {
  std::vector<std::vector<std::byte>> into(p.pages.size(), std::vector<std::byte>(kPageBytes));
  std::vector<DiskStore::PageToRead> want;
  for (size_t i = 0; i < into.size(); ++i) want.push_back({p.id, static_cast<int>(i), into[i].data()});
  auto read = store.read(want, {});
  read->wait();
  int arrived = 0;
  for (size_t i = 0; i < into.size(); ++i) {
    if (!read->arrived(i)) continue;
    ++arrived;
    EXPECT_EQ(into[i], p.pages[i]) << "page " << i << " of record " << static_cast<uint64_t>(p.id);
  }
  return arrived;
}

std::vector<fs::path> segments_in(const std::string& folder) {
  std::vector<fs::path> paths;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (segment_number(entry.path().filename().string())) paths.push_back(entry.path());
  }
  std::sort(paths.begin(), paths.end());
  return paths;
}

TEST(DiskStore, GivesBackWhatWasWrittenNowAndAfterARestart) {
  TempDir dir;
  PrefixOnDisk a = make_prefix(1, 5), b = make_prefix(2, 64);
  auto state = std::make_shared<const std::vector<std::byte>>(state_of(a.tokens, 3001));
  std::optional<RecordId> snapshot;
  for (int round = 0; round < 3; ++round) {
    auto store = open_store(disk_options(dir.file("kv")));
    if (round == 0) {
      ASSERT_TRUE(put(*store, a) && put(*store, b));
      snapshot = store->put_snapshot({.before = root_hash(0), .length = 5, .use = 1, .tail = {1, 2, 3, 4, 5}},
                                     state, {});
      ASSERT_TRUE(store->flush());
      EXPECT_EQ(store->take_events().size(), 3u);
    } else {
      auto found = store->take_found();
      ASSERT_EQ(found.size(), 3u);
      EXPECT_EQ(found[1].extent.tokens, b.tokens);
      EXPECT_EQ(found[2].snapshot.tail, (Tokens{1, 2, 3, 4, 5}));
    }
    EXPECT_EQ(pages_back(*store, a), 5);
    EXPECT_EQ(pages_back(*store, b), 64);
    auto read = store->read({}, snapshot);
    read->wait();
    ASSERT_TRUE(read->snapshot());
    EXPECT_EQ(*read->snapshot(), *state);
    EXPECT_EQ(store->metrics().pages, 69);
    EXPECT_EQ(store->metrics().corrupt_records, 0);
  }
}

TEST(DiskStore, ReadsSomePagesOfAnExtent) {
  TempDir dir;
  auto store = open_store(disk_options(dir.file("kv")));
  PrefixOnDisk a = make_prefix(1, 20);
  ASSERT_TRUE(put(*store, a));
  ASSERT_TRUE(store->flush());
  std::vector<std::vector<std::byte>> into(20, std::vector<std::byte>(kPageBytes));
  std::vector<DiskStore::PageToRead> want;
  for (int slot : {7, 2, 3, 19}) want.push_back({a.id, slot, into[slot].data()});
  auto read = store->read(want, {});
  read->wait();
  EXPECT_EQ(read->sections_ready(), 3);
  for (size_t i = 0; i < want.size(); ++i) {
    EXPECT_TRUE(read->arrived(i));
    EXPECT_EQ(into[want[i].slot], a.pages[want[i].slot]);
  }
}

TEST(DiskStore, KeepsItsFilesPrivate) {
  TempDir dir;
  auto store = open_store(disk_options(dir.file("deep/kv")));
  PrefixOnDisk a = make_prefix(1, 2);
  ASSERT_TRUE(put(*store, a));
  ASSERT_TRUE(store->flush());
  struct stat st{};
  ASSERT_EQ(stat(dir.file("deep/kv").c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 0777, 0700u);
  for (const auto& path : segments_in(dir.file("deep/kv"))) {
    ASSERT_EQ(stat(path.c_str(), &st), 0);
    EXPECT_EQ(st.st_mode & 0777, 0600u) << path;
  }
}

TEST(DiskStore, RefusesASecondOwnerByItsProcessId) {
  TempDir dir;
  auto store = open_store(disk_options(dir.file("kv")));
  auto second = DiskStore::open(disk_options(dir.file("kv")));
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, ErrorCode::kBusy);
  EXPECT_NE(second.error().message.find(std::to_string(getpid())), std::string::npos)
      << second.error().message;
  DiskOptions reader = disk_options(dir.file("kv"));
  reader.read_only = true;
  EXPECT_TRUE(DiskStore::open(reader)) << "looking is allowed";
}

TEST(DiskStore, NeverReadsAnotherModelsSegments) {
  TempDir dir;
  PrefixOnDisk a = make_prefix(1, 3);
  {
    auto store = open_store(disk_options(dir.file("kv")));
    ASSERT_TRUE(put(*store, a));
  }
  DiskOptions other = disk_options(dir.file("kv"));
  other.model.numerics = 99;
  {
    auto store = open_store(other);
    EXPECT_TRUE(store->take_found().empty());
    EXPECT_EQ(pages_back(*store, a), 0);
    EXPECT_GT(store->metrics().foreign_bytes, 0);
    PrefixOnDisk b = make_prefix(2, 3);
    ASSERT_TRUE(put(*store, b));
    ASSERT_TRUE(store->flush());
  }
  auto store = open_store(disk_options(dir.file("kv")));
  EXPECT_EQ(store->take_found().size(), 1u);
  EXPECT_EQ(pages_back(*store, a), 3);
}

TEST(DiskStore, DroppedPagesStayDroppedAfterARestart) {
  TempDir dir;
  PrefixOnDisk a = make_prefix(1, 4);
  {
    auto store = open_store(disk_options(dir.file("kv")));
    ASSERT_TRUE(put(*store, a));
    ASSERT_TRUE(store->flush());
    store->drop(a.id, 0b0110);
    ASSERT_TRUE(store->flush());
    EXPECT_EQ(pages_back(*store, a), 2);
  }
  auto store = open_store(disk_options(dir.file("kv")));
  auto found = store->take_found();
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].present, 0b1001u);
  EXPECT_EQ(pages_back(*store, a), 2);
}

TEST(DiskStore, NotesAreReplacedRemovedAndSurvive) {
  TempDir dir;
  auto text = [](std::string_view s) { return std::as_bytes(std::span(s)); };
  auto all = [](DiskStore& store) {
    std::map<std::string, std::string> notes;
    store.for_each_note([&](std::string_view key, std::span<const std::byte> value) {
      notes[std::string(key)] = std::string(reinterpret_cast<const char*>(value.data()), value.size());
    });
    return notes;
  };
  {
    auto store = open_store(disk_options(dir.file("kv")));
    ASSERT_TRUE(store->put_note("call_1", text("one")) && store->put_note("call_2", text("two")) &&
                store->put_note("call_1", text("three")));
    EXPECT_EQ(all(*store), (std::map<std::string, std::string>{{"call_1", "three"}, {"call_2", "two"}}));
  }
  {
    auto store = open_store(disk_options(dir.file("kv")));
    EXPECT_EQ(all(*store), (std::map<std::string, std::string>{{"call_1", "three"}, {"call_2", "two"}}));
    ASSERT_TRUE(store->put_note("call_1", {}));
    EXPECT_EQ(all(*store), (std::map<std::string, std::string>{{"call_2", "two"}}));
  }
  auto store = open_store(disk_options(dir.file("kv")));
  EXPECT_EQ(all(*store), (std::map<std::string, std::string>{{"call_2", "two"}}));
}

TEST(DiskStore, StaysUnderItsLimitAndKeepsWhatIsUsed) {
  TempDir dir;
  DiskOptions options = disk_options(dir.file("kv"));
  options.max_bytes = 2 << 20;
  options.segment_bytes = 128 << 10;
  std::atomic<int64_t> time{1000};
  options.unix_seconds = [&] { return time.load(); };
  auto store = open_store(options);
  PrefixOnDisk used = make_prefix(1, 16), kept = make_prefix(2, 16);
  ASSERT_TRUE(put(*store, used, {.hits = 3, .weight = 4}) && put(*store, kept, {.kept = true}));
  std::vector<PrefixOnDisk> others;
  for (uint32_t i = 0; i < 600; ++i) {
    time += 60;
    others.push_back(make_prefix(100 + i, 16));
    ASSERT_TRUE(put(*store, others.back()));
    if (i % 100 == 0) store->touch(used.id, {.hits = 3, .weight = 4});
    if (i % 20 == 0) {
      ASSERT_TRUE(store->flush());
    }
    EXPECT_LE(store->metrics().bytes, options.max_bytes) << i;
  }
  ASSERT_TRUE(store->flush());
  EXPECT_EQ(pages_back(*store, used), 16);
  EXPECT_EQ(pages_back(*store, kept), 16);
  EXPECT_EQ(pages_back(*store, others.back()), 16);
  EXPECT_EQ(pages_back(*store, others.front()), 0);
  EXPECT_GT(store->metrics().pages, 1800) << "most of the limit is used";
  int64_t files = 0;
  for (const auto& path : segments_in(dir.file("kv"))) files += static_cast<int64_t>(fs::file_size(path));
  EXPECT_EQ(store->metrics().bytes, files);
}

TEST(DiskStore, GoesOnWithoutADiskThatIsFullAndTriesAgain) {
  TempDir dir;
  FailingFiles files;
  DiskOptions options = disk_options(dir.file("kv"));
  options.files = &files;
  std::atomic<int64_t> time{0};
  options.monotonic_ms = [&] { return time.load(); };
  auto store = open_store(options);
  PrefixOnDisk a = make_prefix(1, 4), b = make_prefix(2, 4), c = make_prefix(3, 4);
  ASSERT_TRUE(put(*store, a));
  ASSERT_TRUE(store->flush());
  for (int kind : {1, 2, 3}) {
    files.error = kind;
    ASSERT_TRUE(put(*store, b)) << kind;
    EXPECT_FALSE(store->flush());
    EXPECT_FALSE(put(*store, b)) << "refused while it is left alone";
    EXPECT_EQ(pages_back(*store, a), 4) << "what is there can be read";
    files.error = 0;
    time += 120000;
    ASSERT_TRUE(put(*store, c));
    ASSERT_TRUE(store->flush());
    EXPECT_EQ(pages_back(*store, c), 4);
    EXPECT_EQ(pages_back(*store, b), 0);
  }
  EXPECT_GE(store->metrics().write_errors, 3);
  store.reset();
  store = open_store(disk_options(dir.file("kv")));
  EXPECT_EQ(pages_back(*store, a), 4);
  EXPECT_EQ(store->take_found().size(), 4u);
}

TEST(DiskStore, AReadErrorIsALossAndNoMore) {
  TempDir dir;
  FailingFiles files;
  DiskOptions options = disk_options(dir.file("kv"));
  options.files = &files;
  auto store = open_store(options);
  PrefixOnDisk a = make_prefix(1, 4);
  ASSERT_TRUE(put(*store, a));
  ASSERT_TRUE(store->flush());
  store->take_events();
  files.error = 4;
  EXPECT_EQ(pages_back(*store, a), 0);
  auto events = store->take_events();
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0].kind, DiskEvent::Kind::kLost);
  EXPECT_EQ(store->metrics().corrupt_records, 1);
}

// Every change of the disk in turn is the last one, torn at some byte; what was acknowledged before is there.
TEST(DiskStore, SurvivesBeingKilledAtEveryWrite) {
  int killed = 0;
  for (int64_t die_at = 0;; ++die_at) {
    TempDir dir;
    FailingFiles files;
    files.die_at = die_at;
    files.seed = static_cast<uint32_t>(die_at);
    std::vector<PrefixOnDisk> acknowledged, dropped, gone;
    std::deque<PrefixOnDisk> offered;  // outlives the store that reads it
    {
      DiskOptions options = disk_options(dir.file("kv"));
      options.files = &files;
      options.max_bytes = 1 << 20;
      options.segment_bytes = 16 << 10;  // segments are finished and rewritten on the way
      auto store = open_store(options);
      std::map<RecordId, PrefixOnDisk> waiting;
      for (uint32_t i = 0; i < 16; ++i) {
        PrefixOnDisk& p = offered.emplace_back(make_prefix(i, 1 + static_cast<int>(i % 7)));
        if (put(*store, p)) waiting[p.id] = p;
        if (i == 9 && !acknowledged.empty()) {
          for (int drop = 0; drop < 4 && !acknowledged.empty(); ++drop) {
            store->drop(acknowledged.front().id, ~uint64_t{0});
            dropped.push_back(acknowledged.front());
            acknowledged.erase(acknowledged.begin());
          }
        }
        if (i % 3 != 2) continue;
        bool flushed = static_cast<bool>(store->flush());
        if (flushed && i == 11) gone = dropped;
        for (const DiskEvent& e : store->take_events()) {
          if (e.kind == DiskEvent::Kind::kWritten) acknowledged.push_back(waiting.at(e.id));
        }
      }
    }
    if (!files.dead) break;
    ++killed;
    auto store = open_store(disk_options(dir.file("kv")));
    for (const PrefixOnDisk& p : acknowledged) {
      EXPECT_EQ(pages_back(*store, p), std::ssize(p.pages))
          << "record " << static_cast<uint64_t>(p.id) << ", killed at write " << die_at;
    }
    for (const PrefixOnDisk& p : gone)
      EXPECT_EQ(pages_back(*store, p), 0) << "dropped and flushed, killed at write " << die_at;
    // And it goes on from there.
    PrefixOnDisk more = make_prefix(99, 3);
    ASSERT_TRUE(put(*store, more));
    ASSERT_TRUE(store->flush());
    EXPECT_EQ(pages_back(*store, more), 3);
  }
  EXPECT_GT(killed, 25);
}

TEST(DiskStore, AThousandWrongBytesAreMissesAndNeverAnswers) {
  TempDir dir;
  std::vector<PrefixOnDisk> all;
  {
    DiskOptions options = disk_options(dir.file("kv"));
    options.segment_bytes = 64 << 10;
    auto store = open_store(options);
    for (uint32_t i = 0; i < 24; ++i) {
      all.push_back(make_prefix(i, 1 + static_cast<int>(i % 9)));
      ASSERT_TRUE(put(*store, all.back()));
    }
    ASSERT_TRUE(store->flush());
  }
  std::mt19937 random(5);
  int lost_somewhere = 0;
  for (int round = 0; round < 1000; ++round) {
    auto paths = segments_in(dir.file("kv"));
    const auto& path = paths[random() % paths.size()];
    std::string name = path.filename().string();
    std::string bytes = dir.read("kv/" + name);
    size_t at = random() % bytes.size();
    char right = bytes[at];
    bytes[at] = static_cast<char>(right ^ (1 << random() % 8));
    dir.write("kv/" + name, bytes);
    {
      DiskOptions options = disk_options(dir.file("kv"));
      options.read_only = true;  // so that the next round finds it as it was
      auto store = open_store(options);
      int lost = 0;
      for (const RecordHead& head : store->take_found()) {
        auto known = std::ranges::find(all, head.id, &PrefixOnDisk::id);
        ASSERT_NE(known, all.end());
        EXPECT_EQ(head.extent.tokens, known->tokens);
      }
      for (const PrefixOnDisk& p : all) lost += static_cast<int>(std::ssize(p.pages)) - pages_back(*store, p);
      lost_somewhere += lost > 0 ? 1 : 0;
      EXPECT_EQ(lost > 0, lost > 0 && store->metrics().corrupt_records > 0) << name << " at " << at;
    }
    bytes[at] = right;
    dir.write("kv/" + name, bytes);
  }
  EXPECT_GT(lost_somewhere, 500) << "most bytes matter";
}

TEST(DiskStore, ReadsAFolderThatMayOnlyBeRead) {
  TempDir dir;
  PrefixOnDisk a = make_prefix(1, 3);
  {
    auto store = open_store(disk_options(dir.file("kv")));
    ASSERT_TRUE(put(*store, a));
  }
  fs::permissions(dir.file("kv"), fs::perms::owner_read | fs::perms::owner_exec);
  FailingFiles files;  // root writes wherever it likes, so the refusal is injected
  files.error = 2;
  DiskOptions options = disk_options(dir.file("kv"));
  options.files = &files;
  {
    auto store = open_store(options);
    ASSERT_NE(store, nullptr);
    EXPECT_EQ(pages_back(*store, a), 3);
    PrefixOnDisk b = make_prefix(2, 3);
    ASSERT_TRUE(put(*store, b));
    EXPECT_FALSE(store->flush());
    EXPECT_EQ(store->metrics().write_errors, 1);
  }
  fs::permissions(dir.file("kv"), fs::perms::owner_all);
}

}  // namespace
}  // namespace kvasir
