#include <algorithm>
#include <cmath>
#include <map>
#include <random>
#include <set>

#include "autotune/search.h"
#include "tests/support/support.h"
#include "tests/support/synthetic_gpu.h"

using namespace quern;
using test::SyntheticGpu;

namespace {

/// All candidates are compiled: for what comes after.
SearchOptions everything() {
  SearchOptions options;
  options.strategy = SearchStrategy::exhaustive;
  return options;
}

std::vector<double> landscape(std::size_t n, unsigned seed) {
  std::mt19937 random(seed);
  std::uniform_real_distribution<double> uniform(20, 60);
  std::vector<double> times;
  for (std::size_t i = 0; i < n; ++i) times.push_back(uniform(random));
  return times;
}

double best_of(const std::vector<double>& times) {
  return *std::min_element(times.begin(), times.end());
}

/// 144 tilings. The true time is a smooth bowl in the logarithms of four parameters, times a factor
/// of each candidate's own that no model foresees. The order of preference knows the bowl alone,
/// and that with an error; the default is its first.
struct TileSpace {
  static constexpr double kOwnFactor = 0.06;  // standard deviation of its logarithm
  std::vector<double> true_us;                // in order of preference
  double rank_correlation = 0;                // of preference and true time

  TileSpace(unsigned seed, double prior_error) {
    std::mt19937 random(seed);
    std::normal_distribution<double> normal;
    const double best_m = 1 + 2 * uniform(random), best_n = 1 + 2 * uniform(random),
                 best_stages = 0.5 + uniform(random), best_split = 2 * uniform(random);
    std::vector<std::pair<double, double>> preferred;  // log of the prior's time, log of the true
    for (int m = 0; m < 4; ++m)
      for (int n = 0; n < 4; ++n)
        for (int stages = 0; stages < 3; ++stages)
          for (int split = 0; split < 3; ++split) {
            const double bowl = 0.10 * square(m - best_m) + 0.08 * square(n - best_n) +
                                0.04 * (m - best_m) * (n - best_n) +
                                0.06 * square(stages - best_stages) +
                                0.12 * square(split - best_split);
            const double truth = bowl + kOwnFactor * normal(random);
            preferred.emplace_back(bowl + prior_error * normal(random), truth);
          }
    std::sort(preferred.begin(), preferred.end());
    for (const auto& [prior, truth] : preferred) true_us.push_back(20 * std::exp(truth));
    rank_correlation = spearman();
  }

 private:
  static double square(double x) { return x * x; }
  static double uniform(std::mt19937& random) {
    return std::uniform_real_distribution<double>(0, 1)(random);
  }
  double spearman() const {
    const auto n = static_cast<double>(true_us.size());
    double sum = 0;
    for (std::size_t i = 0; i < true_us.size(); ++i) {
      const auto rank =
          std::count_if(true_us.begin(), true_us.end(), [&](double us) { return us < true_us[i]; });
      sum += square(static_cast<double>(i) - static_cast<double>(rank));
    }
    return 1 - 6 * sum / (n * (n * n - 1));
  }
};

/// What a hundred searches of as many spaces lost against the best there is.
struct Losses {
  double mean = 0;
  std::vector<double> sorted;  // true time of the winner / of the best - 1
  int within(double loss) const {
    return static_cast<int>(std::upper_bound(sorted.begin(), sorted.end(), loss) - sorted.begin());
  }
};

Losses losses(SearchStrategy strategy, double noise, double prior_error) {
  Losses all;
  for (unsigned seed = 0; seed < 100; ++seed) {
    CAPTURE(seed);
    const TileSpace space(seed, prior_error);
    SyntheticGpu gpu(space.true_us, noise, seed + 1000);
    SearchOptions options;
    options.strategy = strategy;
    options.seed = seed;
    options.max_compiled = space.true_us.size() / 5;
    const SearchResult result = search(space.true_us.size(), gpu, options);
    CHECK_EQ(result.num_compiled,
             strategy == SearchStrategy::exhaustive ? space.true_us.size() : options.max_compiled);
    CHECK_GT(result.default_us, 0);  // it was in the final
    REQUIRE(result.winner.has_value());
    all.sorted.push_back(space.true_us[*result.winner] / best_of(space.true_us) - 1);
    all.mean += all.sorted.back() / 100;
  }
  std::sort(all.sorted.begin(), all.sorted.end());
  return all;
}

}  // namespace

