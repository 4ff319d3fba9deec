// Candidates that take their process down on a real GPU.
#include <map>

#include "autotune/device_worker.h"
#include "autotune/tuner.h"
#include "tests/support/gpu.h"
#include "tests/support/scale_family.h"

using namespace quern;
using namespace quern::test;

TEST_CASE("candidates that fault in every way are listed, and the right one wins") {
  QUERN_SKIP_IF(!gpu_available(), driver_problem());
  const GpuFixture gpu;
  const TemporaryFolder folder;
  std::vector<ScaleConfig> configs{{32, ScaleConfig::none}};
  for (const auto fault :
       {ScaleConfig::illegal, ScaleConfig::misaligned, ScaleConfig::trap, ScaleConfig::endless,
        ScaleConfig::too_much_smem, ScaleConfig::too_many_threads, ScaleConfig::wrong,
        ScaleConfig::out_of_bounds, ScaleConfig::race, ScaleConfig::tail,
        ScaleConfig::dirty_counters, ScaleConfig::no_compile})
    configs.push_back({256, fault});
  configs.push_back({256, ScaleConfig::none});
  const auto tune_once = [&] {
    FamilyRegistry families(ScaleFamily::templates());
    families.add(std::make_unique<ScaleFamily>(ScaleFamily::Oracle::host, configs));
    const KernelLibraryOptions options{folder.path(), {}, 0, {}};
    KernelCatalog catalog(gpu.context.device().arch(), gpu.context.device().fingerprint(),
                          std::move(families), options);
    RemoteBenchOptions remote = device_worker({QUERN_TUNER_PROCESS, "worker", "scale"}, 0, options,
                                              ScaleFamily::templates());
    remote.trial_deadline = std::chrono::seconds(3);
    RemoteBench bench(std::move(remote));
    TrialBench* const benches[] = {&bench};
    TuneOptions tuning;
    tuning.warm_up_seconds = 0.05;
    tuning.force = true;
    tuning.search.strategy = SearchStrategy::exhaustive;
    const std::vector<KernelRequest> requests{{"scale", {{"n", 1 << 22}, {"scale", 3}}}};
    return tune(catalog, benches, requests, tuning);
  };

  const TuneReport first = tune_once();
  REQUIRE_EQ(first.problems.size(), 1);
  const ProblemReport& problem = first.problems.front();
  CAPTURE(problem.reason);
  REQUIRE(problem.outcome == ProblemReport::Outcome::tuned);
  CHECK_EQ(problem.record.config.at("threads"), 256);
  CHECK_EQ(problem.record.config.at("fault"), ScaleConfig::none);
  std::map<int, TrialStatus> seen;
  for (const Trial& trial : problem.search.trials) {
    const int fault = problem.configs[trial.candidate].at("fault").get<int>();
    CAPTURE(fault);
    CAPTURE(trial.verdict.reason);
    seen[fault] = trial.verdict.status;
    if (fault != ScaleConfig::none) CHECK_FALSE(trial.verdict.reason.empty());
    MESSAGE(fault << " " << name(trial.verdict.status) << ": " << trial.verdict.reason);
  }
  CHECK(seen[ScaleConfig::illegal] == TrialStatus::faulted);
  CHECK(seen[ScaleConfig::misaligned] == TrialStatus::faulted);
  CHECK(seen[ScaleConfig::trap] == TrialStatus::faulted);
  CHECK(seen[ScaleConfig::endless] == TrialStatus::timed_out);
  CHECK(seen[ScaleConfig::too_much_smem] == TrialStatus::launch_failed);
  CHECK(seen[ScaleConfig::too_many_threads] == TrialStatus::launch_failed);
  CHECK(seen[ScaleConfig::wrong] == TrialStatus::wrong_result);
  CHECK(seen[ScaleConfig::out_of_bounds] == TrialStatus::wrong_result);
  CHECK(seen[ScaleConfig::race] == TrialStatus::unstable_result);
  CHECK(seen[ScaleConfig::tail] == TrialStatus::wrong_result);
  CHECK(seen[ScaleConfig::dirty_counters] == TrialStatus::wrong_result);
  CHECK(seen[ScaleConfig::no_compile] == TrialStatus::compile_failed);

  const TuneReport again = tune_once();
  CHECK(again.problems.front().outcome == ProblemReport::Outcome::tuned);
  CHECK_EQ(again.problems.front().record.config.at("threads"), 256);
  CHECK_EQ(again.blocked, 6);
}
