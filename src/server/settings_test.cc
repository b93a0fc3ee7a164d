// Settings: the table, the file, the contradictions.
#include "server/settings.h"

#include <gtest/gtest.h>

#include <set>

#include "io/temp_dir.h"

namespace kvasir {
namespace {

std::string write_file(const TempDir& dir, const std::string& text) {
  dir.write("kvasir.toml", text);
  return dir.file("kvasir.toml");
}

TEST(Settings, WhatIsPrintedReadsBackTheSame) {
  Settings settings;
  settings.port = 1234;
  settings.allowed_hosts = {"box.local", "box"};
  settings.max_body_bytes = 3 << 20;
  settings.numerics = Numerics::kNative;
  settings.log_format = LogFormat::kJson;
  settings.model_dir = "/models/a \"b\"\\c";
  TempDir dir;
  Settings read;
  auto status = read_settings_file(write_file(dir, settings_text(settings)), read);
  ASSERT_TRUE(status) << status.error().message;
  EXPECT_EQ(settings_text(read), settings_text(settings));
  EXPECT_EQ(read.port, 1234);
  EXPECT_EQ(read.allowed_hosts, settings.allowed_hosts);
}

TEST(Settings, KeysAndFlagsAreUnique) {
  std::set<std::string> keys, flags;
  for (const Setting& setting : setting_list()) {
    EXPECT_TRUE(keys.insert(setting.key).second) << setting.key;
    EXPECT_TRUE(flags.insert(setting.flag).second) << setting.flag;
  }
}

TEST(Settings, AnUnknownKeyNamesItsPlaceAndTheNearestOne) {
  TempDir dir;
  Settings settings;
  std::string file = write_file(dir, "[server]\nprot = 80\n");
  auto status = read_settings_file(file, settings);
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().message, file + ":2:8: server.prot: no such setting; the nearest is server.port");
}

TEST(Settings, ASyntaxErrorNamesLineAndColumn) {
  TempDir dir;
  Settings settings;
  auto status = read_settings_file(write_file(dir, "[server]\nport = \n"), settings);
  ASSERT_FALSE(status);
  EXPECT_NE(status.error().message.find("kvasir.toml:2:"), std::string::npos) << status.error().message;
}

TEST(Settings, ValuesOutsideTheirRangeAreRefused) {
  Settings settings;
  for (auto [key, value] : {std::pair{"server.port", "65536"},
                            {"server.port", "-1"},
                            {"server.port", "80x"},
                            {"limits.body_bytes", "1"},
                            {"limits.body_bytes", "2GB"},
                            {"limits.body_seconds", "nan"},
                            {"model.deterministic", "yes"},
                            {"model.numerics", "int4"}}) {
    EXPECT_FALSE(set_setting(settings, key, value)) << key << " = " << value;
  }
}

TEST(Settings, BytesTakePowersOf1024) {
  Settings settings;
  ASSERT_TRUE(set_setting(settings, "limits.body_bytes", "1.5GiB"));
  EXPECT_EQ(settings.max_body_bytes, int64_t{3} << 29);
}

TEST(Settings, SecretsAreNotPrinted) {
  Settings settings;
  settings.tls_key = "/etc/secret.pem";
  EXPECT_EQ(settings_text(settings).find("/etc/secret.pem"), std::string::npos);
}

TEST(Settings, ContradictionsAreNamed) {
  Settings settings;
  EXPECT_TRUE(check_settings(settings));
  settings.tls_key = "key.pem";
  EXPECT_FALSE(check_settings(settings));
  settings = {};
  settings.deterministic = true;
  settings.numerics = Numerics::kFast;
  EXPECT_FALSE(check_settings(settings));
}

}  // namespace
}  // namespace kvasir
