#include "model/log_axis.h"

#include <algorithm>
#include <cmath>

namespace quern {
namespace {

constexpr double kLeastRatio = 1.12;  // of the ends: times that hardly differ are drawn as such
constexpr double kAir = 0.06;         // of the axis, beyond the values at both ends
constexpr std::size_t kFewTicks = 3, kManyTicks = 8;

/// Multiples of `step` between the ends.
std::vector<double> multiples(double step, double low, double high) {
  std::vector<double> out;
  for (double i = std::ceil(low / step); i * step <= high; ++i) out.push_back(i * step);
  return out;
}

/// The given digits times every power of ten, between the ends.
std::vector<double> decades(const std::vector<double>& digits, double low, double high) {
  std::vector<double> out;
  for (double power = std::pow(10, std::floor(std::log10(low))); power <= high; power *= 10)
    for (const double digit : digits)
      if (digit * power >= low && digit * power <= high) out.push_back(digit * power);
  return out;
}

std::vector<double> round_ticks(double low, double high) {
  if (high / low > 4)
    for (const std::vector<double>& digits :
         {std::vector<double>{1, 2, 3, 5, 7}, {1, 2, 5}, {1, 3}, {1}}) {
      auto ticks = decades(digits, low, high);
      if (ticks.size() >= kFewTicks && ticks.size() <= kManyTicks) return ticks;
    }
  // Within less than a decade a logarithmic axis is nearly even: even steps read best.
  for (double power = std::pow(10, std::floor(std::log10(high))); power > 0; power /= 10)
    for (const double digit : {5.0, 2.0, 1.0}) {
      auto ticks = multiples(digit * power, low, high);
      if (ticks.size() >= kFewTicks) return ticks;
    }
  return {low, high};
}

}  // namespace

LogAxis::LogAxis(double low, double high, double at_low, double at_high)
    : low_(std::log(low)), high_(std::log(high)), at_low_(at_low), at_high_(at_high) {
  const double missing = std::max(0.0, std::log(kLeastRatio) - (high_ - low_)) / 2;
  const double air = kAir * (high_ - low_ + 2 * missing);
  low_ -= missing + air;
  high_ += missing + air;
  ticks_ = round_ticks(std::exp(low_), std::exp(high_));
}

double LogAxis::at(double value) const {
  const double share = (std::log(std::max(value, 1e-300)) - low_) / (high_ - low_);
  return at_low_ + std::clamp(share, 0.0, 1.0) * (at_high_ - at_low_);
}

}  // namespace quern
