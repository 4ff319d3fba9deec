#include "autotune/background_tuner.h"

#include <chrono>
#include <thread>

#include "tests/support/nvrtc.h"
#include "tests/support/simulated_bench.h"
#include "tests/support/support.h"

using namespace quern;
using namespace quern::test;

namespace {

using Clock = std::chrono::steady_clock;

std::unique_ptr<BackgroundTuner> start(const std::filesystem::path& cache, int num_problems,
                                       int trial_ms, double share) {
  KernelLibraryOptions options;
  options.cache_root = cache;
  auto catalog = std::make_unique<KernelCatalog>(
      parse_arch("sm_90a"), ordered_json{{"name", "simulated GPU"}}, simulated_registry(), options);
  auto bench = std::make_unique<SimulatedBench>(SimulatedBenchOptions{
      .noise = 0.005, .seed = 1, .trial_ms = trial_ms, .journal = {}, .with_faults = false});
  std::vector<KernelRequest> requests;
  for (int i = 0; i < num_problems; ++i) requests.push_back({"simulated", {{"n", 1 << (2 * i)}}});
  BackgroundTuneOptions tuning;
  tuning.share = share;
  tuning.tune.search.max_compiled = 12;
  return std::make_unique<BackgroundTuner>(std::move(catalog), std::move(bench),
                                           std::move(requests), std::move(tuning));
}

}  // namespace

TEST_CASE("a background tune delivers while somebody serves, and waits while nobody yields") {
  QUERN_SKIP_IF(!nvrtc(), kNoNvrtc);
  const TemporaryFolder folder;
  const auto tuner = start(folder.path(), 2, 0, 1.0);
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  CHECK_FALSE(tuner->done());  // nothing may be timed without a turn
  std::vector<TuningRecord> found;
  const auto end = Clock::now() + std::chrono::seconds(60);
  while (found.size() < 2 && Clock::now() < end) {
    std::this_thread::sleep_for(std::chrono::microseconds(200));  // a step
    for (TuningRecord& record : tuner->yield()) found.push_back(std::move(record));
  }
  REQUIRE_EQ(found.size(), 2);
  CHECK_EQ(all_records(folder.path()).size(), 2);
  while (!tuner->done() && Clock::now() < end) tuner->yield();
  CHECK(tuner->done());
  CHECK(tuner->failure().empty());
}

TEST_CASE("a background tune ends at once when its server does") {
  QUERN_SKIP_IF(!nvrtc(), kNoNvrtc);
  const TemporaryFolder folder;
  {
    const auto tuner = start(folder.path(), 4, 5, 0.01);
    for (int i = 0; i < 20; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
      tuner->yield();
    }
    CHECK_FALSE(tuner->done());
  }
  CHECK(all_records(folder.path()).size() < 4);
}
