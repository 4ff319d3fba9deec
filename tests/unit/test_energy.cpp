#include "autotune/energy.h"

#include <cmath>

#include "tests/support/support.h"

using namespace quern;

namespace {

/// A GPU of 500 W under load, 100 W idle, on a clock of its own. Its counter moves every `period`.
class FakeBench : public EnergyBench {
 public:
  double period = 0.05, launch_seconds = 20e-6, stuck_after = 1e9, reset_after = 1e9;
  bool has_counter = true;
  double ran = 0;  // seconds of load

  std::optional<std::uint64_t> counter_mj() override {
    if (!has_counter) return std::nullopt;
    const double seen = std::floor(std::min(now_, stuck_after) / period) * period;
    return static_cast<std::uint64_t>((now_ > reset_after ? 0 : 1e6) + seen * 500e3);
  }
  std::size_t run() override {
    constexpr std::size_t kLaunches = 200;
    now_ += launch_seconds * kLaunches;
    ran += launch_seconds * kLaunches;
    return kLaunches;
  }
  double seconds() override { return now_; }

 private:
  double now_ = 0.013;  // nothing begins when the counter moves
};

}  // namespace

TEST_CASE("energy is counted between two movements of the counter") {
  for (const double period : {0.02, 0.05, 0.1}) {
    FakeBench bench;
    bench.period = period;
    const auto mj = energy_mj(bench);
    CAPTURE(period);
    REQUIRE(mj);
    CHECK_EQ(*mj, doctest::Approx(500e3 * 20e-6).epsilon(0.015));  // 10 mJ
    CHECK_GE(bench.ran, 0.6);
    CHECK_LE(bench.ran, 0.6 + 3 * period);
  }
}

TEST_CASE("launches that take longer than the counter's period are measured too") {
  FakeBench bench;
  bench.launch_seconds = 1e-3;  // 200 ms a run
  const auto mj = energy_mj(bench);
  REQUIRE(mj);
  CHECK_EQ(*mj, doctest::Approx(500).epsilon(0.3));
}

TEST_CASE("a counter that is missing, rests or goes backwards gives nothing") {
  FakeBench missing;
  missing.has_counter = false;
  CHECK_FALSE(energy_mj(missing));
  CHECK_EQ(missing.ran, 0);
  FakeBench stuck;
  stuck.stuck_after = 0;
  CHECK_FALSE(energy_mj(stuck));
  CHECK_LE(stuck.ran, 1.1);
  FakeBench stops;
  stops.stuck_after = 0.3;
  CHECK_FALSE(energy_mj(stops));
  FakeBench reset;
  reset.reset_after = 0.4;
  CHECK_FALSE(energy_mj(reset));
}

TEST_CASE("a device that NVML does not know has no counter") {
  CHECK_FALSE(EnergyCounter("GPU-00000000-0000-0000-0000-000000000000").read_mj());
}
