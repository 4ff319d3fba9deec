#pragma once
#include <cmath>
#include <map>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "autotune/search.h"
#include "tests/support/support.h"

namespace quern::test {

/// Candidates with known true times; every timing is off by a log-normal factor, and all of them by
/// a clock that settles during the first timings.
class SyntheticGpu : public TrialRunner {
 public:
  SyntheticGpu(std::vector<double> true_us, double noise, unsigned seed, double drift = 0)
      : true_us_(std::move(true_us)), noise_(noise), drift_(drift), random_(seed) {}

  std::map<std::size_t, Verdict> compile_faults, gate_faults, measure_faults;
  std::map<std::size_t, std::string> rejects;
  std::size_t num_timings = 0;
  std::set<std::size_t> compiled;
  std::vector<std::size_t> announced;
  int num_waves = 0;

  std::optional<std::string> reject_reason(std::size_t c) override {
    const auto found = rejects.find(c);
    if (found == rejects.end()) return std::nullopt;
    return found->second;
  }
  void announce(std::span<const std::size_t> candidates) override {
    announced.insert(announced.end(), candidates.begin(), candidates.end());
    ++num_waves;
  }
  Verdict compile(std::size_t c) override {
    compiled.insert(c);
    return fault(compile_faults, c);
  }
  Verdict gate(std::size_t c) override {
    Verdict verdict = fault(gate_faults, c);
    if (verdict.status == TrialStatus::ok) verdict.error = 0.25;
    return verdict;
  }
  Verdict measure(std::size_t c, int num_samples, std::vector<double>& samples) override {
    CHECK(compiled.contains(c));
    CHECK_FALSE(gate_faults.contains(c));
    for (int i = 0; i < num_samples; ++i) {
      const double warm = 1 + drift_ * std::exp(-static_cast<double>(num_timings++) / 30);
      samples.push_back(true_us_[c] * warm * std::exp(noise_ * normal_(random_)));
    }
    return fault(measure_faults, c);
  }

 private:
  static Verdict fault(const std::map<std::size_t, Verdict>& faults, std::size_t c) {
    const auto found = faults.find(c);
    return found == faults.end() ? Verdict{} : found->second;
  }

  std::vector<double> true_us_;
  double noise_, drift_;
  std::mt19937 random_;
  std::normal_distribution<double> normal_;
};

}  // namespace quern::test
