#pragma once
#include <vector>

namespace quern {

/// A logarithmic axis: from positive values to a coordinate, with round ticks.
class LogAxis {
 public:
  /// Shows at least the values from `low` to `high` (0 < low <= high) between the coordinates
  /// `at_low` and `at_high`, with a little air at both ends.
  LogAxis(double low, double high, double at_low, double at_high);
  /// Values outside the range are drawn at its ends.
  double at(double value) const;
  /// Round values inside the range, ascending; at least two.
  const std::vector<double>& ticks() const { return ticks_; }

 private:
  double low_, high_;  // logarithms
  double at_low_, at_high_;
  std::vector<double> ticks_;
};

}  // namespace quern
