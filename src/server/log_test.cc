// Log lines: nothing that a client sends can break out of its field.
#include "server/log.h"

#include <gtest/gtest.h>

#include "text/json_value.h"

namespace kvasir {
namespace {

TEST(Log, TextQuotesWhatIsNotAPlainWord) {
  EXPECT_EQ(log_line(LogFormat::kText, "request",
                     {{"id", "r1"}, {"path", "/v1/x y\nlevel=fake"}, {"status", 200}, {"ms", 1.5}}),
            "request id=r1 path=\"/v1/x y\\nlevel=fake\" status=200 ms=1.5");
}

TEST(Log, JsonMembersParse) {
  std::string line = "{";
  line += log_line(LogFormat::kJson, "request", {{"path", "\"}\x1b[31m\n"}, {"n", 3}});
  line += "}";
  auto value = JsonValue::parse(line);
  ASSERT_TRUE(value) << line;
  EXPECT_EQ(value->find("path")->as_string(), "\"}\x1b[31m\n");
}

}  // namespace
}  // namespace kvasir
