#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/base/arch.h"
#include "runtime/base/dtype.h"
#include "runtime/base/launch_plan.h"

/// The kernel language of .qk files: fused row-wise and elementwise kernels. compiler/README.md is
/// the language page.
namespace quern::dsl {

/// A checked kernel: the typed tree that both back ends read. Opaque outside compiler/.
struct Tree;

/// One operand as declared. Operands are numbered in order of declaration: the parameters, inout
/// included, then the outputs.
struct OperandInfo {
  enum class Role { in, inout, out };
  std::string name;
  std::optional<DType> dtype;  // unset: dtype_param names the generic parameter
  std::string dtype_param;
  std::vector<std::string> axes;  // outermost first
  Role role = Role::in;
};

struct ScalarInfo {
  std::string name;
  DType dtype = DType::f32;
};

/// A kernel that parsed and checked. Cheap to copy.
class Kernel {
 public:
  explicit Kernel(std::shared_ptr<const Tree> tree) : tree_(std::move(tree)) {}
  const std::string& name() const;
  const std::vector<OperandInfo>& operands() const;
  const std::vector<ScalarInfo>& scalars() const;
  const std::vector<std::string>& dtype_params() const;
  /// Axis names, outermost first; for row-wise kernels the last is the one reduced over.
  const std::vector<std::string>& axes() const;
  /// False for kernels whose elements stand by themselves.
  bool has_reduction() const;
  /// Arithmetic on each element of the last axis, for cost models: operators, functions, casts.
  int operations_per_element() const;
  const Tree& tree() const { return *tree_; }

 private:
  std::shared_ptr<const Tree> tree_;
};

/// Parses and checks one file. Throws CompileError (exit code 2) whose log() is every diagnostic
/// rendered by llvm::SourceMgr: file, line, caret and a sentence in the user's terms.
std::vector<Kernel> parse(std::string_view text, std::string_view file_name);

/// Values for the generic dtype parameters, and axis extents known at compile time (others are
/// run-time arguments).
struct Binding {
  std::map<std::string, DType> dtypes;
  std::map<std::string, std::int64_t> extents;
};

/// Tunables of the CUDA build.
struct Schedule {
  int threads = 256;          // per block
  int threads_per_row = 256;  // 32 or fewer: several rows per warp/block; = threads: block per row
  int vector_bytes = 16;      // per memory access and thread
  bool pdl = false;           // griddepcontrol.wait before the first read
};

/// Entry name of the kernel that emit_cuda generates.
std::string entry_name(const Kernel& kernel);
/// Why this schedule cannot serve this binding, as a sentence; or nothing.
std::optional<std::string> reject_reason(const Kernel& kernel, const Binding& binding,
                                         const Schedule& schedule, const Arch& arch);
/// CUDA source that reads well. Its one parameter is a struct: operand pointers in order, then the
/// scalars, then every axis extent as int64; pack_args builds it.
std::string emit_cuda(const Kernel& kernel, const Binding& binding, const Schedule& schedule);
LaunchPlan plan(const Kernel& kernel, const Binding& binding, const Schedule& schedule,
                const std::map<std::string, std::int64_t>& extents);
std::vector<std::byte> pack_args(const Kernel& kernel, std::span<const std::uint64_t> addresses,
                                 const std::map<std::string, double>& scalars,
                                 const std::map<std::string, std::int64_t>& extents);

/// Optimised LLVM IR as text.
std::string emit_llvm(const Kernel& kernel, const Binding& binding);

/// The LLVM build, JIT-compiled for this CPU: the oracle of every CUDA build and the CPU backend's
/// own kernel. run() may be called from several threads at once.
class CpuKernel {
 public:
  /// Throws CompileError if a dtype parameter is unbound.
  CpuKernel(const Kernel& kernel, const Binding& binding);
  ~CpuKernel();
  CpuKernel(CpuKernel&&) noexcept;
  CpuKernel& operator=(CpuKernel&&) noexcept;
  /// Operands in order, contiguous row-major host memory; scalars and extents in order of
  /// Kernel::scalars() and Kernel::axes().
  void run(std::span<void* const> operands, std::span<const double> scalars,
           std::span<const std::int64_t> extents) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace quern::dsl
