#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "autotune/row_traits.h"
#include "compiler/dsl.h"
#include "templates/family.h"
#include "templates/row/row.h"

namespace quern {

/// What a problem of a row kernel gives values to, by name.
struct RowValues {
  std::map<std::string, std::int64_t> axes;
  std::map<std::string, DType> dtypes;
  std::map<std::string, double> scalars;
};

/// Family "row": the kernels of .qk files as problems to tune. A problem names its kernel and gives
/// each axis, each dtype parameter and each scalar a value:
///   {"kernel": "add_rmsnorm", "rows": 16, "cols": 4096, "T": "bf16", "R": "bf16", "eps": 1e-5}
/// An outermost axis `rows` or `tokens` that numbers rows may vary by request; all others are
/// compile-time constants. Operands are those of the kernel, in order of declaration. The oracle is
/// the same kernel built by LLVM for the CPU.
///
/// Kernels are those that Quern ships, which the constructor takes, and a user's own, which add()
/// takes. Problems of the latter carry the field "text" as well, a hash of the file and of those
/// that it uses, so that what was recorded for one kernel is never taken for another one's of the
/// same name. problem() fills it in.
class RowFamily final : public Family {
 public:
  /// No kernels yet.
  RowFamily() = default;
  /// Takes every .qk file among `files` (templates/embedded.h) but for those in epilogue/, which
  /// are parts of products; `use "x.qk"` means row/x.qk among them. Files of functions alone are
  /// passed over. Throws CompileError for a file that does not compile, InputError if two kernels
  /// share a name.
  explicit RowFamily(const std::map<std::string, std::string, std::less<>>& files);

  /// Adds the kernels of one more file and returns their names. One that has the name of a kernel
  /// of the constructor's files takes its place. Throws CompileError if it does not compile,
  /// InputError if it has no kernel or one that add() has taken already.
  std::vector<std::string> add(std::string_view text, std::string_view file_name,
                               const dsl::Includes& includes = {});

  /// The problem of a kernel. Throws InputError with a sentence that names what is missing, or what
  /// the kernel does not have.
  Params problem(std::string_view kernel, const RowValues& values) const;

  std::string_view name() const override { return "row"; }
  std::vector<std::string> dynamic_fields() const override { return {"rows", "tokens"}; }
  std::vector<std::string> dynamic_fields_of(const Params& problem) const override;
  Params check_problem(const Params& problem) const override;
  std::vector<Tunable> space(const Params& problem) const override;
  RankedSpace ranked_space(const Params& problem, const Arch& arch) const override;
  Params default_config(const Params& problem, const Arch& arch) const override;
  double estimate_us(const Params& problem, const Params& config, const Arch& arch) const override;
  std::optional<std::string> unsupported(const Params& problem, const Arch& arch) const override;
  std::optional<std::string> reject_reason(const Params& problem, const Params& config,
                                           const Arch& arch) const override;
  Params reference_config(const Params& problem) const override;
  void cpu_reference(const Params& problem, std::span<HostTensor> operands) const override;
  KernelSource source(const Params& problem, const Params& config, const Arch& arch) const override;
  LaunchPlan plan(const Params& problem, const Params& config, const Arch& arch) const override;
  std::vector<OperandSpec> operands(const Params& problem) const override;
  std::vector<std::byte> pack_args(const Params& problem, const Params& config,
                                   std::span<const std::uint64_t> addresses,
                                   std::uint64_t workspace) const override;
  Cost cost(const Params& problem) const override;
  Tolerance tolerance(const Params& problem, std::size_t index) const override;

  /// The kernels by name.
  const std::map<std::string, dsl::Kernel, std::less<>>& kernels() const { return kernels_; }
  /// Throws InputError if there is none of this name.
  const dsl::Kernel& kernel(std::string_view name) const;

 private:
  struct Parsed;
  Parsed parse(const Params& problem) const;
  RowConfig usual_config(const Parsed& parsed, const Arch& arch) const;
  std::vector<OperandSpec> operands_of(const Parsed& parsed) const;
  Cost cost_of(const Parsed& parsed) const;
  void insert(dsl::Kernel kernel, std::string_view text_hash);
  /// The LLVM build, which serves every size and takes longer to make than to run.
  std::shared_ptr<const dsl::CpuKernel> oracle(const Params& problem, const dsl::Kernel& kernel,
                                               const dsl::Binding& binding) const;

  struct Oracles {
    std::mutex mutex;
    std::map<std::string, std::shared_ptr<const dsl::CpuKernel>> kernels;  // by constant parameters
  };
  std::unique_ptr<Oracles> oracles_ = std::make_unique<Oracles>();

  struct Entry {
    RowTraits traits;
    std::string text_hash;  // empty: shipped
    std::optional<std::string> dynamic_axis;
  };
  std::map<std::string, dsl::Kernel, std::less<>> kernels_;
  std::map<std::string, Entry, std::less<>> entries_;  // by the same names
};

}  // namespace quern
