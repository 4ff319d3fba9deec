#pragma once
#include <memory>
#include <mutex>

#include "autotune/trial_bench.h"

namespace quern {

/// One of several benches that stand for the same GPU: what any of them launches there runs alone.
/// While one problem waits for its compilers, or loads what they made, another has the GPU.
class SharedGpuBench : public TrialBench {
 public:
  SharedGpuBench(std::unique_ptr<TrialBench> bench, std::shared_ptr<std::mutex> gpu);
  void start() override;
  void open(const std::string& family, const Params& problem,
            std::span<const Params> configs) override;
  Verdict load(std::size_t candidate, const CompiledKernel* image) override;
  Verdict gate(std::size_t candidate) override;
  Verdict measure(std::size_t candidate, int num_samples,
                  std::vector<double>& samples_us) override;
  void close() override;
  double seconds_waited() const override { return seconds_waited_; }

 private:
  std::unique_lock<std::mutex> turn();

  std::unique_ptr<TrialBench> bench_;
  std::shared_ptr<std::mutex> gpu_;
  double seconds_waited_ = 0;
};

}  // namespace quern