TEST_CASE("a summary is the median and half of the interquartile range") {
  CHECK_EQ(summarize({}).num_samples, 0);
  CHECK_EQ(summarize({3}).median_us, 3);
  CHECK_EQ(summarize({3}).spread_us, 0);
  CHECK_EQ(summarize({4, 1, 3, 2}).median_us, 2.5);
  CHECK_EQ(summarize({4, 1, 3, 2, 5}).spread_us, 1);
}

TEST_CASE("the winner is close to the best, whatever the noise") {
  struct Case {
    double noise, allowed;
  };
  for (const Case c : {Case{0, 1.006}, Case{0.01, 1.02}, Case{0.03, 1.03}, Case{0.1, 1.15}}) {
    CAPTURE(c.noise);
    for (unsigned seed = 0; seed < 40; ++seed) {
      CAPTURE(seed);
      const auto times = landscape(24, seed);
      SyntheticGpu gpu(times, c.noise, seed + 1000);
      const SearchResult result = search(times.size(), gpu, everything());
      REQUIRE(result.winner.has_value());
      CHECK_LE(times[*result.winner], c.allowed * best_of(times));
      CHECK_EQ(result.num_compiled, 24);
      CHECK_EQ(result.num_measured, 24);
      CHECK_GT(result.default_us, 0);
      CHECK_EQ(result.error, 0.25);
      CHECK_GE(result.timing.num_samples, 15);
    }
  }
}

TEST_CASE("a settling clock does not choose the winner") {
  for (unsigned seed = 0; seed < 20; ++seed) {
    const auto times = landscape(16, seed);
    SyntheticGpu gpu(times, 0.01, seed, /*drift=*/0.5);
    const SearchResult result = search(times.size(), gpu, everything());
    REQUIRE(result.winner.has_value());
    CHECK_LE(times[*result.winner], 1.1 * best_of(times));
  }
}

TEST_CASE("where clocks fall, who was timed first has no advantage") {
  struct Falling : SyntheticGpu {
    using SyntheticGpu::SyntheticGpu;
    int settled = 0;
    bool settle() override {
      ++settled;
      return true;
    }
    Verdict measure(std::size_t c, int n, std::vector<double>& samples) override {
      const std::size_t before = samples.size();
      const Verdict verdict = SyntheticGpu::measure(c, n, samples);
      const double longer = 1.25 - 0.25 * std::exp(-static_cast<double>(num_timings) / 100);
      for (std::size_t i = before; i < samples.size(); ++i) samples[i] *= longer;
      return verdict;
    }
  };
  for (unsigned seed = 0; seed < 20; ++seed) {
    CAPTURE(seed);
    std::vector<double> times;
    for (unsigned i = 0; i < 30; ++i) times.push_back(110 - 0.4 * i);
    Falling gpu(times, 0.01, seed);
    const SearchResult result = search(times.size(), gpu, everything());
    REQUIRE(result.winner.has_value());
    CHECK_LE(times[*result.winner], 1.01 * best_of(times));
    CHECK_EQ(gpu.settled, 2);
  }
}

TEST_CASE("two tunes of the same GPU agree where candidates tie") {
  for (const double noise : {0.01, 0.03, 0.1}) {
    int left_default = 0;
    for (unsigned seed = 0; seed < 50; ++seed) {
      // All within 0.2%: nothing to gain.
      std::vector<double> times;
      for (int i = 0; i < 12; ++i) times.push_back(40 - 0.005 * i);
      SyntheticGpu gpu(times, noise, seed);
      left_default += search(times.size(), gpu, everything()).winner != 0u;
    }
    CAPTURE(noise);
    CHECK_LE(left_default, 10);
  }
}

