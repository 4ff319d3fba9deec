#include "autotune/energy.h"

#include "autotune/in_turns.h"
#include "model/gpu_session.h"
#include "tests/support/gpu.h"
#include "tests/support/sample_record.h"
#include "tests/support/support.h"

using namespace quern;
using namespace quern::test;

TEST_CASE("a launch's energy is its time at a power that the board can draw") {
  QUERN_SKIP_IF(!gpu_available(), driver_problem());
  const TemporaryFolder folder;
  GpuSession session({0, folder.path(), {}, {}});
  const DeviceInfo& device = session.context().device();
  const EnergyCounter counter(device.uuid);
  QUERN_SKIP_IF(!counter.read_mj(), "the GPU does not count its energy");
  KernelLibrary& library = session.kernels();
  TuneReport report;
  report.problems.emplace_back();
  ProblemReport& problem = report.problems.back();
  problem.family = "gemm";
  problem.problem = {{"m", 1}, {"n", 4096}, {"k", 4096}, {"dtype", "bf16"}, {"out_dtype", "bf16"}};
  const Family& family = library.families().at("gemm");
  problem.record = sample();
  problem.record.problem = problem.problem;
  problem.record.config = library.default_config(family, problem.problem);
  problem.record.template_hash =
      library.template_hash_of(family, problem.problem, problem.record.config);
  problem.record.fingerprint = library.fingerprint();
  problem.outcome = ProblemReport::Outcome::recorded;
  const std::vector<Params> configs{problem.record.config};
  const double us = time_configs(library, family, problem.problem, configs)[0].median_us;
  REQUIRE(add_energy(library, report));
  REQUIRE(problem.energy_mj);
  const auto kept = library.valid_record(family, problem.problem);
  REQUIRE(kept);
  CHECK_EQ(kept->energy_mj, problem.energy_mj);
  CHECK_EQ(*problem.energy_mj, *problem.default_energy_mj);
  const double watts = *problem.energy_mj * 1e-3 / (us * 1e-6);
  CAPTURE(us);
  CAPTURE(watts);
  CHECK_GT(watts, 20);
  CHECK_LT(watts, 1.3 * (device.power_limit_w > 0 ? device.power_limit_w : 2000));
}
