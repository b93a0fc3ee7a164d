// kvasir cache over a folder that a cache wrote.
#include "cli/cache_command.h"

#include <gtest/gtest.h>

#include "cache/disk_archive.h"
#include "cache/disk_fixture_test.h"

namespace kvasir {
namespace {

std::string shown(CacheOptions o) {
  auto text = cache_report(o);
  EXPECT_TRUE(text) << (text ? "" : text.error().message);
  return text ? *text : "";
}

struct Folder {
  Folder() {
    auto disk = open_store(disk_options(dir.file("kv")));
    CacheUnderTest t(64, 1 << 20, disk.get());
    t.run(system);
    t.run(a);
    t.run(b);
    EXPECT_TRUE(t.cache->flush());
    EXPECT_TRUE(disk->put_note("call", std::as_bytes(std::span("what was sampled"))));
  }
  CacheOptions options(const std::string& action) const {
    CacheOptions o;
    o.action = action;
    o.folder = dir.file("kv");
    o.json = true;
    return o;
  }
  FolderModel model() const { return folder_models(dir.file("kv"))->at(0); }

  TempDir dir;
  Tokens system = prompt(1, 40), a = joined(system, prompt(2, 60)), b = joined(system, prompt(3, 80));
};

TEST(CacheCommand, ShowsModelsAndPrefixes) {
  Folder f;
  std::string stat = shown(f.options("stat"));
  EXPECT_NE(stat.find("\"prefixes\":2"), std::string::npos) << stat;
  EXPECT_NE(stat.find("\"pages\":11"), std::string::npos) << "2 shared, 4 and 5: " << stat;
  EXPECT_NE(stat.find("\"weights\":\"00000000000000010000000000000002\""), std::string::npos) << stat;
  std::string ls = shown(f.options("ls"));
  EXPECT_NE(ls.find("\"tokens\":96"), std::string::npos) << ls;
  EXPECT_NE(ls.find("\"tokens\":112"), std::string::npos) << ls;
}

TEST(CacheCommand, VerifyFindsAWrongByte) {
  Folder f;
  EXPECT_NE(shown(f.options("verify")).find("\"pages\":11,\"snapshots\":3,\"notes\":1,\"lost\":0"),
            std::string::npos);
  std::string name = "kv/" + segment_name(1), bytes = f.dir.read(name);
  bytes[3000] = static_cast<char>(bytes[3000] ^ 1);
  f.dir.write(name, bytes);
  EXPECT_EQ(shown(f.options("verify")).find("\"lost\":0"), std::string::npos);
  EXPECT_NE(run_cache(f.options("verify")), 0);
}

TEST(CacheCommand, ExportsAPrefixAndImportsItElsewhere) {
  Folder f;
  auto prefixes = folder_prefixes(f.dir.file("kv"), f.model());
  ASSERT_TRUE(prefixes);
  std::string id;
  for (const PrefixInfo& p : *prefixes) id = p.tokens == 96 ? p.id.text() : id;
  CacheOptions out = f.options("export");
  out.file = f.dir.file("one.kv");
  out.prefix = id;
  EXPECT_NE(shown(out).find("\"pages\":6"), std::string::npos);
  CacheOptions in = out;
  in.action = "import";
  in.prefix.clear();
  in.folder = f.dir.file("other");
  EXPECT_NE(shown(in).find("\"pages\":6"), std::string::npos);
  EXPECT_NE(shown(in).find("\"pages\":0"), std::string::npos) << "the second time it is all there";
  auto disk = open_store(disk_options(f.dir.file("other")));
  CacheUnderTest t(64, 1 << 20, disk.get());
  EXPECT_EQ(t.run(f.a), 0);
  EXPECT_EQ(t.cache->lookup({0, f.b}, 120).page_tokens, 32) << "of the other prompt only what they share";
}

TEST(CacheCommand, RefusesAnArchiveWithAWrongByte) {
  Folder f;
  CacheOptions o = f.options("export");
  o.file = f.dir.file("all.kv");
  EXPECT_NE(shown(o).find("\"pages\":11"), std::string::npos);
  std::string whole = f.dir.read("all.kv");
  for (size_t at : {size_t{5}, size_t{500}, size_t{2000}, whole.size() / 2, whole.size() - 5}) {
    std::string wrong = whole;
    wrong[at] = static_cast<char>(wrong[at] ^ 16);
    f.dir.write("all.kv", wrong);
    CacheOptions in = o;
    in.action = "import";
    in.folder = f.dir.file("fresh" + std::to_string(at));
    EXPECT_FALSE(cache_report(in)) << at;
  }
}

TEST(CacheCommand, PrunesAPrefix) {
  Folder f;
  auto prefixes = folder_prefixes(f.dir.file("kv"), f.model());
  ASSERT_TRUE(prefixes);
  CacheOptions o = f.options("prune");
  o.prefix = prefixes->at(0).id.text();
  EXPECT_NE(shown(o).find("\"prefixes\":1"), std::string::npos);
  o.prefix = "00";
  EXPECT_FALSE(cache_report(o));
  CacheOptions nowhere = f.options("ls");
  nowhere.folder = f.dir.file("nothing");
  EXPECT_EQ(cache_report(nowhere).error().code, ErrorCode::kNotFound);
}

}  // namespace
}  // namespace kvasir
