#include "templates/gemm/gemm_fusion.h"

#include <utility>

#include "templates/common/stub.h"
#include "templates/common/wgmma.h"
#include "templates/gemm/gemm_args.h"
#include "templates/gemm/gemm_wgmma.h"

namespace quern {
namespace {

using Reason = std::optional<std::string>;

/// What a normalised x takes of shared memory beside x itself (gemv: each warp's sums of squares),
/// and of the workspace (mma: what each thread of a split block has of them).
int extra_smem_bytes(const GemmFusion& fusion, const GemmConfig& c) {
  return fusion.norm_eps && c.kernel == "gemv" ? gemv_squares_bytes(c.tile_m, c.warps_n * c.warps_k)
                                               : 0;
}

std::size_t extra_workspace_bytes(const GemmProblem& p, const GemmFusion& fusion,
                                  const GemmConfig& c) {
  if (!fusion.norm_eps || c.kernel != "mma" || c.split_k == 1) return 0;
  const int tiles = (p.n + c.tile_n - 1) / c.tile_n;  // one row of them
  return static_cast<std::size_t>(tiles * c.split_k * c.warps_m * c.warps_n * 32) * 16;
}

void refuse(const GemmProblem& p, const GemmFusion& fusion, const GemmConfig& c, const Arch& arch) {
  if (const auto why = reject_reason(p, fusion, c, arch)) throw InputError(*why);
}

ArgsStruct args_struct(const GemmConfig& c) {
  if (c.kernel == "wgmma") return {"GemmTmaArgs", sizeof(GemmTmaArgs), alignof(GemmTmaArgs)};
  return {"GemmArgs", sizeof(GemmArgs), alignof(GemmArgs)};
}

}  // namespace

bool stores_y(const GemmConfig& config) { return config.kernel == "wgmma"; }

Reason reject_reason(const GemmProblem& p, const GemmFusion& fusion, const GemmConfig& c,
                     const Arch& arch) {
  if (auto why = reject_reason(p, c, arch)) return why;
  if (c.kernel == "cublaslt") return "cuBLASLt computes no expressions";
  if (fusion.leaves_y && !stores_y(c))
    return fmt::format("{} leaves it to the expression to store the result", c.kernel);
  if (fusion.parts != 1 && fusion.parts != 2)
    return fmt::format("an element is computed from one sum or from two, not from {}",
                       fusion.parts);
  if (fusion.parts == 2 && p.n % 16 != 0)
    return fmt::format(
        "w holds 8 rows of each of two parts in turn, so n is a multiple of 16, not {}", p.n);
  if (fusion.parts == 2 && c.kernel == "wgmma" && c.tile_n % (32 * c.cluster_k) != 0)
    return fmt::format("{} columns in {} shares are not 16 of each part", c.tile_n, c.cluster_k);
  if (fusion.parts == 2 && c.kernel == "gemv" && c.rows_per_warp < 2)
    return "rows_per_warp = 1 leaves a warp with one part of an element";
  if (fusion.norm_eps) {
    if (p.dtype != DType::bf16)
      return fmt::format("x * gamma may be larger than {} can be: x is normalised in bf16 alone",
                         name(p.dtype));
    if (c.kernel == "wgmma") return "wgmma does not normalise x";
    if (p.m > 16) return fmt::format("{} rows are more than are normalised, 16", p.m);
    if (c.kernel == "mma" && c.tile_m != 16)
      return fmt::format("x is normalised in tiles of 16 rows, not {}", c.tile_m);
    if (c.kernel == "mma" && fusion.f32_stream)
      return "mma copies x in the type that it multiplies: a stream in f32 is for gemv";
    if (c.kernel == "mma" && p.k % 2 != 0) return "gamma is read in pairs: k is even";
    const int smem_bytes =
        static_cast<int>(plan(p, c, arch).smem_bytes) + extra_smem_bytes(fusion, c);
    constexpr int kReserved = 1024;  // of each block, by the system
    if (smem_bytes > arch.smem_per_block_bytes ||
        c.blocks_per_sm * (smem_bytes + kReserved) > arch.smem_per_sm_bytes)
      return fmt::format("{} blocks of {} bytes of shared memory do not fit an SM of {}",
                         c.blocks_per_sm, smem_bytes, arch.name());
  }
  return std::nullopt;
}

KernelSource fused_source(const GemmProblem& p, const GemmFusion& fusion, const GemmConfig& c,
                          const Arch& arch) {
  refuse(p, fusion, c, arch);
  const bool wgmma = c.kernel == "wgmma", reference = c.kernel == "reference";
  const int threads = static_cast<int>(plan(p, c, arch).block[0]);
  const std::string entry = fmt::format("gemm_{}_fused", c.kernel);
  std::string out = fmt::format(
      "#include \"gemm/{}.cuh\"\n\n{}\n"
      "struct Problem {{\n  static constexpr int n = {};\n  static constexpr int k = {};\n"
      "  using Input = {};\n  using Output = {};\n}};\n",
      c.kernel, fusion.text, p.n, p.k, device_type(p.dtype), device_type(p.out_dtype));
  if (!reference) out += config_struct(to_params(c));
  if (wgmma) out += wgmma_product("Product", p.dtype, c.tile_n);
  out += fusion_struct(fusion, args_struct(c), p.dtype);
  out +=
      fmt::format("\nextern \"C\" __global__ void __launch_bounds__({}{})\n", threads,
                  reference ? "" : fmt::format(", {}", c.kernel == "gemv" ? c.blocks_per_sm : 1));
  if (reference)
    out += fmt::format(
        "{}(const Fusion::Args args) {{\n"
        "  quern::gemm_reference<Problem, Fusion>(args);\n}}\n",
        entry);
  else
    out += fmt::format(
        "{}(const {}Fusion::Args args) {{\n"
        "  extern __shared__ __align__(128) unsigned char smem[];\n"
        "  quern::{}Fusion>::run(args, smem);\n}}\n",
        entry, wgmma ? "__grid_constant__ " : "",
        wgmma                ? "WgmmaGemm<Problem, Config, Product, "
        : c.kernel == "gemv" ? "Gemv<Problem, Config, "
                             : "MmaGemm<Problem, Config, ");
  return {std::move(out), entry, {}};
}

LaunchPlan fused_plan(const GemmProblem& p, const GemmFusion& fusion, const GemmConfig& c,
                      const Arch& arch) {
  refuse(p, fusion, c, arch);
  // A block of the reference has as many elements of the result, whatever those are computed from.
  GemmProblem shape = p;
  if (c.kernel == "reference") shape.n /= fusion.parts;
  LaunchPlan out = plan(shape, c, arch);
  out.workspace_bytes += extra_workspace_bytes(p, fusion, c);
  out.smem_bytes += static_cast<unsigned>(extra_smem_bytes(fusion, c));
  return out;
}

std::vector<std::byte> fused_args(const GemmProblem& p, const GemmFusion& fusion,
                                  const GemmConfig& c, const GemmAddresses& addresses,
                                  std::span<const std::byte> epilogue_args) {
  std::vector<std::byte> out;
  if (c.kernel == "wgmma") {
    GemmTmaArgs args{};
    args.y = device_pointer(addresses.y);
    args.workspace = device_pointer(addresses.workspace);
    args.m = p.m;
    out = args_bytes(args);
  } else {
    GemmArgs args{};
    args.x = device_pointer(addresses.x);
    args.w = device_pointer(addresses.w);
    args.y = device_pointer(addresses.y);
    args.workspace = device_pointer(addresses.workspace);
    args.m = p.m;
    out = args_bytes(args);
  }
  return with_fusion(std::move(out), fusion, args_struct(c), addresses.gamma, epilogue_args);
}

}  // namespace quern
