#include "templates/gemm_wna16/gemm_wna16.h"

#include <algorithm>
#include <cmath>
#include <initializer_list>

#include "templates/common/stub.h"
#include "templates/common/tunables.h"
#include "templates/common/workspace_args.h"
#include "templates/gemm_wna16/gemm_wna16_args.h"
#include "templates/gemm_wna16/gemm_wna16_slices.h"
#include "templates/gemm_wna16/gemm_wna16_wgmma.h"

namespace quern {
namespace {

using Reason = std::optional<std::string>;

const std::vector<IntTunable<GemmWna16Config>>& tunables() {
  using C = GemmWna16Config;
  static const std::vector<IntTunable<C>> tunables = {
      {"tile_m", &C::tile_m, {0, 1, 2, 4, 8, 16, 32, 64, 128, 192, 256}},
      {"tile_n", &C::tile_n, {0, 32, 48, 64, 96, 128, 160, 192, 224, 256}},
      {"warps_n", &C::warps_n, {0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16}},
      {"warps_k", &C::warps_k, {0, 1, 2, 4, 7, 8, 14, 16}},
      {"units", &C::units, {0, 1, 2, 4, 8}},
      {"stages", &C::stages, {0, 2, 3, 4, 5, 6, 8}},
      {"blocks_per_sm", &C::blocks_per_sm, {0, 1, 2, 3, 4}},
      {"split_k", &C::split_k, {0, 1, 2, 3, 4, 6, 8}},
      {"stream_k", &C::stream_k, {0, 1}, true},
      {"cluster_m", &C::cluster_m, {0, 1, 2, 4}},
      {"cluster_n", &C::cluster_n, {0, 1, 2, 4}},
      {"cluster_k", &C::cluster_k, {0, 1, 2, 4, 8}},
      {"group_m", &C::group_m, {0, 1, 4, 8, 16}},
      {"tma_store", &C::tma_store, {0, 1}, true},
  };
  return tunables;
}

Reason outside_space(const GemmWna16Config& config, std::initializer_list<std::string_view> used) {
  return quern::outside_space(tunables(), config, used);
}

int out_bytes(const GemmWna16Problem& p) { return static_cast<int>(size_bits(p.out_dtype)) / 8; }

int smem_bytes(const GemmWna16Problem& p, const GemmWna16Config& c) {
  if (c.kernel == "stream")
    return wna16_stream_smem_bytes(p.k, p.bits, p.group_size, p.zero_points, c.tile_m, c.warps_n,
                                   c.warps_k, c.units, c.stages, c.split_k);
  return wna16_mma_smem_bytes(p.bits, p.group_size, p.zero_points, c.tile_m, c.tile_n, c.units,
                              c.stages, out_bytes(p));
}

/// stream: from sm_90 on a further warp fills the rings.
int threads(const GemmWna16Config& c, const Arch& arch) {
  if (c.kernel != "stream") return 32 * c.warps_n;
  return 32 * (c.warps_n * c.warps_k + (arch.has_tma() ? 1 : 0));
}

/// stream: row groups. mma: output tiles.
std::int64_t tiles(const GemmWna16Problem& p, const GemmWna16Config& c) {
  if (c.kernel == "stream") return ceil_div(p.n / kWna16UnitRows, c.warps_n);
  return ceil_div(p.m, c.tile_m) * ceil_div(p.n, c.tile_n);
}
std::int64_t tile_sums(const GemmWna16Config& c) {
  return std::int64_t{c.tile_m} * (c.kernel == "stream" ? c.warps_n * kWna16UnitRows : c.tile_n);
}
/// stream: sets of split_k blocks that walk over the row groups.
std::int64_t sets(const GemmWna16Problem& p, const GemmWna16Config& c, const Arch& arch) {
  const std::int64_t resident = std::int64_t{std::max(1, arch.num_sms)} * c.blocks_per_sm;
  return std::min(tiles(p, c), std::max<std::int64_t>(1, resident / c.split_k));
}
std::size_t workspace_bytes(const GemmWna16Problem& p, const GemmWna16Config& c) {
  return split_workspace_bytes(tiles(p, c), c.split_k, tile_sums(c));
}

/// What both kernels have in common.
Reason reject_ring(const GemmWna16Problem& p, const GemmWna16Config& c, const Arch& arch) {
  const int columns = c.units * wna16_unit_columns(p.bits);
  if (p.group_size != p.k && columns % p.group_size != 0 && p.group_size % columns != 0)
    return fmt::format("groups of {} columns and chunks of {} do not divide one another",
                       p.group_size, columns);
  const std::int64_t chunks = ceil_div(p.k, columns);
  if (c.units > 1 && std::int64_t{c.split_k} * columns / 2 >= p.k)
    return fmt::format("{} chunks of {} columns are mostly beyond k = {}", c.split_k, columns, p.k);
  if (c.split_k > chunks)
    return fmt::format("split_k = {} is more than the {} chunks of k", c.split_k, chunks);
  if (threads(c, arch) > 544)
    return fmt::format("{} threads are more than 544 a block", threads(c, arch));
  const int blocks = std::max(1, c.blocks_per_sm), smem = smem_bytes(p, c);
  if (auto why = too_much_smem(smem, blocks, arch)) return why;
  if (threads(c, arch) * blocks > arch.max_threads_per_sm)
    return fmt::format("{} blocks of {} threads do not fit an SM of {} with {}", blocks,
                       threads(c, arch), arch.name(), arch.max_threads_per_sm);
  if (auto why = too_many_registers(estimated_registers(p, c), threads(c, arch) * blocks, arch))
    return why;
  if (tiles(p, c) * c.split_k > 0x7fffffff) return "more blocks than a grid can have";
  if (c.split_k > 1) {
    const std::int64_t counters = c.kernel == "stream" ? sets(p, c, arch) : tiles(p, c);
    if (counters > kMaxCounters)
      return fmt::format("{} split output tiles are more than {} counters", counters, kMaxCounters);
    if (workspace_bytes(p, c) > kMaxWorkspaceBytes)
      return fmt::format("partial sums of {} bytes are more than {}", workspace_bytes(p, c),
                         kMaxWorkspaceBytes);
  }
  return std::nullopt;
}

Reason reject_stream(const GemmWna16Problem& p, const GemmWna16Config& c, const Arch& arch) {
  if (auto why = outside_space(
          c, {"tile_m", "warps_n", "warps_k", "units", "stages", "blocks_per_sm", "split_k"}))
    return why;
  if (c.tile_m > 16) return "stream computes at most 16 rows of x";
  if (p.m > c.tile_m)
    return fmt::format("m = {} is more than tile_m = {} rows of x", p.m, c.tile_m);
  if (p.k > 262144) return fmt::format("k = {} rows of x do not fit in shared memory", p.k);
  return reject_ring(p, c, arch);
}

Reason reject_mma(const GemmWna16Problem& p, const GemmWna16Config& c, const Arch& arch) {
  if (auto why = outside_space(c, {"tile_m", "tile_n", "warps_n", "units", "stages", "split_k"}))
    return why;
  if (c.tile_m < 16) return "mma computes tokens by sixteens";
  if (c.tile_m > 128) return "mma has at most 128 tokens in a tile";
  if (c.tile_n % (16 * c.warps_n) != 0)
    return fmt::format("tile_n = {} is not a multiple of 16 for each of {} warps", c.tile_n,
                       c.warps_n);
  if (c.units * wna16_unit_columns(p.bits) % 64 != 0) return "x comes in blocks of 64 columns";
  return reject_ring(p, c, arch);
}

/// Throws InputError for parameters that are malformed or that no kernel serves.
GemmWna16Problem problem_from(const Params& params) {
  const auto problem = from_params<GemmWna16Problem>(params);
  if (const auto why = unsupported(problem, known_archs().front())) throw InputError(*why);
  return problem;
}

GemmWna16Config config_from(const Params& params) { return from_params<GemmWna16Config>(params); }

}  // namespace

std::optional<std::string> unsupported(const GemmWna16Problem& p, const Arch&) {
  if (auto why = bad_extents(p.m, p.n, p.k)) return why;
  if (p.dtype != DType::bf16 && p.dtype != DType::f16)
    return fmt::format("inputs are bf16 or f16, not {}", name(p.dtype));
  if (p.out_dtype != p.dtype && p.out_dtype != DType::f32)
    return fmt::format("outputs of {} inputs are {} or f32, not {}", name(p.dtype), name(p.dtype),
                       name(p.out_dtype));
  if (p.bits != 4 && p.bits != 8) return fmt::format("weights have 4 or 8 bits, not {}", p.bits);
  if (p.n % kWna16UnitRows != 0)
    return fmt::format("n = {} is not a multiple of {}", p.n, kWna16UnitRows);
  if (p.k % 64 != 0) return fmt::format("k = {} is not a multiple of 64", p.k);
  if (p.group_size != 32 && p.group_size != 64 && p.group_size != 128 && p.group_size != p.k)
    return fmt::format("groups have 32, 64, 128 or k columns, not {}", p.group_size);
  if (p.k % p.group_size != 0)
    return fmt::format("k = {} is not a multiple of the group size {}", p.k, p.group_size);
  return std::nullopt;
}

int estimated_registers(const GemmWna16Problem& p, const GemmWna16Config& c) {
  if (c.kernel == "slices") return slices_registers(p, c);
  if (c.kernel == "stream") return c.tile_m > 8 ? 76 + 6 * c.units : 62 + 4 * c.units;
  if (c.kernel == "mma") {
    const int row_tiles = c.tile_n / 16 / c.warps_n, token_tiles = c.tile_m / 8;
    const int sums = 4 * row_tiles * token_tiles;
    return sums * (token_tiles <= 2 ? 2 : 1) + 2 * token_tiles +
           row_tiles * (p.zero_points ? 14 : 10) + 50;
  }
  return 40;
}

std::optional<std::string> reject_reason(const GemmWna16Problem& p, const GemmWna16Config& c,
                                         const Arch& arch) {
  if (auto why = unsupported(p, arch)) return why;
  if (c.kernel == "stream") return reject_stream(p, c, arch);
  if (c.kernel == "slices") {
    if (auto why = outside_space(
            c, {"tile_m", "warps_n", "warps_k", "units", "stages", "blocks_per_sm", "cluster_k"}))
      return why;
    return reject_slices(p, c, arch);
  }
  if (c.kernel == "mma") return reject_mma(p, c, arch);
  if (c.kernel == "wgmma") {
    if (auto why = outside_space(
            c, {"tile_m", "tile_n", "warps_n", "warps_k", "units", "stages", "split_k", "stream_k",
                "cluster_m", "cluster_n", "cluster_k", "group_m", "tma_store"}))
      return why;
    return reject_wgmma(p, c, arch);
  }
  if (c.kernel == "reference") return outside_space(c, {});
  return fmt::format("'{}' is not a kernel of gemm_wna16", c.kernel);
}

LaunchPlan plan(const GemmWna16Problem& p, const GemmWna16Config& c, const Arch& arch) {
  LaunchPlan plan;
  if (c.kernel == "reference") {
    plan.grid[0] = static_cast<unsigned>(ceil_div(p.m, kWna16ReferenceTile) *
                                         ceil_div(p.n, kWna16ReferenceTile));
    plan.block[0] = kWna16ReferenceTile * kWna16ReferenceTile;
    return plan;
  }
  if (c.kernel == "wgmma") return plan_wgmma(p, c, arch);
  if (c.kernel == "slices") return plan_slices(p, c, arch);
  plan.pdl = arch.has_pdl();
  const std::int64_t walkers = c.kernel == "stream" ? sets(p, c, arch) : tiles(p, c);
  plan.grid[0] = static_cast<unsigned>(walkers * c.split_k);
  plan.block[0] = static_cast<unsigned>(threads(c, arch));
  plan.smem_bytes = static_cast<unsigned>(smem_bytes(p, c));
  plan.workspace_bytes = workspace_bytes(p, c);
  return plan;
}

std::string entry_of(const GemmWna16Config& c, bool fused) {
  return fmt::format("gemm_wna16_{}{}", c.kernel, fused ? "_fused" : "");
}

KernelSource source(const GemmWna16Problem& p, const GemmWna16Config& c, const Arch& arch,
                    const std::string& fusion) {
  if (const auto why = reject_reason(p, c, arch)) throw InputError(*why);
  const bool fused = !fusion.empty();
  std::string types = fmt::format(
      "struct Problem {{\n  static constexpr int n = {}, k = {}, bits = {}, group_size = {};\n"
      "  static constexpr bool zero_points = {};\n"
      "  using Input = {};\n  using Output = {};\n}};\n",
      p.n, p.k, p.bits, p.group_size, p.zero_points, device_type(p.dtype),
      device_type(p.out_dtype));
  if (c.kernel != "reference") types += config_struct(to_params(c));
  types += fusion;
  const std::string entry = entry_of(c, fused);
  if (c.kernel == "wgmma") return {source_wgmma(p, c, types, fused), entry, {}};
  if (c.kernel == "slices") return {source_slices(p, c, types, fused), entry, {}};

  const char* args = fused ? "Fusion::Args" : "quern::GemmWna16Args";
  const char* last = fused ? ", Fusion" : "";
  if (c.kernel == "reference")
    return {fmt::format("#include \"gemm_wna16/reference.cuh\"\n\n{}\n"
                        "extern \"C\" __global__ void __launch_bounds__({})\n"
                        "{}(const {} args) {{\n"
                        "  quern::gemm_wna16_reference<Problem{}>(args);\n}}\n",
                        types, kWna16ReferenceTile * kWna16ReferenceTile, entry, args, last),
            entry,
            {}};
  return {fmt::format("#include \"gemm_wna16/{}.cuh\"\n\n{}\n"
                      "extern \"C\" __global__ void __launch_bounds__({}, {})\n"
                      "{}(const {} args) {{\n"
                      "  extern __shared__ __align__(128) unsigned char smem[];\n"
                      "  quern::{}<Problem, Config{}>::run(args, smem);\n}}\n",
                      c.kernel, types, threads(c, arch), std::max(1, c.blocks_per_sm), entry, args,
                      c.kernel == "stream" ? "StreamWna16" : "MmaWna16", last),
          entry,
          {}};
}

std::vector<std::byte> pack_args(const GemmWna16Problem& p, const GemmWna16Config& c,
                                 const GemmWna16Addresses& addresses) {
  const auto fill = [&](auto args) {
    args.codes = device_pointer(addresses.codes);
    args.scales = device_pointer(addresses.scales);
    args.zeros = device_pointer(addresses.zeros);
    args.y = device_pointer(addresses.y);
    args.workspace = device_pointer(addresses.workspace);
    args.m = p.m;
    return args;
  };
  if (c.kernel == "wgmma") return args_bytes(fill(GemmWna16TmaArgs{}));
  GemmWna16Args args = fill(GemmWna16Args{});
  args.x = device_pointer(addresses.x);
  return args_bytes(args);
}

std::vector<Tunable> GemmWna16Family::space(const Params& problem) const {
  problem_from(problem);
  std::vector<Tunable> out;
  out.push_back({"kernel", {"stream", "slices", "mma", "wgmma", "reference"}});
  append(tunables(), out);
  return out;
}

RankedSpace GemmWna16Family::ranked_space(const Params& problem, const Arch& arch) const {
  return quern::ranked_space(problem_from(problem), arch);
}

Params GemmWna16Family::default_config(const Params& problem, const Arch& arch) const {
  return to_params(quern::default_config(problem_from(problem), arch));
}

double GemmWna16Family::estimate_us(const Params& problem, const Params& config,
                                    const Arch& arch) const {
  return quern::estimate_us(problem_from(problem), config_from(config), arch);
}

std::optional<std::string> GemmWna16Family::unsupported(const Params& problem,
                                                        const Arch& arch) const {
  return quern::unsupported(from_params<GemmWna16Problem>(problem), arch);
}

std::optional<std::string> GemmWna16Family::reject_reason(const Params& problem,
                                                          const Params& config,
                                                          const Arch& arch) const {
  return quern::reject_reason(from_params<GemmWna16Problem>(problem), config_from(config), arch);
}

Params GemmWna16Family::reference_config(const Params& problem) const {
  problem_from(problem);
  GemmWna16Config config;
  config.kernel = "reference";
  return to_params(config);
}

KernelSource GemmWna16Family::source(const Params& problem, const Params& config,
                                     const Arch& arch) const {
  return quern::source(problem_from(problem), config_from(config), arch);
}

LaunchPlan GemmWna16Family::plan(const Params& problem, const Params& config,
                                 const Arch& arch) const {
  const GemmWna16Problem p = problem_from(problem);
  const GemmWna16Config c = config_from(config);
  if (const auto why = quern::reject_reason(p, c, arch)) throw InputError(*why);
  return quern::plan(p, c, arch);
}

std::vector<OperandSpec> GemmWna16Family::operands(const Params& problem) const {
  const GemmWna16Problem p = problem_from(problem);
  const std::int64_t row_tiles = p.n / kWna16UnitRows, groups = p.k / p.group_size;
  const OperandSpec x{"x", p.dtype, {p.m, p.k}, OperandSpec::Role::in, 1.0, {}};
  const OperandSpec codes{"codes",
                          DType::u8,
                          {row_tiles, p.k / wna16_unit_columns(p.bits), kWna16UnitBytes},
                          OperandSpec::Role::in,
                          1.0,
                          {}};
  // Even codes without their zero point have a variance of 2^(2 bits) / 12, and even zero points
  // as much again. Sums of k products then have a standard deviation of 1, as tolerance() assumes.
  const double deviation = std::ldexp(std::sqrt((p.zero_points ? 2 : 1) / 12.0), p.bits);
  OperandSpec scales{"scales",
                     p.dtype,
                     {row_tiles, groups, 8, 2},
                     OperandSpec::Role::in,
                     1 / (deviation * std::sqrt(p.k)),
                     {}};
  scales.positive = true;
  OperandSpec zeros{"zeros", DType::u8, {row_tiles, groups, 8, 2}, OperandSpec::Role::in, 1.0, {}};
  zeros.range = {0, (1 << p.bits) - 1};
  const OperandSpec y{"y", p.out_dtype, {p.m, p.n}, OperandSpec::Role::out, 1.0, {}};
  if (p.zero_points) return {x, codes, scales, zeros, y};
  return {x, codes, scales, y};
}

std::vector<TensorMapSpec> GemmWna16Family::tensor_maps(const Params& problem,
                                                        const Params& config) const {
  const GemmWna16Config c = config_from(config);
  if (c.kernel != "wgmma") return {};
  return tensor_maps_wgmma(problem_from(problem), c);
}

std::vector<std::byte> GemmWna16Family::pack_args(const Params& problem, const Params& config,
                                                  std::span<const std::uint64_t> addresses,
                                                  std::uint64_t workspace) const {
  const GemmWna16Problem p = problem_from(problem);
  require_operands(name(), addresses, p.zero_points ? 5 : 4);
  return quern::pack_args(p, config_from(config),
                          {addresses[0], addresses[1], addresses[2],
                           p.zero_points ? addresses[3] : 0, addresses.back(), workspace});
}

Cost GemmWna16Family::cost(const Params& problem) const {
  const GemmWna16Problem p = problem_from(problem);
  const double m = p.m, n = p.n, k = p.k;
  const double weights = n * k * p.bits / 8 + n * k / p.group_size * (p.zero_points ? 3 : 2);
  return {2 * m * k + weights + out_bytes(p) * m * n, 2 * m * n * k};
}

Tolerance GemmWna16Family::tolerance(const Params& problem, std::size_t) const {
  const GemmWna16Problem p = problem_from(problem);
  // Kernels for many tokens round each weight to 16 bits after scaling it, by half a unit in the
  // last place at most: over sums with a standard deviation of 1 that is a normal error of 0.4
  // units, six times which nobody meets. In rows whose scales happen to be large both are larger:
  // the mean square of G normal scales exceeds 1 + 2 sqrt(x / G) + 2 x / G with a probability of
  // e^-x at most (Laurent and Massart 2000, lemma 1); x is 10. The rest is as in a dense product.
  const double scale_groups = static_cast<double>(p.k) / p.group_size;
  const double large_row = std::sqrt(1 + 2 * std::sqrt(10 / scale_groups) + 20 / scale_groups);
  const bool is_bf16 = p.dtype == DType::bf16;
  const double rounding = std::ldexp(2.4 * large_row, is_bf16 ? -8 : -11);
  const double rel = p.out_dtype == DType::bf16  ? std::ldexp(1.0, -7)
                     : p.out_dtype == DType::f16 ? std::ldexp(1.0, -10)
                                                 : std::ldexp(1.0, -16);
  const double k = p.k;
  return {rounding + std::ldexp(std::sqrt(k), -20) + std::ldexp(k, -27), rel};
}

}  // namespace quern
