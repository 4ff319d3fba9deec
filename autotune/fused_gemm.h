#pragma once
#include <map>
#include <optional>
#include <string>

#include "autotune/epilogue_problem.h"
#include "templates/family.h"
#include "templates/gemm/gemm_fusion.h"

namespace quern {

/// Family "fused_gemm": products of family "gemm" with an expression computed of their sums before
/// anything is stored, and with RMSNorm of x before it is multiplied. A problem is
///   {"m": 16, "n": 28672, "k": 4096, "dtype": "bf16", "prologue": "", "epilogue": "swiglu",
///    "Y": "bf16"}
///   epilogue  a kernel of templates/epilogue; each of its dtype parameters and scalars is a field
///   prologue  "" or "rmsnorm", which takes the fields "eps" and "stream", the dtype of x (dtype or
///             f32): x[m, k] stands for x * gamma * rsqrt(mean over k of x^2 + eps), where x * gamma
///             is rounded to dtype and the rest is applied to the sums; m <= 16
/// Operands are x[m, k], w[n, k], gamma[k] with that prologue, and those of the epilogue besides
/// acc, in order of declaration, cols being n. Where acc has two parts (swiglu: gate and up), cols
/// is n / 2 and w holds 8 rows of the first part and 8 rows of the second in turn
/// (gemm/fusion.cuh says why). Configs are those of family "gemm", without cuBLASLt.
class FusedGemmFamily final : public Family {
 public:
  /// Takes the epilogue/*.qk among `files` (templates/embedded.h). Throws CompileError or
  /// InputError for one that is no epilogue.
  explicit FusedGemmFamily(const std::map<std::string, std::string, std::less<>>& files);

  std::string_view name() const override { return "fused_gemm"; }
  std::vector<std::string> dynamic_fields() const override { return {"m"}; }
  std::vector<Tunable> space(const Params& problem) const override;
  RankedSpace ranked_space(const Params& problem, const Arch& arch) const override;
  Params default_config(const Params& problem, const Arch& arch) const override;
  double estimate_us(const Params& problem, const Params& config, const Arch& arch) const override;
  /// The product without prologue and epilogue.
  std::optional<FamilyProblem> like(const Params& problem) const override;
  std::optional<std::string> unsupported(const Params& problem, const Arch& arch) const override;
  std::optional<std::string> reject_reason(const Params& problem, const Params& config,
                                           const Arch& arch) const override;
  Params reference_config(const Params& problem) const override;
  KernelSource source(const Params& problem, const Params& config, const Arch& arch) const override;
  LaunchPlan plan(const Params& problem, const Params& config, const Arch& arch) const override;
  std::vector<OperandSpec> operands(const Params& problem) const override;
  std::vector<std::byte> pack_args(const Params& problem, const Params& config,
                                   std::span<const std::uint64_t> addresses,
                                   std::uint64_t workspace) const override;
  std::vector<TensorMapSpec> tensor_maps(const Params& problem,
                                         const Params& config) const override;
  Cost cost(const Params& problem) const override;
  Tolerance tolerance(const Params& problem, std::size_t index) const override;

  /// The epilogues by name.
  const GemmEpilogues& epilogues() const { return epilogues_; }

 private:
  struct Parsed;
  Parsed parse(const Params& problem) const;
  /// Throws InputError for a problem that no kernel serves.
  Parsed served(const Params& problem) const;
  std::optional<std::string> reject(const Parsed& parsed, const GemmConfig& config,
                                    const Arch& arch) const;

  GemmEpilogues epilogues_;
};

}  // namespace quern