TEST_CASE("ties that beat the default go to the earlier candidate") {
  int first = 0;
  for (unsigned seed = 0; seed < 20; ++seed) {
    SyntheticGpu gpu({50, 40, 40, 40}, 0.01, seed);
    const SearchResult result = search(4, gpu, everything());
    REQUIRE(result.winner.has_value());
    CHECK_NE(*result.winner, 0);
    first += *result.winner == 1;
  }
  CHECK_GE(first, 15);
}

TEST_CASE("the default is raced to the end and left only for a real gain") {
  for (unsigned seed = 0; seed < 10; ++seed) {
    SyntheticGpu slow_default({100, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29}, 0.03, seed);
    const SearchResult result = search(11, slow_default, everything());
    CHECK_NE(result.winner, 0u);
    CHECK_EQ(result.default_us, doctest::Approx(100).epsilon(0.1));
    SyntheticGpu best_default({20, 30, 40, 50, 60, 70, 80, 90}, 0.1, seed);
    CHECK_EQ(search(8, best_default, everything()).winner, 0u);
  }
}

TEST_CASE("faults are counted with their reasons and never win") {
  SyntheticGpu gpu({50, 1, 2, 3, 4, 30, 5}, 0.01, 1);
  gpu.rejects[1] = "tile_m is too large";
  gpu.compile_faults[2] = {TrialStatus::compile_failed, "line 3: no", 0};
  gpu.gate_faults[3] = {TrialStatus::wrong_result, "y[0] is NaN", 7};
  gpu.gate_faults[4] = {TrialStatus::unstable_result, "two runs differ", 0};
  gpu.measure_faults[6] = {TrialStatus::launch_failed, "out of resources", 0};
  const SearchResult result = search(7, gpu, everything());
  CHECK_EQ(result.winner, 5u);
  CHECK_EQ(result.num_rejected, 1);
  CHECK_EQ(result.num_failed, 4);
  CHECK_EQ(result.num_compiled, 5);
  CHECK_EQ(result.num_measured, 2);
  CHECK_EQ(result.trials[1].verdict.reason, "tile_m is too large");
  CHECK_EQ(name(result.trials[3].verdict.status), "wrong_result");
  CHECK_EQ(result.trials[6].timing.num_samples, 0);
  CHECK_FALSE(gpu.compiled.contains(1));
}

TEST_CASE("the default alone, all but the default failing, and nothing left") {
  SyntheticGpu alone({5}, 0.01, 1);
  CHECK_EQ(search(1, alone, everything()).winner, 0u);

  SyntheticGpu only_default(landscape(20, 1), 0.01, 1);
  for (std::size_t c = 1; c < 20; ++c)
    only_default.gate_faults[c] = {TrialStatus::wrong_result, "off", 2};
  const SearchResult kept = search(20, only_default, everything());
  CHECK_EQ(kept.winner, 0u);
  CHECK_EQ(kept.timing.median_us, kept.default_us);

  SyntheticGpu no_default({10, 20}, 0.01, 1);
  no_default.gate_faults[0] = {TrialStatus::wrong_result, "off", 2};
  const SearchResult other = search(2, no_default, everything());
  CHECK_EQ(other.winner, 1u);
  CHECK_EQ(other.default_us, 0);

  SyntheticGpu none({10, 20}, 0.01, 1);
  for (std::size_t c = 0; c < 2; ++c)
    none.compile_faults[c] = {TrialStatus::compile_failed, "no", 0};
  CHECK_FALSE(search(2, none, everything()).winner.has_value());
  CHECK_FALSE(search(0, none, everything()).winner.has_value());
}

