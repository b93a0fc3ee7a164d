// Keys: what the file may hold, and that only a hash of a key is ever in it.
#include "server/api_keys.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <fstream>
#include <sstream>

#include "io/temp_dir.h"

namespace kvasir {
namespace {

TEST(ApiKeys, AMadeKeyIsFoundAndItsTextIsNotInTheFile) {
  TempDir dir;
  std::string file = dir.file("keys.toml");
  auto key = make_key();
  ASSERT_TRUE(key);
  ASSERT_TRUE(append_key(file, "ci", hash_key(*key), 4));
  auto other = make_key();
  ASSERT_TRUE(append_key(file, "ops", hash_key(*other), 0));
  auto keys = ApiKeys::load(file);
  ASSERT_TRUE(keys) << keys.error().message;
  const ApiKey* found = (*keys)->find(*key);
  ASSERT_NE(found, nullptr);
  EXPECT_EQ(found->name, "ci");
  EXPECT_EQ(found->max_streams, 4);
  EXPECT_EQ((*keys)->find(*key + "x"), nullptr);
  EXPECT_EQ((*keys)->find(""), nullptr);
  EXPECT_NE(found->cache_namespace, (*keys)->find(*other)->cache_namespace);
  std::stringstream text;
  text << std::ifstream(file).rdbuf();
  EXPECT_EQ(text.str().find(key->substr(3)), std::string::npos);
  struct stat info{};
  ASSERT_EQ(stat(file.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
}

TEST(ApiKeys, AFileThatEveryoneMayReadIsRefused) {
  TempDir dir;
  std::string file = dir.file("keys.toml");
  ASSERT_TRUE(append_key(file, "ci", hash_key("x"), 0));
  chmod(file.c_str(), 0644);
  EXPECT_FALSE(ApiKeys::load(file));
}

TEST(ApiKeys, WrongEntriesNameTheirLine) {
  TempDir dir;
  std::string file = dir.file("keys.toml");
  for (const char* text :
       {"", "[[key]]\nname=\"a\"\nsha256=\"12\"\n", "[[key]]\nsha256=\"12\"\n", "key = 3\n", "[[key]\n"}) {
    dir.write("keys.toml", text);
    chmod(file.c_str(), 0600);
    auto keys = ApiKeys::load(file);
    ASSERT_FALSE(keys) << text;
    EXPECT_NE(keys.error().message.find("keys.toml:"), std::string::npos) << keys.error().message;
  }
}

TEST(StreamSlot, HoldsAtMostTheLimitAndGivesBack) {
  ApiKey key;
  {
    auto first = StreamSlot::take(&key, 1);
    EXPECT_TRUE(first);
    EXPECT_FALSE(StreamSlot::take(&key, 1));
    EXPECT_EQ(key.running, 1);
  }
  EXPECT_EQ(key.running, 0);
  EXPECT_TRUE(StreamSlot::take(nullptr, 1));
}

}  // namespace
}  // namespace kvasir
