// Table: rows of text in aligned columns, for people. Machines get --json.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace kvasir {

enum class Align { kLeft, kRight };

class Table {
 public:
  // One per column. The last column, if left-aligned, is not padded, so no line ends in spaces.
  explicit Table(std::vector<Align> columns) : columns_(std::move(columns)) {}

  // At most one cell per column; missing ones are empty.
  void add_row(std::vector<std::string> cells);
  // A line of dashes under what was added before, as wide as the table.
  void add_rule() { rows_.emplace_back(); }

  // Every row with a line end; columns are two spaces apart. Width is counted in code points.
  std::string text() const;

 private:
  std::vector<Align> columns_;
  std::vector<std::vector<std::string>> rows_;  // an empty row is a rule
};

// 1234567 -> "1,234,567".
std::string with_commas(int64_t number);
// Decimal units with about three digits: 584 -> "584 B", 3688000000 -> "3.69 GB".
std::string human_bytes(double bytes);

}  // namespace kvasir
