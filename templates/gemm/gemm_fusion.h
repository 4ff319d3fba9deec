#pragma once
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "templates/gemm/fusion_struct.h"
#include "templates/gemm/gemm.h"

// Dense products with an expression computed of their sums, and with x normalised.

namespace quern {

struct GemmAddresses {
  std::uint64_t x = 0, w = 0, y = 0, gamma = 0, workspace = 0;
};

/// True if the kernel stores a result that the expression leaves in registers. For the others the
/// expression stores it.
bool stores_y(const GemmConfig& config);

/// Why this config cannot run the fused problem, or nothing. Any values are safe.
std::optional<std::string> reject_reason(const GemmProblem& problem, const GemmFusion& fusion,
                                         const GemmConfig& config, const Arch& arch);
/// These throw InputError for a config that reject_reason refuses.
KernelSource fused_source(const GemmProblem& problem, const GemmFusion& fusion,
                          const GemmConfig& config, const Arch& arch);
LaunchPlan fused_plan(const GemmProblem& problem, const GemmFusion& fusion,
                      const GemmConfig& config, const Arch& arch);
/// The kernel's parameter. `epilogue_args` are the bytes of EpilogueArgs.
std::vector<std::byte> fused_args(const GemmProblem& problem, const GemmFusion& fusion,
                                  const GemmConfig& config, const GemmAddresses& addresses,
                                  std::span<const std::byte> epilogue_args);

}  // namespace quern
