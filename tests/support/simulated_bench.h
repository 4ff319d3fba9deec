#pragma once
#include <cstdint>
#include <filesystem>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "autotune/registry.h"
#include "autotune/trial_bench.h"
#include "templates/family.h"

namespace quern::test {

/// A family for tuners without a GPU: its kernels are real enough to be compiled, its times are made
/// up by SimulatedBench.
struct SimulatedProblem {
  int n = 1;  // dynamic; the landscape differs with it
  static constexpr auto fields() {
    using P = SimulatedProblem;
    return std::make_tuple(std::pair{"n", &P::n});
  }
};

struct SimulatedConfig {
  int threads = 128, unroll = 1, stages = 1;
  static constexpr auto fields() {
    using C = SimulatedConfig;
    return std::tuple{std::pair{"threads", &C::threads}, std::pair{"unroll", &C::unroll},
                      std::pair{"stages", &C::stages}};
  }
};

/// threads 32 to 512, unroll 1 to 8, stages 1 to 4: 60 configs.
/// `like`: the name of a family whose problems are like this one's (Family::like()), if any.
std::unique_ptr<const Family> make_simulated_family(std::string name = "simulated",
                                                    std::string like = "");
/// Only that family, with no template text: SimulatedFamily's sources include nothing.
FamilyRegistry simulated_registry();

/// What goes wrong with a candidate, for a fixed fifth of them.
enum class SimulatedFault {
  none,
  crash,    // the process ends by a signal
  exit,     // the process leaves
  hang,     // the process sleeps
  launch,   // launch_failed
  wrong,    // wrong_result
  unstable  // unstable_result
};
SimulatedFault fault_of(const Params& problem, const Params& config);
/// Microseconds that a launch takes, without noise; depends on all tunables.
double true_time_us(const Params& problem, const Params& config);
/// The fastest config that nothing is wrong with.
Params best_config(const Params& problem);

struct SimulatedBenchOptions {
  double noise = 0.01;  // relative, normal
  std::uint32_t seed = 1;
  int trial_ms = 0;               // that a trial takes
  std::filesystem::path journal;  // receives a line for every gate() that ends: "PROBLEM CONFIG"
  bool with_faults = true;
};

/// Trials on a device that is not there, with faults that are.
class SimulatedBench : public TrialBench {
 public:
  explicit SimulatedBench(SimulatedBenchOptions options);
  void open(const std::string& family, const Params& problem,
            std::span<const Params> configs) override;
  Verdict load(std::size_t candidate, const CompiledKernel* image) override;
  Verdict gate(std::size_t candidate) override;
  Verdict measure(std::size_t candidate, int num_samples,
                  std::vector<double>& samples_us) override;
  void close() override {}

 private:
  SimulatedBenchOptions options_;
  std::mt19937 random_;
  Params problem_;
  std::vector<Params> configs_;
};

}  // namespace quern::test
