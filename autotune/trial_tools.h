#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "autotune/kernel_library.h"
#include "runtime/memory.h"
#include "runtime/stream.h"

namespace quern {

/// CUDA source of the kernels behind TrialTools; includes templates/utility.
std::string trial_tools_source();

/// Two device kernels that trials need around the kernel under trial: one makes operands, the other
/// compares outputs, both at memory speed. Compiled through the library's image store.
class TrialTools {
 public:
  /// Throws CompileError, CudaError.
  explicit TrialTools(KernelLibrary& library);

  /// True for the types that fill() makes and whose errors difference() sees: f32, f16, bf16.
  static bool is_native(DType dtype);
  /// Enqueues random contents as the spec has them; equal seeds give equal contents.
  void fill(CUdeviceptr to, const OperandSpec& spec, std::uint64_t seed,
            const Stream& stream) const;

  struct Difference {
    /// Worst |out - ref| / (abs + rel |ref|); infinite where one is NaN. 0 for types that are not
    /// native.
    double error = 0;
    /// Elements (bytes, for types that are not native) whose bits differ.
    std::uint64_t num_unequal = 0;
  };
  /// Waits for everything enqueued before it.
  Difference difference(CUdeviceptr out, CUdeviceptr reference, const OperandSpec& spec,
                        const Tolerance& tolerance, const Stream& stream) const;

 private:
  LaunchPlan plan() const;

  const Context& context_;
  std::shared_ptr<const Module> module_;
  Buffer result_;  // worst error's bits and count of unequal elements, u64 each
};

}  // namespace quern
