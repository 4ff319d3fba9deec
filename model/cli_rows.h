#pragma once
#include <memory>
#include <string>
#include <vector>

#include "autotune/row_bench.h"
#include "autotune/row_family.h"
#include "autotune/tuner.h"
#include "model/cli.h"

namespace quern::cli {

/// One GPU opened for row kernels alone.
class RowSession {
 public:
  /// Throws DeviceError if there is no such device, no driver or no NVRTC; InputError if the cache
  /// cannot serve.
  RowSession(const Common& common, int ordinal, std::unique_ptr<RowFamily> family);
  const Context& context() const { return context_; }
  KernelLibrary& library() { return library_; }
  const RowFamily& family() const { return family_; }

 private:
  Context context_;
  const RowFamily& family_;
  KernelLibrary library_;
};

/// One line a result: kernel, shape, dtypes, config, times, GB/s against the copy kernel.
std::string row_table(const RowFamily& family, const std::vector<RowBenchResult>& results);

/// `quern kernel FILE.qk --run`: one kernel of `family` at one shape.
struct RowRun {
  std::string kernel;
  Params problem;
  RowValues values;  // of which the problem was made
  bool check = false, bench = false, force = false;
  double budget = 0;  // seconds; 0 = until done
};
/// Tunes and, where asked for, checks and measures. Throws Error if an output is wrong.
void run_on_gpu(const Common& common, int ordinal, std::unique_ptr<RowFamily> family,
                const RowRun& run);
/// Times the LLVM build on one thread.
void run_on_cpu(const Common& common, const RowFamily& family, const RowRun& run);

}  // namespace quern::cli
