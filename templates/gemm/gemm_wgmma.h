#pragma once
#include <optional>
#include <string>
#include <vector>

#include "runtime/base/tensor_map_spec.h"
#include "templates/gemm/gemm.h"

// The host's side of gemm/wgmma.cuh. Configs have been checked against the declared space.

namespace quern {

std::optional<std::string> reject_wgmma(const GemmProblem& problem, const GemmConfig& config,
                                        const Arch& arch);
LaunchPlan plan_wgmma(const GemmProblem& problem, const GemmConfig& config, const Arch& arch);
/// `types` declares Problem, `tunables` Config.
std::string source_wgmma(const GemmProblem& problem, const GemmConfig& config,
                         const std::string& types, const std::string& tunables);
std::vector<TensorMapSpec> tensor_maps_wgmma(const GemmProblem& problem, const GemmConfig& config);
/// The points that differ, for a space to be pruned and ranked.
void add_wgmma(const GemmProblem& problem, std::vector<GemmConfig>& points);
/// A few good shapes.
void add_usual_wgmma(std::vector<GemmConfig>& points);
std::optional<std::string> wasteful_wgmma(const GemmProblem& problem, const GemmConfig& config,
                                          const Arch& arch);
double estimate_wgmma_us(const GemmProblem& problem, const GemmConfig& config, const Arch& arch);

}  // namespace quern
