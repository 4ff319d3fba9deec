#include <algorithm>
#include <string>
#include <vector>

#include "autotune/tuner.h"
#include "tests/support/nvrtc.h"
#include "tests/support/simulated_bench.h"
#include "tests/support/support.h"

using namespace quern;
using namespace quern::test;

namespace {

struct Tuned {
  TuneReport report;
  std::vector<std::string> order;  // families of the problems, as they were finished
};

/// Tunes problems of "follower", which are like those of "leader".
Tuned run(const std::filesystem::path& cache, const std::vector<KernelRequest>& requests,
          SearchStrategy strategy) {
  FamilyRegistry families{HeaderMap{}};
  families.add(make_simulated_family("leader"));
  families.add(make_simulated_family("follower", "leader"));
  KernelLibraryOptions library;
  library.cache_root = cache;
  KernelCatalog catalog(parse_arch("sm_90a"), ordered_json{{"name", "simulated GPU"}},
                        std::move(families), library);
  SimulatedBench bench({.noise = 0.005, .seed = 1, .trial_ms = 0, .journal = {},
                        .with_faults = false});
  TrialBench* const benches[] = {&bench};
  Tuned out;
  TuneOptions options;
  options.warm_up_seconds = 0;
  options.search.strategy = strategy;
  options.progress = [&](const TuneProgress& progress) {
    if (progress.finished) out.order.push_back(progress.finished->family);
  };
  out.report = tune(catalog, benches, requests, options);
  return out;
}

std::size_t num_tried(const ProblemReport& problem) {
  return static_cast<std::size_t>(std::ranges::count_if(
      problem.search.trials, [](const Trial& t) { return t.timing.num_samples > 0; }));
}

}  // namespace

TEST_CASE("a problem like another comes after it and tries what was fastest there") {
  QUERN_SKIP_IF(!nvrtc(), kNoNvrtc);
  const TemporaryFolder folder;
  const auto [report, order] =
      run(folder.path(),
          {{"follower", {{"n", 4096}}, 8}, {"leader", {{"n", 4096}}}, {"leader", {{"n", 64}}}},
          SearchStrategy::ranked);
  CHECK_EQ(order, std::vector<std::string>{"leader", "leader", "follower"});
  const ProblemReport &follower = report.problems[0], &leader = report.problems[1];
  REQUIRE(follower.outcome == ProblemReport::Outcome::tuned);
  CHECK_GT(num_tried(leader), 8);
  CHECK_LE(num_tried(follower), 13);
  CHECK_GT(num_tried(follower), 10);
  CHECK_EQ(follower.num_points, 0);  // its space was not looked at
  // The default, then the leader's best first.
  std::vector<double> times;
  for (const Params& config : follower.configs) times.push_back(true_time_us(leader.problem, config));
  CHECK_LT(*std::min_element(times.begin(), times.end()), 1.02 * leader.record.median_us);
  CHECK_LT(follower.record.median_us, 1.02 * leader.record.median_us);
}

TEST_CASE("a problem whose like is not tuned in the same run has its family's whole space") {
  QUERN_SKIP_IF(!nvrtc(), kNoNvrtc);
  const TemporaryFolder folder;
  const Tuned alone = run(folder.path(), {{"follower", {{"n", 4096}}}}, SearchStrategy::ranked);
  CHECK_GT(alone.report.problems[0].configs.size(), 20);
  CHECK_GT(alone.report.problems[0].num_points, 20);
  const TemporaryFolder other;
  const Tuned all = run(other.path(), {{"follower", {{"n", 64}}}, {"leader", {{"n", 64}}}},
                        SearchStrategy::exhaustive);
  CHECK_EQ(num_tried(all.report.problems[0]), num_tried(all.report.problems[1]));
}
