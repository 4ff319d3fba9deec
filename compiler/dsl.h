#pragma once
#include <cstdint>
#include <functional>
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
  std::vector<std::string> axes;  // outermost first; a fixed axis is its extent, in digits
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
  /// Names of the axes that are iterated over, outermost first, then of those along which operands
  /// are only gathered (the vocabulary of an embedding table).
  const std::vector<std::string>& axes() const;
  int num_iterated_axes() const;
  /// The axes that number the rows: those that no reduction folds (without reductions all but the
  /// innermost), outermost first. Rows stand by themselves.
  std::vector<std::string> row_axes() const;
  /// False for kernels whose elements stand by themselves.
  bool has_reduction() const;
  /// Arithmetic on each element of the last axis, for cost models: operators, functions, casts.
  int operations_per_element() const;
  const Tree& tree() const { return *tree_; }

 private:
  std::shared_ptr<const Tree> tree_;
};

/// Text of a file that another one names with `use "NAME"`, or nothing. Never called twice for one
/// name in a parse.
using Includes = std::function<std::optional<std::string>(const std::string& name)>;

/// Finds NAME as FOLDER/NAME among `files`, which must outlive the result (those that Quern ships:
/// embedded_templates() and "row").
Includes includes_from(const std::map<std::string, std::string, std::less<>>& files,
                       const std::string& folder);

/// Parses and checks one file and the functions of those that it uses. Throws CompileError (exit
/// code 2) whose log() is every diagnostic rendered by llvm::SourceMgr: file, line, caret and a
/// sentence in the user's terms. A file of functions alone has no kernels.
std::vector<Kernel> parse(std::string_view text, std::string_view file_name,
                          const Includes& includes = {});

/// Values for the generic dtype parameters, and axis extents known at compile time (others are
/// run-time arguments).
struct Binding {
  std::map<std::string, DType> dtypes;
  std::map<std::string, std::int64_t> extents;
};

/// Where a row's values wait between the walks along it.
enum class Keep {
  none,       // nowhere: each walk reads memory again
  registers,  // of the threads that share the row
  packed,     // the same, but as it was loaded: conversions and arithmetic are repeated
  shared,     // what was loaded waits in shared memory
};
/// "none", "registers", "packed", "shared".
std::string_view name(Keep);
std::optional<Keep> parse_keep(std::string_view);

/// Tunables of the CUDA build. Kernels without reductions use threads, vector and pdl alone;
/// threads_per_row then equals threads, cluster is 1 and keep is none.
struct Schedule {
  int threads = 256;          // per block
  int threads_per_row = 256;  // of a block that share a row; fewer than threads: several rows
  int vector = 1;             // elements that a thread moves at once
  Keep keep = Keep::none;
  int cluster = 1;   // blocks that share a row, through distributed shared memory
  bool pdl = false;  // griddepcontrol.wait before the first read
  /// Rows that the same threads take, one after another: what all rows share is read once, and the
  /// next row is on its way while one is worked on.
  int turns = 1;
  /// Blocks that an SM should hold at once: the compiler limits registers accordingly. 0: as many as
  /// it likes.
  int blocks_per_sm = 0;
};

/// A schedule that is legal on every architecture, for any binding: what runs untuned.
Schedule default_schedule(const Kernel& kernel, const Binding& binding);
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
  /// Throws CompileError if a dtype parameter is unbound or bound to i4.
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
