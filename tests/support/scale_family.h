#pragma once
#include <algorithm>
#include <string>
#include <vector>

#include "runtime/base/error.h"
#include "templates/family.h"

namespace quern::test {

/// A family for tests of the tuner: y = scale * x + y and z = index + shift[0], with candidates
/// that misbehave in one way each. Operands x[n], shift[1], y[n] (inout), z[n] (out).
struct ScaleProblem {
  int n = 1;  // dynamic
  int scale = 3;
  static constexpr auto fields() {
    using P = ScaleProblem;
    return std::tuple{std::pair{"n", &P::n}, std::pair{"scale", &P::scale}};
  }
};

struct ScaleConfig {
  enum Fault {
    none, wrong, out_of_bounds, race, tail, dirty_counters, no_compile,
    // These take a process down, or are refused by the driver.
    illegal, misaligned, trap, endless, too_much_smem, too_many_threads, num_faults
  };
  int threads = 256;
  int fault = none;
  static constexpr auto fields() {
    using C = ScaleConfig;
    return std::tuple{std::pair{"threads", &C::threads}, std::pair{"fault", &C::fault}};
  }
};

struct ScaleArgs {
  std::uint64_t x, shift, y, z, counters;
  int n;
};

class ScaleFamily : public Family {
 public:
  /// Where the oracle runs: a config of the family, or a loop on the host.
  enum class Oracle { device, host };
  explicit ScaleFamily(Oracle oracle = Oracle::host, std::vector<ScaleConfig> configs = {{}})
      : oracle_(oracle), configs_(std::move(configs)) {}

  std::string_view name() const override { return "scale"; }
  std::vector<std::string> dynamic_fields() const override { return {"n"}; }

  std::vector<Tunable> space(const Params&) const override {
    std::vector<Params> faults;
    for (int fault = 0; fault < ScaleConfig::num_faults; ++fault) faults.push_back(fault);
    return {{"threads", {1, 32, 64, 128, 256, 512, 1024}}, {"fault", faults}};
  }
  RankedSpace ranked_space(const Params&, const Arch&) const override {
    RankedSpace out;
    for (const ScaleConfig& config : configs_) out.configs.push_back(to_params(config));
    out.estimates_us.assign(configs_.size(), 1.0);
    out.num_points = configs_.size();
    return out;
  }
  std::optional<std::string> unsupported(const Params& problem, const Arch&) const override {
    if (from_params<ScaleProblem>(problem).n < 1) return "n should be positive";
    return std::nullopt;
  }
  std::optional<std::string> reject_reason(const Params&, const Params& config,
                                           const Arch&) const override {
    if (from_params<ScaleConfig>(config).threads > 512) return "threads exceed 512";
    return std::nullopt;
  }
  Params reference_config(const Params&) const override {
    return oracle_ == Oracle::device ? to_params(ScaleConfig{.threads = 1}) : Params();
  }
  void cpu_reference(const Params& problem, std::span<HostTensor> operands) const override {
    const auto p = from_params<ScaleProblem>(problem);
    const auto* x = reinterpret_cast<const float*>(operands[0].data.data());
    const auto* shift = reinterpret_cast<const int*>(operands[1].data.data());
    auto* y = reinterpret_cast<float*>(operands[2].data.data());
    auto* z = reinterpret_cast<int*>(operands[3].data.data());
    for (int i = 0; i < p.n; ++i) {
      y[i] += static_cast<float>(p.scale) * x[i];
      z[i] = i + *shift;
    }
  }
  KernelSource source(const Params& problem, const Params& config, const Arch&) const override {
    Params fixed = problem;
    fixed.erase("n");
    return {config_struct(fixed, "Problem") + config_struct(config) + R"(
#include "test/scale.cuh"
extern "C" __global__ void __launch_bounds__(Config::threads) scale_entry(Args args) {
  scale_kernel<Problem, Config>(args);
}
)",
            "scale_entry",
            {}};
  }
  static std::map<std::string, std::string, std::less<>> templates() {
    return {{"test/scale.cuh", R"(#pragma once
struct Args { const float* x; const int* shift; float* y; int* z; unsigned* counters; int n; };
template <class P, class C>
__device__ void scale_kernel(const Args& args) {
  static_assert(C::fault != 6, "this config is meant not to compile");
  const int i = blockIdx.x * C::threads + threadIdx.x;
  const int n = C::fault == 4 ? args.n / 2 * 2 : args.n;  // forgets an odd tail
  if (i == 0 && C::fault == 7) *reinterpret_cast<volatile float*>(8) = 1;
  if (i == 0 && C::fault == 8)
    *reinterpret_cast<volatile double*>(reinterpret_cast<char*>(args.y) + 1) = 1;
  if (i == 0 && C::fault == 9) asm volatile("trap;");
  if (i == 0 && C::fault == 10)
    while (*reinterpret_cast<const volatile int*>(args.shift) != -12345) {}
  if (i == 0 && C::fault == 2) args.z[args.n] = 1;
  if (i == 0 && C::fault == 5) args.counters[3] = 1;
  if (i >= n) return;
  args.y[i] += (P::scale + (C::fault == 1)) * args.x[i];
  if (C::fault == 3) args.y[i] += 1e-8f * (clock64() & 1023);
  args.z[i] = i + *args.shift;
}
)"}};
  }
  LaunchPlan plan(const Params& problem, const Params& config, const Arch&) const override {
    const auto p = from_params<ScaleProblem>(problem);
    const auto threads = static_cast<unsigned>(from_params<ScaleConfig>(config).threads);
    LaunchPlan plan;
    plan.block[0] = threads;
    plan.grid[0] = (static_cast<unsigned>(p.n) + threads - 1) / threads;
    plan.workspace_bytes = 64;
    if (from_params<ScaleConfig>(config).fault == ScaleConfig::too_much_smem)
      plan.smem_bytes = 300 << 10;
    if (from_params<ScaleConfig>(config).fault == ScaleConfig::too_many_threads)
      plan.block[0] = 2048;
    return plan;
  }
  std::vector<OperandSpec> operands(const Params& problem) const override {
    const auto p = from_params<ScaleProblem>(problem);
    using Role = OperandSpec::Role;
    return {{"x", DType::f32, {p.n}, Role::in, 1.0, {}},
            {"shift", DType::i32, {1}, Role::in, 1.0, {7}},
            {"y", DType::f32, {p.n}, Role::inout, 1.0, {}},
            {"z", DType::i32, {p.n}, Role::out, 1.0, {}}};
  }
  std::vector<std::byte> pack_args(const Params& problem, const Params&,
                                   std::span<const std::uint64_t> addresses,
                                   std::uint64_t workspace) const override {
    return args_bytes(ScaleArgs{addresses[0], addresses[1], addresses[2], addresses[3], workspace,
                                from_params<ScaleProblem>(problem).n});
  }
  Cost cost(const Params& problem) const override {
    const double n = from_params<ScaleProblem>(problem).n;
    return {16 * n, 2 * n};
  }
  Tolerance tolerance(const Params&, std::size_t) const override { return {1e-4, 1e-5}; }

 private:
  Oracle oracle_;
  std::vector<ScaleConfig> configs_;
};

}  // namespace quern::test
