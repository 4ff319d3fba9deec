#pragma once
#include <cstddef>
#include <span>
#include <vector>

#include "templates/params.h"

namespace quern {

/// What a search may know of its candidates before it times any. Empty: nothing but their order.
struct SearchSpace {
  std::vector<double> estimates_us;      // of each candidate, by the analytic model
  std::vector<std::vector<int>> levels;  // of each: which of its values each tunable has
  std::size_t num_first = 1;             // so many from the first on are tried whatever is expected
  bool tells_nothing() const { return estimates_us.empty() && levels.empty(); }
};

/// The structure of these configs: a tunable's values in ascending order are its levels 0, 1, ...;
/// strings and booleans lie further apart than numbers. Tunables that all have in common are left
/// out.
SearchSpace search_space(std::span<const Params> configs, std::vector<double> estimates_us);

/// The analytic model, corrected by measurements: a Gaussian process over the logarithm of time
/// whose prior mean is the model's estimate, and whose errors are alike for configs that have
/// tunables in common (Rasmussen and Williams, "Gaussian Processes for Machine Learning", 2006,
/// chapter 2; kernels that add over dimensions: Duvenaud et al., 2011). The covariance of two
/// configs is the sum of
///
///   an error that all share, so that only ratios of estimates count;
///   the model's exaggeration, proportional to both configs' log estimates;
///   effects of single tunables, alike for values near each other;
///   and interactions, which fade with the distance over all tunables.
///
/// Deterministic. O(candidates * observations) for each observation.
class Surrogate {
 public:
  /// `num_candidates` of them; those of `space` that are empty say nothing.
  Surrogate(std::size_t num_candidates, const SearchSpace& space);

  /// A time that was measured, with the standard deviation of its logarithm.
  void observe(std::size_t candidate, double us, double deviation);
  /// Takes the expected time of a candidate for granted until it is measured: what is chosen next
  /// then lies elsewhere.
  void believe(std::size_t candidate);
  /// Forgets all observations.
  void reset();

  /// Of those that are `open`, the one with the least optimistic time: expected logarithm less
  /// `optimism` standard deviations. `open` is not empty; ties go to the earlier.
  std::size_t most_promising(std::span<const std::size_t> open, double optimism) const;

  /// Expected logarithm of a candidate's time, and its variance.
  double mean(std::size_t candidate) const { return mean_[candidate]; }
  double variance(std::size_t candidate) const { return variance_[candidate]; }

 private:
  double covariance(std::size_t a, std::size_t b) const;
  void update(std::size_t candidate, double log_us, double noise_variance);

  std::vector<double> prior_;  // log of the estimates, centred
  const std::vector<std::vector<int>>& levels_;
  std::vector<double> mean_, variance_;
  std::vector<std::vector<float>> explained_;  // of each observation, what it took from the others
};

}  // namespace quern
