#pragma once
#include <string>

#include "autotune/kernel_library.h"
#include "autotune/meter.h"
#include "autotune/row_family.h"

namespace quern {

/// One row kernel at one shape against the copy kernel.
struct RowBenchResult {
  std::string kernel;
  Params problem, config;
  bool tuned = false;                // config is from a record, not the default
  Timing timing;                     // cold L2, graph replays (autotune/meter.h)
  double default_us = 0;             // median of the default config, in the same rounds
  double bytes = 0;                  // that a launch has to move
  double copy_bytes_per_second = 0;  // of a copy that moves as many, in the same run
  double nvrtc_ms = 0;               // one compile that no cache served
  int registers = 0;                 // of a thread

  double bytes_per_second() const { return bytes / (timing.median_us * 1e-6); }
  double percent_of_copy() const { return 100 * bytes_per_second() / copy_bytes_per_second; }
};
ordered_json to_json(const RowBenchResult& result);

/// Measures row kernels as they are tuned, or by default where they are not.
class RowBench {
 public:
  /// Adds the copy kernel that results are held against.
  static void add_copy_kernel(RowFamily& family);

  /// The library's family "row" is a RowFamily with the copy kernel.
  explicit RowBench(KernelLibrary& library);

  /// Throws InputError for an unsupported problem, CompileError, OutOfMemoryError, CudaError.
  RowBenchResult measure(const Params& problem);
  /// Bytes per second, read and written, of our own copy kernel where it moves about `bytes`: the
  /// best of a few configs. Measured once for each size.
  double copy_bandwidth(double bytes);

 private:
  KernelLibrary& library_;
  const RowFamily& family_;
  std::map<std::int64_t, double> copies_;  // by rows of the copy
};

}  // namespace quern
