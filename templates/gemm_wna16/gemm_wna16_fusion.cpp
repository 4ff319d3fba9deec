#include "templates/gemm_wna16/gemm_wna16_fusion.h"

#include "templates/common/tunables.h"
#include "templates/gemm_wna16/gemm_wna16_args.h"
#include "templates/gemm_wna16/gemm_wna16_slices.h"

namespace quern {
namespace {

ArgsStruct args_struct(const GemmWna16Config& c) {
  if (c.kernel == "wgmma")
    return {"GemmWna16TmaArgs", sizeof(GemmWna16TmaArgs), alignof(GemmWna16TmaArgs)};
  return {"GemmWna16Args", sizeof(GemmWna16Args), alignof(GemmWna16Args)};
}

/// What a normalised x takes of shared memory beside the rest.
int extra_smem_bytes(const GemmFusion& fusion, const GemmWna16Config& c) {
  return fusion.norm_eps && c.kernel == "slices"
             ? wna16_slices_norm_bytes(c.tile_m, c.warps_k, c.cluster_k)
             : 0;
}

std::optional<std::string> cannot_normalise(const GemmWna16Problem& p, const GemmFusion& fusion,
                                            const GemmWna16Config& c, const Arch& arch) {
  if (p.m > kWna16NormalisedRows)
    return fmt::format("{} rows are more than are normalised, {}", p.m, kWna16NormalisedRows);
  if (c.kernel == "reference") return std::nullopt;
  if (c.kernel != "slices") return fmt::format("{} does not normalise x", c.kernel);
  if (c.tile_m > kWna16NormalisedRows)
    return fmt::format("tile_m = {} rows are more than are normalised, {}", c.tile_m,
                       kWna16NormalisedRows);
  if (!slices_hold_x(p, c)) return "an x that is staged is not normalised";
  const int smem_bytes =
      static_cast<int>(plan(p, c, arch).smem_bytes) + extra_smem_bytes(fusion, c);
  return too_much_smem(smem_bytes, c.blocks_per_sm, arch);
}

}  // namespace

std::optional<std::string> reject_reason(const GemmWna16Problem& p, const GemmFusion& fusion,
                                         const GemmWna16Config& c, const Arch& arch) {
  if (auto why = reject_reason(p, c, arch)) return why;
  if (fusion.leaves_y) return "products with quantised weights store nothing that is left to them";
  if (fusion.norm_eps)
    if (auto why = cannot_normalise(p, fusion, c, arch)) return why;
  if (fusion.parts != 1 && fusion.parts != 2)
    return fmt::format("an element is computed from one sum or from two, not from {}",
                       fusion.parts);
  if (c.kernel == "slices" && c.tile_m == 16 && c.blocks_per_sm > 1 && c.cluster_k > 2)
    return fmt::format(
        "beside the sums of {} blocks, {} on an SM have no registers left for an expression",
        c.cluster_k, c.blocks_per_sm);
  if (c.tma_store != 0) return "an expression stores its results itself, without TMA";
  return std::nullopt;
}

KernelSource fused_source(const GemmWna16Problem& p, const GemmFusion& fusion,
                          const GemmWna16Config& c, const Arch& arch) {
  if (const auto why = reject_reason(p, fusion, c, arch)) throw InputError(*why);
  return source(p, c, arch, fusion.text + fusion_struct(fusion, args_struct(c), p.dtype));
}

LaunchPlan fused_plan(const GemmWna16Problem& p, const GemmFusion& fusion, const GemmWna16Config& c,
                      const Arch& arch) {
  if (const auto why = reject_reason(p, fusion, c, arch)) throw InputError(*why);
  LaunchPlan out = plan(p, c, arch);
  out.smem_bytes += static_cast<unsigned>(extra_smem_bytes(fusion, c));
  return out;
}

std::vector<std::byte> fused_args(const GemmWna16Problem& p, const GemmFusion& fusion,
                                  const GemmWna16Config& c, const GemmWna16Addresses& addresses,
                                  std::span<const std::byte> epilogue_args) {
  return with_fusion(pack_args(p, c, addresses), fusion, args_struct(c), addresses.gamma,
                     epilogue_args);
}

}  // namespace quern
