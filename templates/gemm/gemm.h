#pragma once
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "runtime/base/arch.h"
#include "runtime/base/launch_plan.h"
#include "templates/family.h"
#include "templates/params.h"

namespace quern {

/// y[m, n] = x[m, k] · w[n, k]ᵀ with fp32 accumulation; w is stored as checkpoints store a linear
/// layer. m varies by request; n and k are compile-time constants.
struct GemmProblem {
  int m = 1, n = 1, k = 1;
  DType dtype = DType::bf16;      // of x and w: bf16 or f16
  DType out_dtype = DType::bf16;  // of y: dtype or f32

  static constexpr auto fields() {
    using P = GemmProblem;
    return std::tuple{std::pair{"m", &P::m}, std::pair{"n", &P::n}, std::pair{"k", &P::k},
                      std::pair{"dtype", &P::dtype}, std::pair{"out_dtype", &P::out_dtype}};
  }
};

/// Tunables of all kernels of the family; those that a kernel lacks are 0. The device files say
/// what each one does: gemm/gemv.cuh, gemm/mma.cuh, gemm/wgmma.cuh.
struct GemmConfig {
  std::string kernel = "mma";  // gemv, mma, wgmma, cublaslt, reference
  int tile_m = 0;              // gemv: rows of x that the kernel computes; mma, wgmma: of a tile
  int tile_n = 0, tile_k = 0;  // mma, wgmma
  int warps_m = 0;             // mma
  int warps_n = 0;             // gemv: row groups of a block; mma
  int warps_k = 0;             // gemv: warps that share a row
  int rows_per_warp = 0;       // gemv
  int unroll = 0;              // gemv: accesses per row and step
  int stages = 0;              // depth of the ring of weights (gemv) or tiles (mma)
  bool async_copy = false;     // gemv: the ring lies in shared memory, else in registers
  int blocks_per_sm = 0;       // gemv: resident blocks
  int split_k = 0;             // mma, wgmma: blocks that share an output tile
  int stream_k = 0;            // wgmma: 1: all blocks share what would be an incomplete last round
  int group_m = 0;             // mma, wgmma: tiles along m that are visited together
  int cluster = 0;             // wgmma: blocks that share tiles of w
  int cluster_k = 0;           // wgmma: blocks of a cluster that share an output tile
  bool pingpong = false;       // wgmma: each warpgroup has tiles of its own, else half of each
  int algorithm = 0;           // cublaslt: rank in the library's own order

  static constexpr auto fields() {
    using C = GemmConfig;
    return std::tuple{
        std::pair{"kernel", &C::kernel},         std::pair{"tile_m", &C::tile_m},
        std::pair{"tile_n", &C::tile_n},         std::pair{"tile_k", &C::tile_k},
        std::pair{"warps_m", &C::warps_m},       std::pair{"warps_n", &C::warps_n},
        std::pair{"warps_k", &C::warps_k},       std::pair{"rows_per_warp", &C::rows_per_warp},
        std::pair{"unroll", &C::unroll},         std::pair{"stages", &C::stages},
        std::pair{"async_copy", &C::async_copy}, std::pair{"blocks_per_sm", &C::blocks_per_sm},
        std::pair{"split_k", &C::split_k},       std::pair{"stream_k", &C::stream_k},
        std::pair{"group_m", &C::group_m},       std::pair{"cluster", &C::cluster},
        std::pair{"cluster_k", &C::cluster_k},   std::pair{"pingpong", &C::pingpong},
        std::pair{"algorithm", &C::algorithm}};
  }
  bool operator==(const GemmConfig&) const = default;
};

/// Why no config can serve the problem, or nothing.
std::optional<std::string> unsupported(const GemmProblem& problem, const Arch& arch);
/// Why this config cannot run this problem on this architecture, or nothing. Any values are safe.
std::optional<std::string> reject_reason(const GemmProblem& problem, const GemmConfig& config,
                                         const Arch& arch);
/// The whole space, pruned and ranked (gemm_space.cpp).
RankedSpace ranked_space(const GemmProblem& problem, const Arch& arch);
/// The best of a few dozen by the model.
GemmConfig default_config(const GemmProblem& problem, const Arch& arch);
/// The analytic model (gemm_estimate.cpp), for a legal config.
double estimate_us(const GemmProblem& problem, const GemmConfig& config, const Arch& arch);
LaunchPlan plan(const GemmProblem& problem, const GemmConfig& config, const Arch& arch);
/// Registers that a thread of the config is expected to need, leaning high.
int estimated_registers(const GemmProblem& problem, const GemmConfig& config);

/// Family "gemm": operands x[m, k], w[n, k], y[m, n].
class GemmFamily final : public Family {
 public:
  std::string_view name() const override { return "gemm"; }
  std::vector<std::string> dynamic_fields() const override { return {"m"}; }
  std::vector<Tunable> space(const Params& problem) const override;
  RankedSpace ranked_space(const Params& problem, const Arch& arch) const override;
  Params default_config(const Params& problem, const Arch& arch) const override;
  double estimate_us(const Params& problem, const Params& config, const Arch& arch) const override;
  std::optional<std::string> unsupported(const Params& problem, const Arch& arch) const override;
  std::optional<std::string> reject_reason(const Params& problem, const Params& config,
                                           const Arch& arch) const override;
  Params reference_config(const Params& problem) const override;
  bool is_library(const Params& config) const override;
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
};

}  // namespace quern
