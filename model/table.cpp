#include "model/table.h"

#include <fmt/format.h>

#include <algorithm>

namespace quern {

std::string Table::text() const {
  std::vector<std::size_t> widths;
  for (const auto& row : rows_) {
    widths.resize(std::max(widths.size(), row.size()));
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string out;
  for (std::size_t r = 0; r < rows_.size(); ++r) {
    std::string line;
    for (std::size_t i = 0; i < rows_[r].size(); ++i)
      if (i == 0)
        line += fmt::format("{:<{}}", rows_[r][i], widths[i]);
      else if (prose_ && i + 1 == widths.size())
        line += "  " + rows_[r][i];
      else
        line += fmt::format("  {:>{}}", rows_[r][i], widths[i]);
    line.erase(line.find_last_not_of(' ') + 1);
    out += line + '\n';
    if (r == 0) {
      std::size_t total = 0;
      for (std::size_t i = 0; i < widths.size(); ++i) total += widths[i] + (i == 0 ? 0 : 2);
      out += std::string(total, '-') + '\n';
    }
  }
  return out;
}

}  // namespace quern
