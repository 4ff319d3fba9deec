#include "tests/support/simulated_bench.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <csignal>
#include <cstdlib>
#include <thread>

#include "runtime/base/error.h"
#include "runtime/base/hash.h"
#include "templates/common/stub.h"

namespace quern::test {
namespace {

class SimulatedFamily final : public Family {
 public:
  SimulatedFamily(std::string name, std::string like)
      : name_(std::move(name)), like_(std::move(like)) {}
  std::string_view name() const override { return name_; }
  std::vector<std::string> dynamic_fields() const override { return {"n"}; }
  std::vector<Tunable> space(const Params&) const override {
    return {{"threads", {32, 64, 128, 256, 512}}, {"unroll", {1, 2, 4, 8}}, {"stages", {1, 2, 3}}};
  }
  Params default_config(const Params&, const Arch&) const override {
    return to_params(SimulatedConfig{});
  }
  std::optional<std::string> unsupported(const Params& problem, const Arch&) const override {
    if (from_params<SimulatedProblem>(problem).n < 1) return "n should be positive";
    return std::nullopt;
  }
  std::optional<std::string> reject_reason(const Params&, const Params& config,
                                           const Arch&) const override {
    const auto c = from_params<SimulatedConfig>(config);
    if (c.threads * c.unroll > 2048) return "a block covers more than 2048 elements";
    return std::nullopt;
  }
  Params reference_config(const Params&) const override { return nullptr; }
  KernelSource source(const Params&, const Params& config, const Arch&) const override {
    return {config_struct(config) +
                "extern \"C\" __global__ void simulated(float* x) { x[threadIdx.x] = "
                "Config::threads + Config::unroll * Config::stages; }\n",
            "simulated",
            {}};
  }
  LaunchPlan plan(const Params&, const Params&, const Arch&) const override { return {}; }
  std::vector<OperandSpec> operands(const Params&) const override { return {}; }
  std::vector<std::byte> pack_args(const Params&, const Params&, std::span<const std::uint64_t>,
                                   std::uint64_t) const override {
    return {};
  }
  Cost cost(const Params& problem) const override {
    return {16.0 * from_params<SimulatedProblem>(problem).n, 0};
  }
  Tolerance tolerance(const Params&, std::size_t) const override { return {}; }
  std::optional<FamilyProblem> like(const Params& problem) const override {
    if (like_.empty()) return std::nullopt;
    return FamilyProblem{like_, problem};
  }

 private:
  std::string name_, like_;
};

/// From 0 to 1, the same for the same parameters everywhere.
double hash_fraction(const Params& problem, const Params& config, std::string_view salt) {
  const std::string hash = content_hash(to_key(problem) + to_key(config) + std::string(salt));
  return static_cast<double>(std::stoul(hash.substr(0, 8), nullptr, 16)) / 4294967296.0;
}

void append_line(const std::filesystem::path& path, const std::string& line) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0) return;
  const auto ignored = ::write(fd, line.data(), line.size());
  static_cast<void>(ignored);
  ::close(fd);
}

}  // namespace

std::unique_ptr<const Family> make_simulated_family(std::string name, std::string like) {
  return std::make_unique<SimulatedFamily>(std::move(name), std::move(like));
}

FamilyRegistry simulated_registry() {
  FamilyRegistry families{HeaderMap{}};
  families.add(make_simulated_family());
  return families;
}

SimulatedFault fault_of(const Params& problem, const Params& config) {
  if (config == to_params(SimulatedConfig{})) return SimulatedFault::none;  // the default works
  const double at = hash_fraction(problem, config, "fault");
  if (at >= 0.24) return SimulatedFault::none;
  return static_cast<SimulatedFault>(1 + static_cast<int>(at / 0.04));
}

double true_time_us(const Params& problem, const Params& config) {
  const auto n = from_params<SimulatedProblem>(problem).n;
  const auto c = from_params<SimulatedConfig>(config);
  const double threads = std::log2(c.threads / 256.0) / 3, stages = (c.stages - 2) / 3.0;
  const double unroll = std::log2(c.unroll / (n % 3 == 0 ? 2.0 : 4.0)) / 3;
  return 10 * (1 + threads * threads + 0.5 * unroll * unroll + 0.3 * stages * stages +
               0.2 * threads * unroll + 0.05 * hash_fraction(problem, config, "time"));
}

Params best_config(const Params& problem) {
  const SimulatedFamily family("simulated", "");
  Params best = to_params(SimulatedConfig{});
  for (const Params& config : family.candidates(problem, {}))
    if (!family.reject_reason(problem, config, {}) &&
        fault_of(problem, config) == SimulatedFault::none &&
        true_time_us(problem, config) < true_time_us(problem, best))
      best = config;
  return best;
}

SimulatedBench::SimulatedBench(SimulatedBenchOptions options)
    : options_(std::move(options)), random_(options_.seed) {}

void SimulatedBench::open(const std::string&, const Params& problem,
                          std::span<const Params> configs) {
  problem_ = problem;
  configs_.assign(configs.begin(), configs.end());
}

Verdict SimulatedBench::load(std::size_t, const CompiledKernel* image) {
  if (!image || image->image.cubin.empty()) throw Error("a simulated kernel has no image");
  return {};
}

Verdict SimulatedBench::gate(std::size_t candidate) {
  const Params& config = configs_.at(candidate);
  std::this_thread::sleep_for(std::chrono::milliseconds(options_.trial_ms));
  Verdict verdict{TrialStatus::ok, "", 0.25};
  switch (options_.with_faults ? fault_of(problem_, config) : SimulatedFault::none) {
    case SimulatedFault::none:
      break;
    case SimulatedFault::crash:
      std::raise(SIGSEGV);
      break;
    case SimulatedFault::exit:
      ::_exit(7);
    case SimulatedFault::hang:
      std::this_thread::sleep_for(std::chrono::hours(1));
      break;
    case SimulatedFault::launch:
      verdict = {TrialStatus::launch_failed, "the simulated launch failed", 0};
      break;
    case SimulatedFault::wrong:
      verdict = {TrialStatus::wrong_result, "y[3] is 1 instead of 2", 8};
      break;
    case SimulatedFault::unstable:
      verdict = {TrialStatus::unstable_result, "two runs on equal inputs differ", 0};
      break;
  }
  if (!options_.journal.empty())
    append_line(options_.journal, to_key(problem_) + " " + to_key(config) + "\n");
  return verdict;
}

Verdict SimulatedBench::measure(std::size_t candidate, int num_samples,
                                std::vector<double>& samples_us) {
  std::normal_distribution<double> noise(1, options_.noise);
  for (int i = 0; i < num_samples; ++i)
    samples_us.push_back(true_time_us(problem_, configs_.at(candidate)) *
                         std::max(0.5, noise(random_)));
  return {};
}

}  // namespace quern::test
