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

/// y[m, n] = scales * (x[m, k] · w[n, k]ᵀ) with weights and activations of 8 bits; w is stored as
/// checkpoints store a linear layer. m varies by request; n and k are compile-time constants.
///
/// i8: exact s32 sums, so k is below 2^17. e4m3: fp32 sums. Scales are f32. Rank-1 ones are applied
/// to the sum, y = out_dtype(f32(sum) * (x_scale * w_scale)); with blocks, sums of 128 of k are
/// scaled and added up in fp32.
struct GemmW8A8Problem {
  int m = 1, n = 1, k = 1;
  DType dtype = DType::i8;        // of x and w: i8 or e4m3
  DType out_dtype = DType::bf16;  // of y: bf16, f16 or f32
  std::string x_scale = "token";  // tensor: [1]; token: [m]; group: [m, ceil(k / 128)]
  std::string w_scale =
      "channel";  // tensor: [1]; channel: [n]; block: [ceil(n / 128), ceil(k / 128)]

  static constexpr auto fields() {
    using P = GemmW8A8Problem;
    return std::tuple{std::pair{"m", &P::m},
                      std::pair{"n", &P::n},
                      std::pair{"k", &P::k},
                      std::pair{"dtype", &P::dtype},
                      std::pair{"out_dtype", &P::out_dtype},
                      std::pair{"x_scale", &P::x_scale},
                      std::pair{"w_scale", &P::w_scale}};
  }
  /// Scales change along k.
  bool has_block_scales() const { return w_scale == "block"; }
};

/// Tunables of all kernels of the family; those that a kernel lacks are 0. The device files say
/// what each one does: gemm_w8a8/few_rows.cuh, gemm_w8a8/mma.cuh, gemm_w8a8/wgmma.cuh.
struct GemmW8A8Config {
  std::string kernel = "mma";  // few_rows, mma, wgmma, cublaslt, reference
  int tile_m = 0;  // few_rows: rows of x that are computed; mma, wgmma: the block's tile
  int tile_n = 0, tile_k = 0;  // mma, wgmma
  int warps_m = 0;             // mma
  int warps_n = 0;             // few_rows: row groups of a block; mma
  int warps_k = 0;             // few_rows: warps that share a row group
  int unroll = 0;              // few_rows: chunks of 64 of k in a step
  int stages = 0;              // depth of the ring of weights (few_rows) or tiles (mma, wgmma)
  int blocks_per_sm = 0;       // few_rows: resident blocks
  int split_k = 0;             // mma: blocks that share an output tile
  int group_m = 0;             // mma, wgmma: tiles along m that are visited together
  bool pingpong = false;       // wgmma: a warpgroup has a tile of its own
  int cluster = 0;             // wgmma: blocks along m that share tiles of w
  int cluster_k = 0;           // wgmma: blocks of a cluster that share an output tile
  int promote = 0;             // wgmma: 1: sums of 128 of k are added up in fp32
  int algorithm = 0;           // cublaslt: rank in the library's own order

  static constexpr auto fields() {
    using C = GemmW8A8Config;
    return std::tuple{
        std::pair{"kernel", &C::kernel},       std::pair{"tile_m", &C::tile_m},
        std::pair{"tile_n", &C::tile_n},       std::pair{"tile_k", &C::tile_k},
        std::pair{"warps_m", &C::warps_m},     std::pair{"warps_n", &C::warps_n},
        std::pair{"warps_k", &C::warps_k},     std::pair{"unroll", &C::unroll},
        std::pair{"stages", &C::stages},       std::pair{"blocks_per_sm", &C::blocks_per_sm},
        std::pair{"split_k", &C::split_k},     std::pair{"group_m", &C::group_m},
        std::pair{"pingpong", &C::pingpong},   std::pair{"cluster", &C::cluster},
        std::pair{"cluster_k", &C::cluster_k}, std::pair{"promote", &C::promote},
        std::pair{"algorithm", &C::algorithm}};
  }
  bool operator==(const GemmW8A8Config&) const = default;
};

/// Why no config can serve the problem on this architecture, or nothing.
std::optional<std::string> unsupported(const GemmW8A8Problem& problem, const Arch& arch);
/// Why this config cannot run this problem on this architecture, or nothing. Any values are safe.
std::optional<std::string> reject_reason(const GemmW8A8Problem& problem,
                                         const GemmW8A8Config& config, const Arch& arch);
/// The whole space, pruned and ranked (gemm_w8a8_space.cpp).
RankedSpace ranked_space(const GemmW8A8Problem& problem, const Arch& arch);
/// The best of a few dozen by the model.
GemmW8A8Config default_config(const GemmW8A8Problem& problem, const Arch& arch);
/// The analytic model (gemm_w8a8_estimate.cpp), for a legal config.
double estimate_us(const GemmW8A8Problem& problem, const GemmW8A8Config& config, const Arch& arch);
LaunchPlan plan(const GemmW8A8Problem& problem, const GemmW8A8Config& config, const Arch& arch);
/// Registers that a thread of the config is expected to need, leaning high.
int estimated_registers(const GemmW8A8Problem& problem, const GemmW8A8Config& config,
                        const Arch& arch);

/// Family "gemm_w8a8": operands x[m, k], w[n, k], x_scales, w_scales, y[m, n].
class GemmW8A8Family final : public Family {
 public:
  std::string_view name() const override { return "gemm_w8a8"; }
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
  LibraryMatmul library_matmul(const Params& problem, const Params& config) const override;
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
