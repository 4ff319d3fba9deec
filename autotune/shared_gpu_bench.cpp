#include "autotune/shared_gpu_bench.h"

#include <chrono>
#include <utility>

namespace quern {

SharedGpuBench::SharedGpuBench(std::unique_ptr<TrialBench> bench, std::shared_ptr<std::mutex> gpu)
    : bench_(std::move(bench)), gpu_(std::move(gpu)) {}

std::unique_lock<std::mutex> SharedGpuBench::turn() {
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  std::unique_lock lock(*gpu_);
  seconds_waited_ += std::chrono::duration<double>(Clock::now() - start).count();
  return lock;
}

void SharedGpuBench::start() { bench_->start(); }

void SharedGpuBench::open(const std::string& family, const Params& problem,
                          std::span<const Params> configs) {
  const auto lock = turn();
  bench_->open(family, problem, configs);
}

Verdict SharedGpuBench::load(std::size_t candidate, const CompiledKernel* image) {
  return bench_->load(candidate, image);
}

Verdict SharedGpuBench::gate(std::size_t candidate) {
  const auto lock = turn();
  return bench_->gate(candidate);
}

Verdict SharedGpuBench::measure(std::size_t candidate, int num_samples,
                                std::vector<double>& samples_us) {
  const auto lock = turn();
  return bench_->measure(candidate, num_samples, samples_us);
}

void SharedGpuBench::close() { bench_->close(); }

}  // namespace quern
