#pragma once
#include <optional>
#include <string>
#include <vector>

#include "runtime/base/tensor_map_spec.h"
#include "templates/gemm_wna16/gemm_wna16.h"

// The host's side of gemm_wna16/wgmma.cuh. Configs have been checked against the declared space.

namespace quern {

std::optional<std::string> reject_wgmma(const GemmWna16Problem& problem,
                                        const GemmWna16Config& config, const Arch& arch);
LaunchPlan plan_wgmma(const GemmWna16Problem& problem, const GemmWna16Config& config,
                      const Arch& arch);
/// `types` declares Problem, Config and, where the sums are `fused`, Fusion.
std::string source_wgmma(const GemmWna16Problem& problem, const GemmWna16Config& config,
                         const std::string& types, bool fused);
std::vector<TensorMapSpec> tensor_maps_wgmma(const GemmWna16Problem& problem,
                                             const GemmWna16Config& config);
/// The points that differ, for a space to be pruned and ranked.
void add_wgmma(const GemmWna16Problem& problem, std::vector<GemmWna16Config>& points);
std::optional<std::string> wasteful_wgmma(const GemmWna16Problem& problem,
                                          const GemmWna16Config& config, const Arch& arch);
double estimate_wgmma_us(const GemmWna16Problem& problem, const GemmWna16Config& config,
                         const Arch& arch);

}  // namespace quern
