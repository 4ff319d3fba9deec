#include "tests/support/tune_samples.h"

#include <cmath>

namespace quern::test {

ProblemReport tuned_product(int m, int n, std::size_t num_candidates) {
  ProblemReport problem;
  problem.family = "gemm";
  problem.problem = {{"m", m}, {"n", n}, {"k", 4096}, {"dtype", "bf16"}};
  problem.seconds = 1.5;
  std::size_t best = 0;
  double best_us = 0;
  for (std::size_t i = 0; i < num_candidates; ++i) {
    problem.configs.push_back({{"kernel", i % 3 == 2 ? "gemv" : "mma"},
                               {"tile_m", 16 << (i % 3)},
                               {"tile_n", 32 << (i % 4)},
                               {"stages", 2 + i % 5},
                               {"split_k", 1 + i / 60}});
    Trial trial;
    trial.candidate = i;
    if (i % 7 == 6) {
      trial.verdict = {i % 2 == 0 ? TrialStatus::wrong_result : TrialStatus::launch_failed,
                       "output y is 3.1 times off the tolerance", 3.1};
      ++problem.search.num_failed;
    } else {
      const double us = 20 + 15 * std::sin(static_cast<double>(i * i + 1));
      trial.timing = {us, 0.05, 3};
      ++problem.search.num_measured;
      if (best_us == 0 || us < best_us) {
        best_us = us;
        best = i;
      }
    }
    problem.search.trials.push_back(std::move(trial));
  }
  problem.outcome = ProblemReport::Outcome::tuned;
  problem.search.winner = best;
  problem.record.config = problem.configs[best];
  problem.record.median_us = best_us;
  problem.record.spread_us = 0.05;
  problem.record.default_us = problem.search.trials.front().timing.median_us;
  return problem;
}

void add(TuneSample& sample, ProblemReport problem, double roof_us) {
  sample.report.measured += problem.search.num_measured;
  sample.report.failed += problem.search.num_failed;
  sample.report.rejected += problem.search.num_rejected;
  sample.report.seconds += problem.seconds;
  const Params first = problem.configs.empty() ? Params() : problem.configs.front();
  sample.facts.push_back({roof_us, first});
  sample.report.problems.push_back(std::move(problem));
}

TuneSample tune_sample(std::size_t num_problems, std::size_t num_candidates) {
  TuneSample sample;
  for (std::size_t i = 0; i < num_problems; ++i)
    add(sample, tuned_product(1 << (i % 12), 4096 + static_cast<int>(i), num_candidates), 4);
  sample.report.compiled = num_problems * num_candidates;
  return sample;
}

}  // namespace quern::test
