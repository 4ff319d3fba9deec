#pragma once
#include <optional>
#include <string>
#include <vector>

#include "templates/gemm_wna16/gemm_wna16.h"

// The host's side of gemm_wna16/slices.cuh. Configs have been checked against the declared space.

namespace quern {

std::optional<std::string> reject_slices(const GemmWna16Problem& problem,
                                         const GemmWna16Config& config, const Arch& arch);
LaunchPlan plan_slices(const GemmWna16Problem& problem, const GemmWna16Config& config,
                       const Arch& arch);
/// `types` declares Problem, Config and, where the sums are `fused`, Fusion.
std::string source_slices(const GemmWna16Problem& problem, const GemmWna16Config& config,
                          const std::string& types, bool fused);
/// The points that differ, for a space to be pruned and ranked.
void add_slices(const GemmWna16Problem& problem, std::vector<GemmWna16Config>& points);
std::optional<std::string> wasteful_slices(const GemmWna16Problem& problem,
                                           const GemmWna16Config& config, const Arch& arch);
double estimate_slices_us(const GemmWna16Problem& problem, const GemmWna16Config& config,
                          const Arch& arch);
/// Whether x is held in registers, else it is staged in shared memory.
bool slices_hold_x(const GemmWna16Problem& problem, const GemmWna16Config& config);
int slices_registers(const GemmWna16Problem& problem, const GemmWna16Config& config);

}  // namespace quern
