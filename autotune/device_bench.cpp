#include "autotune/device_bench.h"

#include <utility>

#include "autotune/gate.h"
#include "autotune/meter.h"
#include "runtime/base/error.h"

namespace quern {

struct DeviceBench::Problem {
  Problem(KernelLibrary& library, const Family& family_, const Params& problem_,
          std::span<const Params> configs_)
      : family(family_),
        problem(problem_),
        configs(configs_.begin(), configs_.end()),
        gates(library, family, problem, stream),
        meter(library.context(), gates.main(), stream),
        kernels(configs.size()) {}

  const Family& family;
  Params problem;
  std::vector<Params> configs;
  Stream stream;
  Gates gates;
  Meter meter;
  std::vector<std::optional<ReadyKernel>> kernels;
};

DeviceBench::DeviceBench(KernelLibrary& library) : library_(library) {}
DeviceBench::~DeviceBench() = default;

void DeviceBench::open(const std::string& family, const Params& problem,
                       std::span<const Params> configs) {
  problem_.reset();  // its memory first
  problem_ = std::make_unique<Problem>(library_, library_.families().at(family), problem, configs);
}

Verdict DeviceBench::load(std::size_t candidate, const CompiledKernel* image) {
  Problem& p = *problem_;
  if (p.kernels.at(candidate)) return {};
  const Params& config = p.configs[candidate];
  if (auto reason = library_.refusal(p.family, p.problem, config))  // the library may be missing
    return {TrialStatus::rejected, *std::move(reason), 0};
  try {
    p.kernels[candidate] = image ? library_.load(p.family, p.problem, config, *image)
                                 : library_.load(p.family, p.problem, config);
  } catch (const CudaError& error) {
    return {TrialStatus::launch_failed, error.what(), 0};
  }
  try {
    p.meter.prepare(candidate, *p.kernels[candidate]);
  } catch (const Error&) {  // the gate will say what is wrong
  }
  return {};
}

Verdict DeviceBench::gate(std::size_t candidate) {
  return problem_->gates.check(problem_->kernels.at(candidate).value());
}

Verdict DeviceBench::measure(std::size_t candidate, int num_samples,
                             std::vector<double>& samples_us) {
  try {
    problem_->meter.measure(candidate, problem_->kernels.at(candidate).value(), num_samples,
                            samples_us);
  } catch (const CudaError& error) {
    library_.context().synchronize();  // throws if the GPU is lost
    return {TrialStatus::launch_failed, error.what(), 0};
  }
  return {};
}

void DeviceBench::close() { problem_.reset(); }

}  // namespace quern
