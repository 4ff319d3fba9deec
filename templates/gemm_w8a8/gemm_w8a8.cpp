#include "templates/gemm_w8a8/gemm_w8a8.h"

#include <algorithm>
#include <cmath>
#include <initializer_list>

#include "templates/common/stub.h"
#include "templates/common/tunables.h"
#include "templates/common/workspace_args.h"
#include "templates/gemm/gemm_args.h"
#include "templates/gemm_w8a8/gemm_w8a8_args.h"
#include "templates/gemm_w8a8/gemm_w8a8_wgmma.h"

namespace quern {
namespace {

using Reason = std::optional<std::string>;

constexpr int kMaxInt8K = (1 << 17) - 1;  // k * 128 * 128 stays below 2^31

const std::vector<IntTunable<GemmW8A8Config>>& tunables() {
  using C = GemmW8A8Config;
  static const std::vector<IntTunable<C>> tunables = {
      {"tile_m", &C::tile_m, {0, 8, 16, 32, 64, 128, 256}},
      {"tile_n", &C::tile_n, {0, 32, 64, 96, 128, 160, 192, 224, 256}},
      {"tile_k", &C::tile_k, {0, 64, 128}},
      {"warps_m", &C::warps_m, {0, 1, 2, 4}},
      {"warps_n", &C::warps_n, {0, 1, 2, 4, 8}},
      {"warps_k", &C::warps_k, {0, 1, 2, 4, 8, 16}},
      {"unroll", &C::unroll, {0, 1, 2, 4}},
      {"stages", &C::stages, {0, 1, 2, 3, 4, 5, 6, 7, 8}},
      {"blocks_per_sm", &C::blocks_per_sm, {0, 1, 2, 3, 4}},
      {"split_k", &C::split_k, {0, 1, 2, 3, 4, 6, 8, 16}},
      {"group_m", &C::group_m, {0, 1, 4, 8, 16}},
      {"cluster", &C::cluster, {0, 1, 2}},
      {"cluster_k", &C::cluster_k, {0, 1, 2}},
      {"promote", &C::promote, {0, 1}, true},
      {"algorithm", &C::algorithm, {0, 1, 2, 3, 4, 5, 6, 7}},
  };
  return tunables;
}

/// Tunables that the kernel has, others being 0.
Reason outside_space(const GemmW8A8Config& config, std::initializer_list<std::string_view> used) {
  if (config.pingpong && config.kernel != "wgmma")
    return fmt::format("{} has no tunable pingpong, which should be false", config.kernel);
  return quern::outside_space(tunables(), config, used);
}

int smem_bytes_of_few_rows(const GemmW8A8Problem& p, const GemmW8A8Config& c) {
  return few_rows_smem_bytes(p.k, c.tile_m, c.warps_n, c.warps_k, p.has_block_scales());
}

Reason reject_few_rows(const GemmW8A8Problem& p, const GemmW8A8Config& c, const Arch& arch) {
  if (auto why =
          outside_space(c, {"tile_m", "warps_n", "warps_k", "unroll", "stages", "blocks_per_sm"}))
    return why;
  if (c.tile_m > 16) return "few_rows computes 8 or 16 rows of x";
  if (p.m > c.tile_m)
    return fmt::format("m = {} is more than tile_m = {} rows of x", p.m, c.tile_m);
  if (p.k % 16 != 0)
    return fmt::format("few_rows reads 16 elements at once, k = {} is not a multiple", p.k);
  const int warps = c.warps_n * c.warps_k, threads = warps * 32;
  if (warps > 16) return fmt::format("{} warps are more than 16 a block", warps);
  if (c.tile_m == 16 && c.warps_k == 1 && c.warps_n == 1)
    return "a single warp leaves most of an SM idle";
  if (threads * c.blocks_per_sm > arch.max_threads_per_sm)
    return fmt::format("{} blocks of {} threads do not fit an SM of {} with {}", c.blocks_per_sm,
                       threads, arch.name(), arch.max_threads_per_sm);
  if (c.stages > 4) return "a ring in registers has at most 4 stages";
  if (p.has_block_scales() && c.unroll % 2 != 0)
    return "with block scales a step has whole blocks of 128, so unroll is even";
  const int chunks = few_rows_chunks(p.k), at_once = c.warps_k * c.unroll;
  if (c.warps_k > 1 && at_once > chunks)
    return fmt::format("warps_k * unroll = {} is more than the {} chunks of k = {}", at_once,
                       chunks, p.k);
  if (auto why = too_much_smem(smem_bytes_of_few_rows(p, c), c.blocks_per_sm, arch)) return why;
  return too_many_registers(estimated_registers(p, c, arch), threads * c.blocks_per_sm, arch);
}

Reason reject_mma(const GemmW8A8Problem& p, const GemmW8A8Config& c, const Arch& arch) {
  if (auto why = outside_space(
          c, {"tile_m", "tile_n", "tile_k", "warps_m", "warps_n", "stages", "split_k", "group_m"}))
    return why;
  if (c.tile_m % (16 * c.warps_m) != 0)
    return fmt::format("tile_m = {} is not a multiple of 16 for each of {} warps", c.tile_m,
                       c.warps_m);
  if (c.tile_n % (16 * c.warps_n) != 0)
    return fmt::format("tile_n = {} is not a multiple of 16 for each of {} warps", c.tile_n,
                       c.warps_n);
  if (c.stages < 2) return "the ring has at least 2 stages";
  if (p.has_block_scales()) {
    if (c.tile_k != kScaleBlock)
      return fmt::format("with block scales tile_k is {}, not {}", kScaleBlock, c.tile_k);
    if (c.tile_n / c.warps_n > kScaleBlock)
      return fmt::format("{} columns of a warp span more than one block of scales",
                         c.tile_n / c.warps_n);
  }
  const int threads = c.warps_m * c.warps_n * 32;
  if (threads > 512) return fmt::format("{} threads are more than 512 a block", threads);
  const int copies = c.tile_k / w8a8_vector_bytes(p.k);
  if (threads % copies != 0)
    return fmt::format("{} threads cannot copy tile rows of {} pieces", threads, copies);
  if (auto why =
          too_much_smem(w8a8_mma_smem_bytes(c.tile_m, c.tile_n, c.tile_k, c.stages), 1, arch))
    return why;
  if (auto why = too_many_registers(estimated_registers(p, c, arch), threads, arch)) return why;
  const std::int64_t tiles = ceil_div(p.m, c.tile_m) * ceil_div(p.n, c.tile_n);
  if (tiles * c.split_k > 0x7fffffff) return "more blocks than a grid can have";
  if (c.split_k > 1) {
    if (c.split_k > ceil_div(p.k, c.tile_k))
      return fmt::format("split_k = {} is more than the {} tiles of k", c.split_k,
                         ceil_div(p.k, c.tile_k));
    if (tiles > kMaxCounters)
      return fmt::format("{} split output tiles are more than {} counters", tiles, kMaxCounters);
    const std::size_t bytes = static_cast<std::size_t>(tiles * c.split_k) *
                              static_cast<std::size_t>(c.tile_m * c.tile_n) * 4;
    if (bytes > kMaxWorkspaceBytes)
      return fmt::format("partial sums of {} bytes are more than {}", bytes, kMaxWorkspaceBytes);
  }
  return std::nullopt;
}

Reason reject_on_hopper(const GemmW8A8Problem& p, const GemmW8A8Config& c, const Arch& arch) {
  if (auto why = outside_space(c, {"tile_m", "tile_n", "tile_k", "stages", "group_m", "cluster",
                                   "cluster_k", "promote"}))
    return why;
  return reject_wgmma(p, c, arch);
}

/// cuBLASLt gives what the problem asks for where each operand has one scale. Its integer products
/// end as unscaled s32.
Reason reject_cublaslt(const GemmW8A8Problem& p, const GemmW8A8Config& c) {
  if (p.dtype != DType::e4m3 || p.x_scale != "tensor" || p.w_scale != "tensor")
    return fmt::format(
        "cuBLASLt is used for e4m3 with scales of tensors, not for {} with {} and {}",
        name(p.dtype), p.x_scale, p.w_scale);
  if (p.n % 16 != 0 || p.k % 16 != 0)
    return fmt::format("cuBLASLt is used where n and k are multiples of 16, not for {} and {}", p.n,
                       p.k);
  if (c.algorithm < 0 || c.algorithm > 7)
    return fmt::format("algorithm = {} is not between 0 and 7", c.algorithm);
  GemmW8A8Config rest = c;
  rest.algorithm = 0;
  return outside_space(rest, {});
}

/// Why no architecture can serve the problem, or nothing.
Reason malformed(const GemmW8A8Problem& p) {
  if (auto why = bad_extents(p.m, p.n, p.k)) return why;
  if (p.dtype != DType::i8 && p.dtype != DType::e4m3)
    return fmt::format("inputs are i8 or e4m3, not {}", name(p.dtype));
  if (p.out_dtype != DType::bf16 && p.out_dtype != DType::f16 && p.out_dtype != DType::f32)
    return fmt::format("outputs are bf16, f16 or f32, not {}", name(p.out_dtype));
  if (p.x_scale != "tensor" && p.x_scale != "token" && p.x_scale != "group")
    return fmt::format("x_scale is tensor, token or group, not '{}'", p.x_scale);
  if (p.w_scale != "tensor" && p.w_scale != "channel" && p.w_scale != "block")
    return fmt::format("w_scale is tensor, channel or block, not '{}'", p.w_scale);
  if ((p.x_scale == "group") != (p.w_scale == "block"))
    return fmt::format("x_scale group goes with w_scale block, not {} with {}", p.x_scale,
                       p.w_scale);
  if (p.dtype == DType::i8 && p.has_block_scales())
    return "scales in groups and blocks go with e4m3, not i8";
  if (p.dtype == DType::i8 && p.k > kMaxInt8K)
    return fmt::format("sums of k = {} products of i8 may not fit 32 bits; k is at most {}", p.k,
                       kMaxInt8K);
  return std::nullopt;
}

/// Throws InputError for parameters that are malformed or that no kernel serves.
GemmW8A8Problem problem_from(const Params& params) {
  const auto problem = from_params<GemmW8A8Problem>(params);
  if (const auto why = malformed(problem)) throw InputError(*why);
  return problem;
}

GemmW8A8Config config_from(const Params& params) { return from_params<GemmW8A8Config>(params); }

/// Scales in trials: up to this many times what is typical, and down to as much less.
constexpr double kMostScale = 1.25;

std::string scale_of(const std::string& scale) {
  if (scale == "tensor") return "quern::ScaleOf::tensor";
  return scale == "token" || scale == "channel" ? "quern::ScaleOf::row" : "quern::ScaleOf::block";
}

}  // namespace

std::optional<std::string> unsupported(const GemmW8A8Problem& p, const Arch& arch) {
  if (auto why = malformed(p)) return why;
  if (p.dtype == DType::e4m3 && !arch.has_fp8_mma())
    return fmt::format("products of e4m3 need sm_89 or later, this is {}", arch.name());
  return std::nullopt;
}

int estimated_registers(const GemmW8A8Problem& p, const GemmW8A8Config& c, const Arch& arch) {
  // Hopper has no mma.sync of 8-bit floats: fragments are unpacked to f16, twice as many registers.
  const bool unpacked = p.dtype == DType::e4m3 && arch.major == 9;
  if (c.kernel == "few_rows")
    return c.stages * (8 * c.unroll + (p.has_block_scales() ? 1 : 0)) + c.tile_m +
           (unpacked ? 12 + 6 * c.unroll : 14) + 36;
  if (c.kernel == "mma") {
    const int blocks_m = c.tile_m / c.warps_m / 16, blocks_n = c.tile_n / c.warps_n / 8;
    const int fragments = 4 * blocks_m + 2 * blocks_n;
    const bool once = blocks_m * blocks_n >= 32 || p.dtype == DType::e4m3;
    return 4 * blocks_m * blocks_n * (p.has_block_scales() ? 2 : 1) +
           fragments * (once ? 1 : 2) * (unpacked ? 2 : 1) + (unpacked ? 64 : 52);
  }
  return 40;
}

std::optional<std::string> reject_reason(const GemmW8A8Problem& p, const GemmW8A8Config& c,
                                         const Arch& arch) {
  if (auto why = unsupported(p, arch)) return why;
  if (c.kernel == "few_rows") return reject_few_rows(p, c, arch);
  if (c.kernel == "mma") return reject_mma(p, c, arch);
  if (c.kernel == "wgmma") return reject_on_hopper(p, c, arch);
  if (c.kernel == "cublaslt") return reject_cublaslt(p, c);
  if (c.kernel != "reference") return fmt::format("'{}' is not a kernel of gemm_w8a8", c.kernel);
  return outside_space(c, {});
}

LaunchPlan plan(const GemmW8A8Problem& p, const GemmW8A8Config& c, const Arch& arch) {
  LaunchPlan plan;
  if (c.kernel == "reference") {
    constexpr int tile = kW8A8ReferenceTile;
    plan.grid[0] = static_cast<unsigned>(ceil_div(p.m, tile) * ceil_div(p.n, tile));
    plan.block[0] = tile * tile;
    return plan;
  }
  if (c.kernel == "wgmma") return plan_wgmma(p, c, arch);
  plan.pdl = arch.has_pdl();
  if (c.kernel == "few_rows") {
    const std::int64_t groups = ceil_div(p.n, c.warps_n * 16);
    const std::int64_t resident = std::int64_t{std::max(1, arch.num_sms)} * c.blocks_per_sm;
    plan.grid[0] = static_cast<unsigned>(std::min(groups, resident));
    plan.block[0] = static_cast<unsigned>(c.warps_n * c.warps_k * 32);
    plan.smem_bytes = static_cast<unsigned>(smem_bytes_of_few_rows(p, c));
    return plan;
  }
  const std::int64_t tiles = ceil_div(p.m, c.tile_m) * ceil_div(p.n, c.tile_n);
  plan.grid[0] = static_cast<unsigned>(tiles * c.split_k);
  plan.block[0] = static_cast<unsigned>(c.warps_m * c.warps_n * 32);
  plan.smem_bytes =
      static_cast<unsigned>(w8a8_mma_smem_bytes(c.tile_m, c.tile_n, c.tile_k, c.stages));
  plan.workspace_bytes = split_workspace_bytes(tiles, c.split_k, c.tile_m * c.tile_n);
  return plan;
}

std::vector<Tunable> GemmW8A8Family::space(const Params& problem) const {
  problem_from(problem);
  std::vector<Tunable> out;
  out.push_back({"kernel", {"few_rows", "mma", "wgmma", "cublaslt", "reference"}});
  append(tunables(), out);
  out.push_back({"pingpong", {false, true}});
  return out;
}

RankedSpace GemmW8A8Family::ranked_space(const Params& problem, const Arch& arch) const {
  return quern::ranked_space(problem_from(problem), arch);
}

Params GemmW8A8Family::default_config(const Params& problem, const Arch& arch) const {
  return to_params(quern::default_config(problem_from(problem), arch));
}

double GemmW8A8Family::estimate_us(const Params& problem, const Params& config,
                                   const Arch& arch) const {
  return quern::estimate_us(problem_from(problem), config_from(config), arch);
}

std::optional<std::string> GemmW8A8Family::unsupported(const Params& problem,
                                                       const Arch& arch) const {
  return quern::unsupported(from_params<GemmW8A8Problem>(problem), arch);
}

std::optional<std::string> GemmW8A8Family::reject_reason(const Params& problem,
                                                         const Params& config,
                                                         const Arch& arch) const {
  return quern::reject_reason(from_params<GemmW8A8Problem>(problem), config_from(config), arch);
}

Params GemmW8A8Family::reference_config(const Params& problem) const {
  problem_from(problem);
  GemmW8A8Config config;
  config.kernel = "reference";
  return to_params(config);
}

bool GemmW8A8Family::is_library(const Params& config) const {
  return config_from(config).kernel == "cublaslt";
}

LibraryMatmul GemmW8A8Family::library_matmul(const Params& problem, const Params& config) const {
  LibraryMatmul matmul = Family::library_matmul(problem, config);
  matmul.scaled = true;
  return matmul;
}

KernelSource GemmW8A8Family::source(const Params& problem, const Params& config,
                                    const Arch& arch) const {
  const GemmW8A8Problem p = problem_from(problem);
  const GemmW8A8Config c = config_from(config);
  if (const auto why = quern::reject_reason(p, c, arch)) throw InputError(*why);

  const std::string shape = fmt::format(
      "struct Problem {{\n  static constexpr int n = {};\n  static constexpr int k = {};\n"
      "  using Input = quern::{};\n  using Output = {};\n"
      "  static constexpr quern::ScaleOf x_scale = {};\n"
      "  static constexpr quern::ScaleOf w_scale = {};\n}};\n",
      p.n, p.k, quern::name(p.dtype), device_type(p.out_dtype), scale_of(p.x_scale),
      scale_of(p.w_scale));
  if (c.kernel == "reference")
    return {fmt::format("#include \"gemm_w8a8/reference.cuh\"\n\n{}\n"
                        "extern \"C\" __global__ void __launch_bounds__({})\n"
                        "gemm_w8a8_reference(const quern::GemmW8A8Args args) {{\n"
                        "  quern::gemm_w8a8_reference<Problem>(args);\n}}\n",
                        shape, kW8A8ReferenceTile * kW8A8ReferenceTile),
            "gemm_w8a8_reference",
            {}};

  if (c.kernel == "wgmma")
    return {source_wgmma(p, c, shape, config_struct(config)), "gemm_w8a8_wgmma", {}};
  const bool few_rows = c.kernel == "few_rows";
  const std::string entry = fmt::format("gemm_w8a8_{}", c.kernel);
  return {fmt::format("#include \"gemm_w8a8/{}.cuh\"\n\n{}{}\n"
                      "extern \"C\" __global__ void __launch_bounds__({}, {})\n"
                      "{}(const quern::GemmW8A8Args args) {{\n"
                      "  extern __shared__ __align__(128) unsigned char smem[];\n"
                      "  quern::{}<Problem, Config>::run(args, smem);\n}}\n",
                      c.kernel, shape, config_struct(config),
                      (few_rows ? c.warps_n * c.warps_k : c.warps_m * c.warps_n) * 32,
                      few_rows ? c.blocks_per_sm : 1, entry, few_rows ? "FewRowsW8A8" : "MmaW8A8"),
          entry,
          {}};
}

LaunchPlan GemmW8A8Family::plan(const Params& problem, const Params& config,
                                const Arch& arch) const {
  const GemmW8A8Problem p = problem_from(problem);
  const GemmW8A8Config c = config_from(config);
  if (const auto why = quern::reject_reason(p, c, arch)) throw InputError(*why);
  return quern::plan(p, c, arch);
}

std::vector<OperandSpec> GemmW8A8Family::operands(const Params& problem) const {
  const GemmW8A8Problem p = problem_from(problem);
  // Codes of a typical size and scales that bring them back to a standard deviation of 1 for x and
  // 1 / sqrt(k) for w, so that elements of y are about 1, as tolerance() assumes.
  const bool i8 = p.dtype == DType::i8;
  constexpr double kCodes = 64;
  OperandSpec x{"x", p.dtype, {p.m, p.k}, OperandSpec::Role::in, kCodes, {}};
  OperandSpec w{"w", p.dtype, {p.n, p.k}, OperandSpec::Role::in, kCodes, {}};
  if (i8) x.range = w.range = std::pair{-127, 127};
  const std::int64_t blocks_k = scale_blocks(p.k);
  const auto scales = [&](const char* name, const std::string& of, std::int64_t rows,
                          std::int64_t blocks, double typical) {
    std::vector<std::int64_t> shape = {rows};
    if (of == "tensor") shape = {1};
    if (p.has_block_scales()) shape = {blocks, blocks_k};
    OperandSpec spec{name, DType::f32, shape, OperandSpec::Role::in, typical, {}};
    spec.between = {(2 - kMostScale) * typical, kMostScale * typical};
    return spec;
  };
  return {x, w, scales("x_scales", p.x_scale, p.m, p.m, 1 / kCodes),
          scales("w_scales", p.w_scale, p.n, scale_blocks(p.n), 1 / (kCodes * std::sqrt(p.k))),
          OperandSpec{"y", p.out_dtype, {p.m, p.n}, OperandSpec::Role::out, 1.0, {}}};
}

std::vector<std::byte> GemmW8A8Family::pack_args(const Params& problem, const Params& config,
                                                 std::span<const std::uint64_t> addresses,
                                                 std::uint64_t workspace) const {
  const GemmW8A8Problem p = problem_from(problem);
  require_operands(name(), addresses, 5);
  if (config_from(config).kernel == "wgmma") {
    GemmW8A8TmaArgs args{};
    args.y = device_pointer(addresses[4]);
    args.workspace = device_pointer(workspace);
    args.m = p.m;
    args.x_scales = device_pointer<float>(addresses[2]);
    args.w_scales = device_pointer<float>(addresses[3]);
    return args_bytes(args);
  }
  GemmW8A8Args args{};
  args.x = device_pointer(addresses[0]);
  args.w = device_pointer(addresses[1]);
  args.x_scales = device_pointer<float>(addresses[2]);
  args.w_scales = device_pointer<float>(addresses[3]);
  args.y = device_pointer(addresses[4]);
  args.workspace = device_pointer(workspace);
  args.m = p.m;
  return args_bytes(args);
}

std::vector<TensorMapSpec> GemmW8A8Family::tensor_maps(const Params& problem,
                                                       const Params& config) const {
  const GemmW8A8Config c = config_from(config);
  if (c.kernel != "wgmma") return {};
  return tensor_maps_wgmma(problem_from(problem), c);
}

Cost GemmW8A8Family::cost(const Params& problem) const {
  const GemmW8A8Problem p = problem_from(problem);
  const double m = p.m, n = p.n, k = p.k;
  double scales = (p.x_scale == "tensor" ? 1 : m) + (p.w_scale == "tensor" ? 1 : n);
  if (p.has_block_scales()) scales = (m + scale_blocks(p.n)) * scale_blocks(p.k);
  return {m * k + n * k + 4 * scales + static_cast<double>(size_bits(p.out_dtype)) / 8 * m * n,
          2 * m * n * k};
}

Tolerance GemmW8A8Family::tolerance(const Params& problem, std::size_t) const {
  const GemmW8A8Problem p = problem_from(problem);
  // Integer sums are exact, and they are scaled and rounded in one order.
  if (p.dtype == DType::i8) return {};
  const double k = p.k;
  double rel = p.out_dtype == DType::bf16  ? std::ldexp(1.0, -7)
               : p.out_dtype == DType::f16 ? std::ldexp(1.0, -10)
                                           : std::ldexp(1.0, -16);
  // Tensor cores may cut their sum off at 2^-13 of its largest part with every 32 products
  // (Hopper), which are added up in fp32 after 128, or, where scales are rank-1, after a short k
  // only. Errors of many cuts add up as those of a random walk, as far as what is usual of all sums
  // and again in proportion to the sum itself; they bend sums towards zero by less
  // (kMaxUnpromotedK).
  constexpr double kWorst = 6;  // times what is usual: of 10^8 elements
  const double promoted = std::ldexp(std::sqrt(kScaleBlock / 32.0), -13);
  // Sums of k products with a total of about 1, times scales of up to kMostScale on either side.
  double error = promoted + std::ldexp(std::sqrt(k), -20);
  if (p.has_block_scales()) {
    rel += kWorst * promoted;
  } else {
    const double cuts = std::min<double>(k, kMaxUnpromotedK) / 32;
    const double walk = std::ldexp(std::sqrt(cuts), -13);
    error += walk;
    rel += kWorst * walk + std::ldexp(cuts, -18);
  }
  return {kWorst * kMostScale * kMostScale * error, rel};
}

}  // namespace quern
