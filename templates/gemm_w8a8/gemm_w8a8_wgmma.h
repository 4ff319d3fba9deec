#pragma once
#include <optional>
#include <string>
#include <vector>

#include "runtime/base/tensor_map_spec.h"
#include "templates/gemm_w8a8/gemm_w8a8.h"

// The host's side of gemm_w8a8/wgmma.cuh. Configs have been checked against the declared space.

namespace quern {

std::optional<std::string> reject_wgmma(const GemmW8A8Problem& problem,
                                        const GemmW8A8Config& config, const Arch& arch);
LaunchPlan plan_wgmma(const GemmW8A8Problem& problem, const GemmW8A8Config& config,
                      const Arch& arch);
/// `types` declares Problem, `tunables` Config.
std::string source_wgmma(const GemmW8A8Problem& problem, const GemmW8A8Config& config,
                         const std::string& types, const std::string& tunables);
std::vector<TensorMapSpec> tensor_maps_wgmma(const GemmW8A8Problem& problem,
                                             const GemmW8A8Config& config);
/// The points that differ, for a space to be pruned and ranked.
void add_wgmma(const GemmW8A8Problem& problem, std::vector<GemmW8A8Config>& points);
/// A few good shapes.
void add_usual_wgmma(const GemmW8A8Problem& problem, std::vector<GemmW8A8Config>& points);
std::optional<std::string> wasteful_wgmma(const GemmW8A8Problem& problem,
                                          const GemmW8A8Config& config, const Arch& arch);
double estimate_wgmma_us(const GemmW8A8Problem& problem, const GemmW8A8Config& config,
                         const Arch& arch);

}  // namespace quern
