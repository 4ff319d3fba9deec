#pragma once
#include <memory>
#include <optional>
#include <vector>

#include "autotune/kernel_library.h"
#include "autotune/trial_bench.h"

namespace quern {

/// Trials on the GPU of this process (autotune/gate.h, autotune/meter.h). A candidate that leaves
/// the GPU unusable for this process ends in a CudaError: whoever wants to go on after that runs the
/// bench in a process of its own (autotune/remote_bench.h).
class DeviceBench : public TrialBench {
 public:
  /// `library` must outlive the bench, whose calls belong on the library's thread.
  explicit DeviceBench(KernelLibrary& library);
  ~DeviceBench() override;
  void open(const std::string& family, const Params& problem,
            std::span<const Params> configs) override;
  Verdict load(std::size_t candidate, const CompiledKernel* image) override;
  Verdict gate(std::size_t candidate) override;
  Verdict measure(std::size_t candidate, int num_samples,
                  std::vector<double>& samples_us) override;
  void close() override;

 private:
  struct Problem;
  KernelLibrary& library_;
  std::unique_ptr<Problem> problem_;
};

}  // namespace quern
