// Alignment and number texts of tables, and the one-line rule of errors.
#include "cli/table.h"

#include <gtest/gtest.h>

#include "cli/error.h"

namespace kvasir {
namespace {

TEST(Table, AlignsColumnsAndLeavesNoTrailingSpaces) {
  Table table({Align::kLeft, Align::kRight, Align::kLeft});
  table.add_row({"what", "bytes", "why"});
  table.add_rule();
  table.add_row({"a", "1", "x"});
  table.add_row({"long one", "12345", ""});
  table.add_row({"only"});
  EXPECT_EQ(table.text(),
            "what      bytes  why\n"
            "--------------------\n"
            "a             1  x\n"
            "long one  12345\n"
            "only\n");
}

TEST(Table, CountsCharactersAndNotBytes) {
  Table table({Align::kLeft, Align::kLeft});
  table.add_row({"é｜", "x"});
  table.add_row({"abc", "y"});
  EXPECT_EQ(table.text(), "é｜   x\nabc  y\n");
}

TEST(Table, GroupsDigits) {
  EXPECT_EQ(with_commas(0), "0");
  EXPECT_EQ(with_commas(999), "999");
  EXPECT_EQ(with_commas(1000), "1,000");
  EXPECT_EQ(with_commas(1048576), "1,048,576");
  EXPECT_EQ(with_commas(-123), "-123");
  EXPECT_EQ(with_commas(-1234), "-1,234");
}

TEST(Table, BytesHaveThreeDigitsAndAUnit) {
  EXPECT_EQ(human_bytes(0), "0 B");
  EXPECT_EQ(human_bytes(584), "584 B");
  EXPECT_EQ(human_bytes(999), "999 B");
  EXPECT_EQ(human_bytes(1000), "1.00 kB");
  EXPECT_EQ(human_bytes(9996), "10.0 kB");
  EXPECT_EQ(human_bytes(3688172544), "3.69 GB");
  EXPECT_EQ(human_bytes(50402951168), "50.4 GB");
  EXPECT_EQ(human_bytes(999999999999), "1.00 TB");
}

TEST(ErrorLine, StaysOneLineWhateverAFileNameHolds) {
  EXPECT_EQ(error_line("a.safetensors: tensor 'x\n\x1b[2Jy\x7f' is\tshort"),
            "kvasir: a.safetensors: tensor 'x ?[2Jy?' is short");
}

TEST(ErrorLine, ExitCodesTellBadInputFromABadDayAndFromCtrlC) {
  EXPECT_EQ(exit_code(ErrorCode::kInvalid), 2);
  EXPECT_EQ(exit_code(ErrorCode::kNotFound), 2);
  EXPECT_EQ(exit_code(ErrorCode::kUnsupported), 2);
  EXPECT_EQ(exit_code(ErrorCode::kIo), 1);
  EXPECT_EQ(exit_code(ErrorCode::kBusy), 1);
  EXPECT_EQ(exit_code(ErrorCode::kCancelled), 130);
}

TEST(ErrorLine, IsPrintedOnStandardError) {
  testing::internal::CaptureStderr();
  EXPECT_EQ(report_error({ErrorCode::kUnsupported, "no"}), 2);
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "kvasir: no\n");
}

}  // namespace
}  // namespace kvasir
