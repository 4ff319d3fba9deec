#include "templates/gemm_wna16/gemm_wna16_fusion.h"

#include "templates/gemm_wna16/gemm_wna16_args.h"

namespace quern {
namespace {

ArgsStruct args_struct(const GemmWna16Config& c) {
  if (c.kernel == "wgmma")
    return {"GemmWna16TmaArgs", sizeof(GemmWna16TmaArgs), alignof(GemmWna16TmaArgs)};
  return {"GemmWna16Args", sizeof(GemmWna16Args), alignof(GemmWna16Args)};
}

}  // namespace

std::optional<std::string> reject_reason(const GemmWna16Problem& p, const GemmFusion& fusion,
                                         const GemmWna16Config& c, const Arch& arch) {
  if (auto why = reject_reason(p, c, arch)) return why;
  if (fusion.norm_eps || fusion.leaves_y)
    return "products with quantised weights neither normalise x nor store what is left to them";
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

std::vector<std::byte> fused_args(const GemmWna16Problem& p, const GemmFusion& fusion,
                                  const GemmWna16Config& c, const GemmWna16Addresses& addresses,
                                  std::span<const std::byte> epilogue_args) {
  return with_fusion(pack_args(p, c, addresses), fusion, args_struct(c), 0, epilogue_args);
}

}  // namespace quern
