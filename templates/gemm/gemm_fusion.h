#pragma once
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "templates/gemm/gemm.h"

// Dense products with an expression computed of their sums before anything is stored, and with
// RMSNorm of few rows of x before they are multiplied. The expression comes as text, from whoever
// compiles it (autotune/fused_gemm.h); what it may expect of the kernels is in gemm/fusion.cuh.

namespace quern {

struct GemmFusion {
  /// CUDA source that declares, outside of any namespace,
  ///   struct EpilogueArgs {...};
  ///   template <int N> void epilogue(const EpilogueArgs&, long long row, long long column,
  ///                                  const float (&sum)[N * parts] [, float (&y)[N]]);
  ///   void epilogue_prefetch(const EpilogueArgs&, int column, int columns, int thread);
  /// y where `leaves_y`: the result in fp32, which the kernel rounds to problem.out_dtype and
  /// stores at GemmAddresses::y, [m, n / parts].
  std::string text;
  std::size_t args_bytes = 0;      // of EpilogueArgs, a multiple of 8
  int parts = 1;                   // 2: w holds groups of 8 rows of each part in turn
  bool leaves_y = false;           // wgmma alone
  std::optional<double> norm_eps;  // normalises x, with the weights GemmAddresses::gamma, [k]
  bool f32_stream = false;         // what is normalised is f32, else of the problem's dtype
};

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
