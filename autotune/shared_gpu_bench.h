#pragma once
#include <memory>
#include <mutex>

#include "autotune/trial_bench.h"

namespace quern {

/// One of several benches that stand for the same GPU: what any of them does there, it does alone.
/// While one problem waits for its compilers, another has the GPU.
class SharedGpuBench : public TrialBench {
 public:
  SharedGpuBench(std::unique_ptr<TrialBench> bench, std::shared_ptr<std::mutex> gpu)
      : bench_(std::move(bench)), gpu_(std::move(gpu)) {}
  void open(const std::string& family, const Params& problem,
            std::span<const Params> configs) override {
    const std::lock_guard lock(*gpu_);
    bench_->open(family, problem, configs);
  }
  Verdict load(std::size_t candidate, const CompiledKernel* image) override {
    const std::lock_guard lock(*gpu_);
    return bench_->load(candidate, image);
  }
  Verdict gate(std::size_t candidate) override {
    const std::lock_guard lock(*gpu_);
    return bench_->gate(candidate);
  }
  Verdict measure(std::size_t candidate, int num_samples,
                  std::vector<double>& samples_us) override {
    const std::lock_guard lock(*gpu_);
    return bench_->measure(candidate, num_samples, samples_us);
  }
  void close() override {
    const std::lock_guard lock(*gpu_);
    bench_->close();
  }

 private:
  std::unique_ptr<TrialBench> bench_;
  std::shared_ptr<std::mutex> gpu_;
};

}  // namespace quern
