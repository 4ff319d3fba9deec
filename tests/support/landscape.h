#pragma once
#include <cstddef>
#include <string>
#include <vector>

#include "autotune/search.h"

namespace quern::test {

/// A space whose times are all known, in a search's order: the default, then by estimate.
struct Landscape {
  std::string name;
  std::vector<double> true_us;
  std::vector<bool> fails;  // does not compile
  SearchSpace space;

  std::size_t size() const { return true_us.size(); }
  /// Of those that do not fail.
  double best_us() const;
  /// Spearman's, of estimates and times, over those that do not fail.
  double rank_correlation() const;
};

/// A space like those of kernels: 4 to 7 tunables of 2 to 5 values, 100 to 1000 points. The
/// logarithm of time is a sum of effects with an optimum somewhere, of interactions of pairs, of a
/// cliff where two tunables are at an end, and of a little that is each point's own. One
/// combination of two values is pruned, and one does not compile. The estimate is wrong by another
/// function of the same kind, as much of it as brings the rank correlation to `correlation`. The
/// default is one of the better quarter by estimate. The same for the same seed.
Landscape synthetic_landscape(unsigned seed, double correlation);

/// What searches of a landscape came to.
struct Outcome {
  double loss = 0;  // true time of the winner / of the best - 1
  std::size_t winner = 0;
  double share_compiled = 0;
  int num_waves = 0;
};
/// One search with timings that are off by a log-normal factor of this deviation.
Outcome search_landscape(const Landscape& landscape, double noise, unsigned seed,
                         const SearchOptions& options = {});

}  // namespace quern::test
