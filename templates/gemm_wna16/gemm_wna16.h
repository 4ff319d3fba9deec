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

/// y[m, n] = x[m, k] · w[n, k]ᵀ with weights of 4 or 8 bits and activations of 16:
/// w[n, k] = (code[n, k] - zero[n, k / group_size]) * scale[n, k / group_size], fp32 accumulation.
/// Weights are in kernel order (gemm_wna16_args.h), one for all kernels of the family. m varies by
/// request; the rest are compile-time constants. n is a multiple of 16, k of 64 and of group_size.
struct GemmWna16Problem {
  int m = 1, n = 16, k = 64;
  DType dtype = DType::bf16;      // of x and scales: bf16 or f16
  DType out_dtype = DType::bf16;  // of y: dtype or f32
  int bits = 4;                   // of a code: 4 or 8
  int group_size = 64;            // columns that share a scale: 32, 64, 128, or k (per channel)
  bool zero_points = false;       // zero is an operand, else 2^(bits - 1)

  static constexpr auto fields() {
    using P = GemmWna16Problem;
    return std::tuple{std::pair{"m", &P::m},
                      std::pair{"n", &P::n},
                      std::pair{"k", &P::k},
                      std::pair{"dtype", &P::dtype},
                      std::pair{"out_dtype", &P::out_dtype},
                      std::pair{"bits", &P::bits},
                      std::pair{"group_size", &P::group_size},
                      std::pair{"zero_points", &P::zero_points}};
  }
};

/// Tunables of all kernels of the family; those that a kernel lacks are 0. The device files say
/// what each one does: gemm_wna16/stream.cuh, slices.cuh, mma.cuh, wgmma.cuh.
struct GemmWna16Config {
  std::string kernel = "mma";  // stream, slices, mma, wgmma, reference
  int tile_m = 0;              // tokens of a block
  int tile_n = 0;              // mma, wgmma: rows of w of a block
  int warps_n = 0;             // stream, mma, wgmma: warps that share a block's rows of w
  int warps_k = 0;             // stream, slices; wgmma: warpgroups that share a stage's k
  int units = 0;               // of 512 bytes, that a row tile advances at a stage
  int stages = 0;              // depth of the ring
  int blocks_per_sm = 0;       // stream, slices: resident blocks
  int split_k = 0;             // blocks that share an output tile
  int stream_k = 0;            // wgmma: 1: all blocks share what would be an incomplete last round
  // Blocks of a cluster: wgmma: along m, which share w; along n, which share x; slices, wgmma:
  // along k, which add up one output tile
  int cluster_m = 0, cluster_n = 0, cluster_k = 0;
  int group_m = 0;    // wgmma: tiles of a cluster along m that are visited together
  int tma_store = 0;  // wgmma: 1: y leaves through shared memory, 0: from registers

  static constexpr auto fields() {
    using C = GemmWna16Config;
    return std::tuple{
        std::pair{"kernel", &C::kernel},       std::pair{"tile_m", &C::tile_m},
        std::pair{"tile_n", &C::tile_n},       std::pair{"warps_n", &C::warps_n},
        std::pair{"warps_k", &C::warps_k},     std::pair{"units", &C::units},
        std::pair{"stages", &C::stages},       std::pair{"blocks_per_sm", &C::blocks_per_sm},
        std::pair{"split_k", &C::split_k},     std::pair{"stream_k", &C::stream_k},
        std::pair{"cluster_m", &C::cluster_m}, std::pair{"cluster_n", &C::cluster_n},
        std::pair{"cluster_k", &C::cluster_k}, std::pair{"group_m", &C::group_m},
        std::pair{"tma_store", &C::tma_store}};
  }
  bool operator==(const GemmWna16Config&) const = default;
};

/// Why no config can serve the problem, or nothing.
std::optional<std::string> unsupported(const GemmWna16Problem& problem, const Arch& arch);
/// Why this config cannot run this problem on this architecture, or nothing. Any values are safe.
std::optional<std::string> reject_reason(const GemmWna16Problem& problem,
                                         const GemmWna16Config& config, const Arch& arch);
/// The whole space, pruned and ranked (gemm_wna16_space.cpp).
RankedSpace ranked_space(const GemmWna16Problem& problem, const Arch& arch);
/// The best of the space by the model.
GemmWna16Config default_config(const GemmWna16Problem& problem, const Arch& arch);
/// The analytic model (gemm_wna16_estimate.cpp), for a legal config.
double estimate_us(const GemmWna16Problem& problem, const GemmWna16Config& config,
                   const Arch& arch);
LaunchPlan plan(const GemmWna16Problem& problem, const GemmWna16Config& config, const Arch& arch);
/// CUDA source of one config. `fusion`, if any, declares struct Fusion (gemm/fusion.cuh), and the
/// kernel's parameter is Fusion::Args. Throws InputError for what reject_reason() refuses.
KernelSource source(const GemmWna16Problem& problem, const GemmWna16Config& config,
                    const Arch& arch, const std::string& fusion = {});
/// Name of a config's kernel.
std::string entry_of(const GemmWna16Config& config, bool fused);
/// Where a problem's operands lie on the device; those that a kernel does not read may be null.
struct GemmWna16Addresses {
  std::uint64_t x = 0, codes = 0, scales = 0, zeros = 0, y = 0, workspace = 0;
  std::uint64_t gamma = 0;  // where a fusion normalises x
};
/// The parameter of a config's kernel without fusion.
std::vector<std::byte> pack_args(const GemmWna16Problem& problem, const GemmWna16Config& config,
                                 const GemmWna16Addresses& addresses);
/// Registers that a thread of the config is expected to need, leaning high.
int estimated_registers(const GemmWna16Problem& problem, const GemmWna16Config& config);

/// Family "gemm_wna16": operands x[m, k], codes[n / 16, k / unit columns, 512] (u8),
/// scales[n / 16, k / group_size, 8, 2], zeros like them (u8; only with zero_points), y[m, n].
class GemmWna16Family final : public Family {
 public:
  std::string_view name() const override { return "gemm_wna16"; }
  std::vector<std::string> dynamic_fields() const override { return {"m"}; }
  std::vector<Tunable> space(const Params& problem) const override;
  RankedSpace ranked_space(const Params& problem, const Arch& arch) const override;
  Params default_config(const Params& problem, const Arch& arch) const override;
  double estimate_us(const Params& problem, const Params& config, const Arch& arch) const override;
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
};

}  // namespace quern
