#pragma once
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "templates/gemm/fusion_struct.h"
#include "templates/gemm_wna16/gemm_wna16.h"

// Products with quantised weights and an expression computed of their sums, by the kernels of
// family gemm_wna16. The expression stores its results, whatever the problem's out_dtype.

namespace quern {

/// Why this config cannot run the fused problem, or nothing. Any values are safe. Up to 4 rows are
/// normalised, by slices that hold x in registers.
std::optional<std::string> reject_reason(const GemmWna16Problem& problem, const GemmFusion& fusion,
                                         const GemmWna16Config& config, const Arch& arch);
/// Throws InputError for a config that reject_reason refuses.
KernelSource fused_source(const GemmWna16Problem& problem, const GemmFusion& fusion,
                          const GemmWna16Config& config, const Arch& arch);
/// Throws InputError for a config that reject_reason refuses.
LaunchPlan fused_plan(const GemmWna16Problem& problem, const GemmFusion& fusion,
                      const GemmWna16Config& config, const Arch& arch);
/// The kernel's parameter. `epilogue_args` are the bytes of EpilogueArgs.
std::vector<std::byte> fused_args(const GemmWna16Problem& problem, const GemmFusion& fusion,
                                  const GemmWna16Config& config,
                                  const GemmWna16Addresses& addresses,
                                  std::span<const std::byte> epilogue_args);

}  // namespace quern
