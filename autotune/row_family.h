#pragma once
#include <map>
#include <string>

#include "compiler/dsl.h"
#include "templates/family.h"
#include "templates/row/row.h"

namespace quern {

/// Family "row": the kernels of every .qk file as problems to tune. A problem names its kernel and
/// gives each axis, each dtype parameter and each scalar a value:
///   {"kernel": "add_rmsnorm", "rows": 16, "cols": 4096, "T": "bf16", "R": "bf16", "eps": 1e-5}
/// Axis `rows` may vary by request; all others are compile-time constants. Operands are those of
/// the kernel, in order of declaration. The oracle is the same kernel built by LLVM for the CPU.
class RowFamily final : public Family {
 public:
  /// Takes every .qk file among `files` (templates/embedded.h). Throws CompileError for a file that
  /// does not compile, InputError if two kernels share a name.
  explicit RowFamily(const std::map<std::string, std::string, std::less<>>& files);

  std::string_view name() const override { return "row"; }
  std::vector<std::string> dynamic_fields() const override { return {"rows"}; }
  std::vector<Tunable> space(const Params& problem) const override;
  std::vector<Params> candidates(const Params& problem, const Arch& arch) const override;
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

 private:
  struct Parsed;
  Parsed parse(const Params& problem) const;

  std::map<std::string, dsl::Kernel, std::less<>> kernels_;
};

}  // namespace quern