TEST_CASE("a candidate that fails in the middle of the race is out") {
  struct Flaky : SyntheticGpu {
    using SyntheticGpu::SyntheticGpu;
    int calls = 0;
    Verdict measure(std::size_t c, int n, std::vector<double>& samples) override {
      if (c == 1 && ++calls > 5) return {TrialStatus::launch_failed, "fell over", 0};
      return SyntheticGpu::measure(c, n, samples);
    }
  };
  Flaky gpu({50, 10, 15}, 0.01, 1);
  const SearchResult result = search(3, gpu, everything());
  CHECK_EQ(result.winner, 2u);
  CHECK_EQ(result.num_failed, 1);
}

TEST_CASE("a candidate without a sensible time is a failure, not a winner") {
  SyntheticGpu gpu({50, 0}, 0, 1);
  CHECK_EQ(search(2, gpu, everything()).winner, 0u);
}

TEST_CASE("the limits on compiles and on time hold") {
  const auto times = landscape(100, 3);
  SyntheticGpu few(times, 0.01, 1);
  SearchOptions options;
  options.max_compiled = 8;
  const SearchResult limited = search(100, few, options);
  CHECK_EQ(few.compiled.size(), 8);
  CHECK_EQ(few.announced.size(), 8);
  CHECK_EQ(limited.num_compiled, 8);
  CHECK_EQ(limited.trials[50].verdict.status, TrialStatus::skipped);

  SyntheticGpu late(times, 0.01, 1);
  options.deadline = std::chrono::steady_clock::now();
  const SearchResult hurried = search(100, late, options);
  CHECK_EQ(hurried.winner, 0u);  // in any case
  CHECK_EQ(late.compiled.size(), 1);
}

TEST_CASE("bad candidates cost few timings") {
  std::vector<double> times(24, 100.0);
  times[7] = 10;
  SyntheticGpu gpu(times, 0.01, 1);
  CHECK_EQ(search(24, gpu, everything()).winner, 7u);
  CHECK_LT(gpu.num_timings, 23 + 8 * 3 + 6 * 20);  // one timing each of the hopeless
}

TEST_CASE("a strategy's name is its spelling") {
  for (const auto strategy :
       {SearchStrategy::ranked, SearchStrategy::exhaustive, SearchStrategy::random})
    CHECK(parse_search_strategy(name(strategy)) == strategy);
  for (const char* text : {"", "Ranked", "best", "rando"})
    CHECK_FALSE(parse_search_strategy(text).has_value());
}

TEST_CASE("each strategy compiles the candidates that it says") {
  const std::vector<std::size_t> eligible{0, 2, 3, 5, 7, 8, 11, 12};
  SearchOptions options;
  options.max_compiled = 3;
  CHECK_EQ(choose_candidates(eligible, options), std::vector<std::size_t>{0, 2, 3});

  options.strategy = SearchStrategy::exhaustive;
  CHECK_EQ(choose_candidates(eligible, options), eligible);

  options.strategy = SearchStrategy::random;
  std::map<std::size_t, int> drawn;
  for (options.seed = 0; options.seed < 700; ++options.seed) {
    const auto chosen = choose_candidates(eligible, options);
    CHECK_EQ(chosen, choose_candidates(eligible, options));
    REQUIRE_EQ(chosen.size(), 3);
    CHECK_EQ(chosen.front(), 0);
    CHECK_EQ(std::set<std::size_t>(chosen.begin(), chosen.end()).size(), 3);
    for (const std::size_t c : chosen) ++drawn[c];
  }
  CHECK_EQ(drawn.size(), eligible.size());
  for (const auto& [c, count] : drawn) {  // 2 of 7 places: 200, give or take 12
    CAPTURE(c);
    if (c == 0) continue;
    CHECK_GT(count, 150);
    CHECK_LT(count, 250);
  }
  // Without a default nothing has a fixed place.
  CHECK_EQ(choose_candidates({4, 6, 9, 10}, options).size(), 3);
  for (const std::size_t limit : {0u, 1u}) {
    options.max_compiled = limit;
    CHECK_EQ(choose_candidates(eligible, options).size(), limit);
    CHECK(choose_candidates({}, options).empty());
  }
  options.max_compiled = 8;
  CHECK_EQ(choose_candidates(eligible, options), eligible);
}

