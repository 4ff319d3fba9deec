#pragma once
#include <map>
#include <optional>
#include <string>

#include "autotune/epilogue_problem.h"
#include "templates/family.h"
#include "templates/gemm/fusion_struct.h"
#include "templates/gemm_wna16/gemm_wna16.h"

namespace quern {

/// Family "fused_gemm_wna16": products of family "gemm_wna16", whose weights have 4 or 8 bits, with
/// an expression computed of their sums before anything is stored, and with RMSNorm of up to 4 rows
/// of x before it is multiplied. A problem is
///   {"m": 16, "n": 28672, "k": 4096, "dtype": "f16", "bits": 4, "group_size": 128,
///    "zero_points": true, "prologue": "", "epilogue": "swiglu", "Y": "f16"}
/// with the fields of an epilogue and of a prologue as in family "fused_gemm"; in f16, x * gamma /
/// 64 is what is rounded. Operands are x, codes, scales and zeros (with zero_points) of gemm_wna16,
/// gamma[k] with that prologue, then those of the epilogue besides acc; where acc has
/// two parts rows of w are 8 of the first and 8 of the second in turn (gemm/fusion.cuh). Configs
/// are those of family "gemm_wna16" with tma_store 0.
class FusedGemmWna16Family final : public Family {
 public:
  /// Takes the epilogue/*.qk among `files` (templates/embedded.h). Throws CompileError or
  /// InputError for one that is no epilogue.
  explicit FusedGemmWna16Family(const std::map<std::string, std::string, std::less<>>& files);

  std::string_view name() const override { return "fused_gemm_wna16"; }
  std::vector<std::string> dynamic_fields() const override { return {"m"}; }
  std::vector<Tunable> space(const Params& problem) const override;
  RankedSpace ranked_space(const Params& problem, const Arch& arch) const override;
  Params default_config(const Params& problem, const Arch& arch) const override;
  double estimate_us(const Params& problem, const Params& config, const Arch& arch) const override;
  /// The product without epilogue.
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

  GemmEpilogues epilogues_;
};

}  // namespace quern
