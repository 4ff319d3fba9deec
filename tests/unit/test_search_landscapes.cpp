// The ranked search against landscapes whose best is known: how much it loses, how often two
// searches differ, how much of the space they compile.
#include <algorithm>
#include <cmath>
#include <vector>

#include "tests/support/landscape.h"
#include "tests/support/measured_landscape.h"
#include "tests/support/support.h"

using namespace quern;
using namespace quern::test;

namespace {

struct Score {
  int searches = 0, within_1 = 0, within_3 = 0;  // 1% and 3% of the best
  int alike = 0, flips = 0;  // pairs whose true times differ by under 2%; with different winners
  double mean_loss = 0, share_compiled = 0;
};

/// Two searches of each of many landscapes.
Score score(double correlation, double noise, SearchStrategy strategy) {
  constexpr unsigned kLandscapes = 40;
  Score out;
  for (unsigned seed = 0; seed < kLandscapes; ++seed) {
    CAPTURE(seed);
    const Landscape landscape = synthetic_landscape(seed, correlation);
    SearchOptions options;
    options.strategy = strategy;
    options.seed = seed;
    Outcome outcomes[2];
    for (unsigned again = 0; again < 2; ++again) {
      outcomes[again] = search_landscape(landscape, noise, 1000 + 2 * seed + again, options);
      const Outcome& o = outcomes[again];
      ++out.searches;
      out.within_1 += o.loss <= 0.01;
      out.within_3 += o.loss <= 0.03;
      out.mean_loss += o.loss / (2 * kLandscapes);
      out.share_compiled += o.share_compiled / (2 * kLandscapes);
      if (strategy == SearchStrategy::ranked) CHECK_LE(o.share_compiled, 0.2);
    }
    out.alike += std::fabs((1 + outcomes[0].loss) / (1 + outcomes[1].loss) - 1) < 0.02;
    out.flips += outcomes[0].winner != outcomes[1].winner;
  }
  MESSAGE("correlation ", correlation, ", noise ", noise, ", ", std::string(name(strategy)), ": ",
          out.within_1, " and ", out.within_3, " of ", out.searches,
          " within 1% and 3%, mean loss ", out.mean_loss, "; of ", kLandscapes, " pairs ",
          out.alike, " within 2%, ", out.flips, " flips; compiled ", out.share_compiled);
  return out;
}

}  // namespace

TEST_CASE("synthetic landscapes are like what they say") {
  for (const double correlation : {0.3, 0.6, 0.9})
    for (unsigned seed = 0; seed < 10; ++seed) {
      CAPTURE(seed);
      const Landscape landscape = synthetic_landscape(seed, correlation);
      CHECK_GE(landscape.size(), 100);
      CHECK_LE(landscape.size(), 1000);
      CHECK_EQ(landscape.rank_correlation(), doctest::Approx(correlation).epsilon(0.2));
      CHECK_FALSE(landscape.fails[0]);
    }
}

TEST_CASE("the ranked search ends within 3% of the best and compiles at most a fifth") {
  for (const double correlation : {0.3, 0.6, 0.9})
    for (const double noise : {0.01, 0.03}) {
      const Score ranked = score(correlation, noise, SearchStrategy::ranked);
      // Where the model knows little of the order, a fifth of the space is not always enough.
      CHECK_GE(ranked.within_3, (correlation < 0.5 ? 82 : 94) * ranked.searches / 100);
      CHECK_GE(ranked.alike, 92 * ranked.searches / 2 / 100);
    }
}

TEST_CASE("on measured landscapes the ranked search ends within 3% of the best") {
  // The truth is a table of quick timings, whose least is low by luck: a winner has to come within
  // 3% of that nevertheless, in every search, with at most 28 compiles and a fifth of the space.
  constexpr unsigned kPairs = 5;  // of searches of each landscape
  SearchOptions options;
  options.max_compiled = 28;
  int pairs = 0, alike = 0, flips = 0;
  for (const Landscape& landscape : measured_landscapes()) {
    CAPTURE(landscape.name);
    CHECK_GE(landscape.size(), 40);
    double worst = 0, mean = 0;
    int flips_here = 0;
    for (unsigned pair = 0; pair < kPairs; ++pair) {
      Outcome outcomes[2];
      for (unsigned again = 0; again < 2; ++again) {
        outcomes[again] = search_landscape(landscape, 0.01, 2 * pair + again, options);
        const Outcome& o = outcomes[again];
        const double compiled = o.share_compiled * static_cast<double>(landscape.size());
        CHECK_LE(o.share_compiled, 0.2);
        CHECK_LE(compiled, 28.5);
        worst = std::max(worst, o.loss);
        mean += o.loss / (2 * kPairs);
      }
      ++pairs;
      alike += std::fabs((1 + outcomes[0].loss) / (1 + outcomes[1].loss) - 1) < 0.02;
      flips_here += outcomes[0].winner != outcomes[1].winner;
    }
    flips += flips_here;
    MESSAGE(landscape.name, ": ", landscape.size(), " configs, rank correlation ",
            landscape.rank_correlation(), ", loss ", mean, ", at worst ", worst, "; ", flips_here,
            " of ", kPairs, " pairs flip");
    CHECK_LE(worst, 0.03);
  }
  MESSAGE("of ", pairs, " pairs ", alike, " within 2%, ", flips, " flips (",
          100.0 * flips / std::max(pairs, 1), "%)");
  CHECK_GT(pairs, 0);
  CHECK_GE(alike * 100, 95 * pairs);
}