TEST_CASE("a random search asks for what it announced and says why the rest was left") {
  SyntheticGpu gpu(landscape(100, 3), 0.01, 1);
  gpu.rejects[4] = "too large";
  SearchOptions options;
  options.strategy = SearchStrategy::random;
  options.max_compiled = 10;
  const SearchResult result = search(100, gpu, options);
  std::vector<std::size_t> eligible;
  for (std::size_t c = 0; c < 100; ++c)
    if (c != 4) eligible.push_back(c);
  CHECK_EQ(gpu.announced, choose_candidates(eligible, options));
  CHECK_EQ(gpu.compiled, std::set<std::size_t>(gpu.announced.begin(), gpu.announced.end()));
  CHECK_FALSE(std::is_sorted(gpu.announced.begin(), gpu.announced.end()));
  CHECK_EQ(result.num_measured, 10);
  CHECK_EQ(result.num_rejected, 1);
  for (const Trial& trial : result.trials)
    if (trial.candidate != 4)
      CHECK_EQ(trial.verdict.status == TrialStatus::ok, gpu.compiled.contains(trial.candidate));
  // The same seed, the same search.
  SyntheticGpu again(landscape(100, 3), 0.01, 1);
  again.rejects = gpu.rejects;
  const SearchResult second = search(100, again, options);
  CHECK_EQ(second.winner, result.winner);
  CHECK_EQ(second.timing.median_us, result.timing.median_us);
  CHECK_EQ(again.num_timings, gpu.num_timings);
}

TEST_CASE("a fifth of the space is enough where the order of preference is good") {
  // What a ranked search can lose is the order's doing: at 1% and 3% of noise it loses about what
  // it would with none. Hence a good order, and a poor one for what then remains.
  struct Case {
    double prior_error, min_correlation, max_correlation;
    int within_3, within_10;  // of 100, at 1% and 3% of noise
  };
  for (const Case c : {Case{0.08, 0.90, 0.95, 95, 100}, Case{0.2, 0.75, 0.80, 70, 95}}) {
    CAPTURE(c.prior_error);
    double correlation = 0;
    for (unsigned seed = 0; seed < 100; ++seed)
      correlation += TileSpace(seed, c.prior_error).rank_correlation / 100;
    CHECK_GT(correlation, c.min_correlation);
    CHECK_LT(correlation, c.max_correlation);
    for (const double noise : {0.01, 0.03}) {
      CAPTURE(noise);
      const Losses ranked = losses(SearchStrategy::ranked, noise, c.prior_error);
      CHECK_GE(ranked.within(0.03), c.within_3);
      CHECK_GE(ranked.within(0.10), c.within_10);
      const Losses random = losses(SearchStrategy::random, noise, c.prior_error);
      CHECK_GT(random.mean, 2 * ranked.mean);
      const Losses exhaustive = losses(SearchStrategy::exhaustive, noise, c.prior_error);
      CHECK_GE(exhaustive.within(0.015), noise < 0.02 ? 100 : 95);
      CHECK_LT(exhaustive.mean, ranked.mean);
    }
  }
}

TEST_CASE("at 10% of noise the final's own resolution is the limit, not the order") {
  // 61 rounds tell two candidates apart by 1.96 * 1.2533 * sqrt(2 / 61) * 10% = 4.4%, and what they
  // cannot tell apart goes to the earlier. Even the exhaustive search is off by that and the luck
  // of the early, short timings then; 3% in 95 of 100 is out of reach.
  const Losses ranked = losses(SearchStrategy::ranked, 0.1, 0.08);
  CHECK_GE(ranked.within(0.03), 75);
  CHECK_GE(ranked.within(0.10), 95);
  const Losses exhaustive = losses(SearchStrategy::exhaustive, 0.1, 0.08);
  CHECK_GE(exhaustive.within(0.03), 75);
  CHECK_GE(exhaustive.within(0.10), 95);
  CHECK_GT(losses(SearchStrategy::random, 0.1, 0.08).mean, 2 * ranked.mean);
}
