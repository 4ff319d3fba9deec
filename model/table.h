#pragma once
#include <string>
#include <utility>
#include <vector>

namespace quern {

/// Text table for people: first column left-aligned, the others right-aligned. With `prose` the
/// last one is left-aligned too.
class Table {
 public:
  explicit Table(std::vector<std::string> header, bool prose = false)
      : rows_{std::move(header)}, prose_(prose) {}
  void add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }
  /// One line per row, columns two spaces apart, a rule under the header.
  std::string text() const;

 private:
  std::vector<std::vector<std::string>> rows_;
  bool prose_;
};

}  // namespace quern
