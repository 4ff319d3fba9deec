#pragma once
#include <memory>
#include <optional>
#include <vector>

#include "autotune/kernel_library.h"
#include "autotune/operands.h"
#include "autotune/search.h"
#include "autotune/trial_tools.h"
#include "autotune/workspace.h"
#include "runtime/memory.h"
#include "runtime/stream.h"

namespace quern {

/// The operands of one problem on the device, each between guard bytes.
class OperandSet {
 public:
  /// Allocates; contents are all guard bytes until fill() or copy_from(). Throws OutOfMemoryError.
  explicit OperandSet(const std::vector<OperandSpec>& specs);
  /// The same in `size_bytes(specs)` bytes of somebody else's memory.
  OperandSet(const std::vector<OperandSpec>& specs, CUdeviceptr memory);
  /// A multiple of 256.
  static std::size_t size_bytes(const std::vector<OperandSpec>& specs);
  /// Random contents for in and inout operands: made on the device where `tools` can, as
  /// autotune/operands.h has it otherwise.
  void fill(const std::vector<OperandSpec>& specs, const TrialTools& tools, const Stream& stream);
  /// Everything, from a set of the same specs.
  void copy_from(const OperandSet& other, const Stream& stream);
  const std::vector<CUdeviceptr>& addresses() const { return addresses_; }
  /// The operand whose surroundings were written to, if any.
  std::optional<std::size_t> broken_guard(const Stream& stream) const;

 private:
  Buffer own_;  // empty if the memory is somebody else's
  CUdeviceptr begin_ = 0;
  std::size_t size_bytes_ = 0;
  std::vector<CUdeviceptr> addresses_;
  std::vector<std::size_t> sizes_;  // bytes
};

/// Correctness of kernels for one problem at one set of inputs. The expected outputs come from the
/// family's reference config on the device, or from its cpu_reference. They stay on the device, and
/// outputs are compared there; only the worst part of what is wrong, or what is of a type that the
/// device does not compare, is looked at on the host.
class Gate {
 public:
  enum class Use { check, operands_only };
  /// Throws OutOfMemoryError, and Error if the reference itself cannot run or gives NaN.
  /// `operands_only`: nothing is expected and check() is not called; for timing.
  Gate(KernelLibrary& library, const Family& family, const Params& problem, const Stream& stream,
       Use use = Use::check);

  /// Runs the kernel twice on equal inputs, outputs poisoned with NaN before each. It passes if
  /// both runs agree to the last bit, every output is within the family's tolerance, nothing was
  /// written beside an operand, and the workspace's counters are zero again. An error of the driver
  /// becomes launch_failed.
  Verdict check(const ReadyKernel& kernel);

  const Params& problem() const { return problem_; }
  const std::vector<OperandSpec>& specs() const { return specs_; }
  const OperandSet& operands() const { return operands_; }
  Workspace& workspace() { return workspace_; }

 private:
  /// Restores inout operands, poisons outputs, launches. Does not wait.
  void run(const ReadyKernel& kernel);
  /// Copies all outputs to buffers that it makes if there are none. Does not wait.
  void copy_outputs(std::vector<Buffer>& to) const;
  std::vector<std::byte> download(std::size_t operand, CUdeviceptr from,
                                  const ElementRange& range) const;
  /// Elements of output `i` at `at` with the worst error of all among them, few enough for the
  /// host; all of them where the device does not know errors of their type.
  ElementRange worth_a_look(std::size_t i, CUdeviceptr at) const;
  std::vector<Buffer> cpu_expectation(const Family& family) const;
  /// Worst error of output `i` at `at`; the verdict if it is beyond the tolerance.
  std::optional<Verdict> complaint(std::size_t i, CUdeviceptr at, double& error) const;
  std::optional<Verdict> dirty_counters(const ReadyKernel& kernel, double error);

  const Context& context_;
  const Stream& stream_;
  const TrialTools& tools_;
  Params problem_;
  std::vector<OperandSpec> specs_;
  std::vector<Tolerance> tolerances_;
  OperandSet operands_;
  std::vector<Buffer> pristine_;  // copies of inout operands; empty for others
  std::vector<Buffer> expected_;  // of outputs; empty for inputs
  std::vector<Buffer> first_;     // the outputs of the first of two runs
  Workspace workspace_;
};

/// The gates that every config of a problem has to pass: the problem itself (or the smaller one
/// that its family names, Family::check_problem) and, where the family and the memory allow, the
/// same at odd sizes.
class Gates {
 public:
  Gates(KernelLibrary& library, const Family& family, const Params& problem, const Stream& stream);
  Verdict check(const ReadyKernel& kernel);
  /// With the operands of the problem itself, for timing.
  Gate& main() { return timed_ ? *timed_ : *gates_.front(); }

 private:
  KernelLibrary& library_;
  std::vector<std::unique_ptr<Gate>> gates_;
  std::unique_ptr<Gate> timed_;  // where the problem itself is not checked
};

/// Compiles, loads and checks one config. Throws CompileError, OutOfMemoryError.
Verdict gate_config(KernelLibrary& library, const Family& family, const Params& problem,
                    const Params& config);

}  // namespace quern
