// Column widths and padding of tables; see table.h.
#include "cli/table.h"

#include <fmt/core.h>

#include <algorithm>

#include "base/check.h"

namespace kvasir {
namespace {

size_t width(const std::string& text) {
  return static_cast<size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

}  // namespace

void Table::add_row(std::vector<std::string> cells) {
  KVASIR_CHECK(!cells.empty() && cells.size() <= columns_.size(), "{} cells for {} columns", cells.size(),
               columns_.size());
  cells.resize(columns_.size());
  rows_.push_back(std::move(cells));
}

std::string Table::text() const {
  std::vector<size_t> widths(columns_.size(), 0);
  for (const auto& row : rows_) {
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], width(row[i]));
  }
  size_t total = 0;
  for (size_t w : widths) total += w + 2;
  std::string out;
  for (const auto& row : rows_) {
    std::string line;
    if (row.empty()) line.assign(total - 2, '-');
    for (size_t i = 0; i < row.size(); ++i) {
      size_t gap = widths[i] - width(row[i]);
      if (i > 0) line += "  ";
      if (columns_[i] == Align::kRight) line.append(gap, ' ');
      line += row[i];
      if (columns_[i] == Align::kLeft) line.append(gap, ' ');
    }
    line.erase(line.find_last_not_of(' ') + 1);
    out += line + "\n";
  }
  return out;
}

std::string with_commas(int64_t number) {
  std::string digits = std::to_string(number);
  size_t first = digits[0] == '-' ? 1 : 0;
  for (size_t i = digits.size(); i > first + 3; i -= 3) digits.insert(i - 3, 1, ',');
  return digits;
}

std::string human_bytes(double bytes) {
  static constexpr const char* kUnits[] = {"B", "kB", "MB", "GB", "TB", "PB"};
  size_t unit = 0;
  while (bytes >= 999.5 && unit + 1 < std::size(kUnits)) {
    bytes /= 1000;
    ++unit;
  }
  int decimals = unit == 0 || bytes >= 99.95 ? 0 : bytes >= 9.995 ? 1 : 2;
  return fmt::format("{:.{}f} {}", bytes, decimals, kUnits[unit]);
}

}  // namespace kvasir
