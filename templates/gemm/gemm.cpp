#include "templates/gemm/gemm.h"

#include <algorithm>
#include <cmath>
#include <initializer_list>

#include "templates/common/stub.h"
#include "templates/common/tunables.h"
#include "templates/common/workspace_args.h"
#include "templates/gemm/gemm_args.h"
#include "templates/gemm/gemm_wgmma.h"

namespace quern {
namespace {

using Reason = std::optional<std::string>;

const std::vector<IntTunable<GemmConfig>>& tunables() {
  using C = GemmConfig;
  static const std::vector<IntTunable<C>> tunables = {
      {"tile_m", &C::tile_m, {0, 1, 2, 4, 8, 16, 32, 64, 128, 256}},
      {"tile_n", &C::tile_n, {0, 32, 64, 96, 128, 160, 192, 224, 256}},
      {"tile_k", &C::tile_k, {0, 32, 64, 128}},
      {"warps_m", &C::warps_m, {0, 1, 2, 4}},
      {"warps_n", &C::warps_n, {0, 1, 2, 4, 8, 16}},
      {"warps_k", &C::warps_k, {0, 1, 2, 4, 8, 16}},
      {"rows_per_warp", &C::rows_per_warp, {0, 1, 2, 4, 8}},
      {"unroll", &C::unroll, {0, 1, 2, 4, 8}},
      {"stages", &C::stages, {0, 1, 2, 3, 4, 5, 6, 7, 8}},
      {"blocks_per_sm", &C::blocks_per_sm, {0, 1, 2, 3, 4, 6, 8}},
      {"split_k", &C::split_k, {0, 1, 2, 3, 4, 6, 8, 16}},
      {"stream_k", &C::stream_k, {0, 1}, true},
      {"group_m", &C::group_m, {0, 1, 4, 8, 16}},
      {"cluster", &C::cluster, {0, 1, 2}},
      {"cluster_k", &C::cluster_k, {0, 1, 2, 4}},
      {"algorithm", &C::algorithm, {0, 1, 2, 3, 4, 5, 6, 7}},
  };
  return tunables;
}

Reason outside_space(const GemmConfig& config, std::initializer_list<std::string_view> used) {
  return quern::outside_space(tunables(), config, used);
}

int smem_bytes_of_gemv(const GemmProblem& p, const GemmConfig& c) {
  return gemv_smem_bytes(p.k, c.tile_m, c.warps_n, c.warps_k, c.rows_per_warp, c.unroll, c.stages,
                         c.async_copy);
}

Reason reject_gemv(const GemmProblem& p, const GemmConfig& c, const Arch& arch) {
  if (auto why = outside_space(c, {"tile_m", "warps_n", "warps_k", "rows_per_warp", "unroll",
                                   "stages", "blocks_per_sm"}))
    return why;
  if (c.tile_m > 16) return "gemv computes at most 16 rows of x";
  if (p.m > c.tile_m)
    return fmt::format("m = {} is more than tile_m = {} rows of x", p.m, c.tile_m);
  const int warps = c.warps_n * c.warps_k, threads = warps * 32;
  if (warps > 16) return fmt::format("{} warps are more than 16 a block", warps);
  if (threads * c.blocks_per_sm > arch.max_threads_per_sm)
    return fmt::format("{} blocks of {} threads do not fit an SM of {} with {}", c.blocks_per_sm,
                       threads, arch.name(), arch.max_threads_per_sm);
  if (c.async_copy && c.stages < 2) return "a ring in shared memory has at least 2 stages";
  if (c.async_copy && p.k % 2 != 0) return "cp.async moves at least 4 bytes, rows of odd k have 2";
  if (!c.async_copy && c.stages > 4) return "a ring in registers has at most 4 stages";
  const int chunks = gemv_chunks(p.k), at_once = c.warps_k * c.unroll;
  if (at_once > 1 && at_once > chunks)
    return fmt::format("warps_k * unroll = {} is more than the {} chunks of k = {}", at_once,
                       chunks, p.k);
  // x alone may be larger than an int can say: 16 rows of 2^20 elements.
  if (p.k > 262144) return fmt::format("k = {} rows of x do not fit in shared memory", p.k);
  if (auto why = too_much_smem(smem_bytes_of_gemv(p, c), c.blocks_per_sm, arch)) return why;
  return too_many_registers(estimated_registers(p, c), threads * c.blocks_per_sm, arch);
}

Reason reject_mma(const GemmProblem& p, const GemmConfig& c, const Arch& arch) {
  if (auto why = outside_space(
          c, {"tile_m", "tile_n", "tile_k", "warps_m", "warps_n", "stages", "split_k", "group_m"}))
    return why;
  if (c.tile_m > 128) return "mma has at most 128 rows in a tile";
  if (c.tile_m % (16 * c.warps_m) != 0)
    return fmt::format("tile_m = {} is not a multiple of 16 for each of {} warps", c.tile_m,
                       c.warps_m);
  if (c.tile_n % (16 * c.warps_n) != 0)
    return fmt::format("tile_n = {} is not a multiple of 16 for each of {} warps", c.tile_n,
                       c.warps_n);
  if (c.stages < 2) return "the ring has at least 2 stages";
  const int threads = c.warps_m * c.warps_n * 32;
  if (threads > 512) return fmt::format("{} threads are more than 512 a block", threads);
  const int copies = c.tile_k / gemm_vector_elements(p.k);
  if (threads % copies != 0)
    return fmt::format("{} threads cannot copy tile rows of {} pieces", threads, copies);
  if (auto why = too_much_smem(mma_smem_bytes(c.tile_m, c.tile_n, c.tile_k, c.stages), 1, arch))
    return why;
  if (auto why = too_many_registers(estimated_registers(p, c), threads, arch)) return why;
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

/// Throws InputError for parameters that are malformed or that no kernel serves.
GemmProblem problem_from(const Params& params) {
  const auto problem = from_params<GemmProblem>(params);
  if (const auto why = unsupported(problem, known_archs().front())) throw InputError(*why);
  return problem;
}

GemmConfig config_from(const Params& params) { return from_params<GemmConfig>(params); }

}  // namespace

std::optional<std::string> unsupported(const GemmProblem& p, const Arch&) {
  if (auto why = bad_extents(p.m, p.n, p.k)) return why;
  if (p.dtype != DType::bf16 && p.dtype != DType::f16)
    return fmt::format("inputs are bf16 or f16, not {}", name(p.dtype));
  if (p.out_dtype != p.dtype && p.out_dtype != DType::f32)
    return fmt::format("outputs of {} inputs are {} or f32, not {}", name(p.dtype), name(p.dtype),
                       name(p.out_dtype));
  return std::nullopt;
}

int estimated_registers(const GemmProblem& p, const GemmConfig& c) {
  if (c.kernel == "gemv") {
    const int words = std::max(1, gemm_vector_elements(p.k) / 2);  // of one access
    const int accesses = c.rows_per_warp * c.unroll;
    // Sums, weights as fp32 and x as fp32; the ring; addresses.
    return c.tile_m * c.rows_per_warp + 2 * words * (c.rows_per_warp + 1) +
           words * accesses * (c.async_copy ? 1 : c.stages) + 2 * c.tile_m + 28;
  }
  if (c.kernel == "mma") {
    const int blocks_m = c.tile_m / c.warps_m / 16, blocks_n = c.tile_n / c.warps_n / 8;
    const int fragments = 4 * blocks_m + 2 * blocks_n;
    return 4 * blocks_m * blocks_n + fragments * (blocks_m * blocks_n >= 32 ? 1 : 2) + 48;
  }
  return 40;
}

std::optional<std::string> reject_reason(const GemmProblem& p, const GemmConfig& c,
                                         const Arch& arch) {
  if (auto why = unsupported(p, arch)) return why;
  if (c.pingpong && c.kernel != "wgmma")
    return fmt::format("{} has no tunable pingpong, which should be false", c.kernel);
  if (c.async_copy && c.kernel != "gemv")
    return fmt::format("{} has no tunable async_copy, which should be false", c.kernel);
  if (c.kernel == "gemv") return reject_gemv(p, c, arch);
  if (c.kernel == "mma") return reject_mma(p, c, arch);
  if (c.kernel == "wgmma") {
    if (auto why = outside_space(c, {"tile_m", "tile_n", "tile_k", "stages", "split_k", "stream_k",
                                     "group_m", "cluster", "cluster_k"}))
      return why;
    return reject_wgmma(p, c, arch);
  }
  if (c.kernel != "cublaslt" && c.kernel != "reference")
    return fmt::format("'{}' is not a kernel of gemm", c.kernel);
  GemmConfig rest = c;
  if (c.kernel == "cublaslt") {
    if (c.algorithm < 0 || c.algorithm > 7)
      return fmt::format("algorithm = {} is not between 0 and 7", c.algorithm);
    rest.algorithm = 0;
    if (p.n % 8 != 0 || p.k % 8 != 0)
      return fmt::format("cuBLASLt is used where n and k are multiples of 8, not for {} and {}",
                         p.n, p.k);
  }
  return outside_space(rest, {});
}

LaunchPlan plan(const GemmProblem& p, const GemmConfig& c, const Arch& arch) {
  LaunchPlan plan;
  if (c.kernel == "reference") {
    plan.grid[0] =
        static_cast<unsigned>(ceil_div(p.m, kReferenceTile) * ceil_div(p.n, kReferenceTile));
    plan.block[0] = kReferenceTile * kReferenceTile;
    return plan;
  }
  if (c.kernel == "wgmma") return plan_wgmma(p, c, arch);
  plan.pdl = arch.has_pdl();
  if (c.kernel == "gemv") {
    const std::int64_t groups = ceil_div(p.n, c.warps_n * c.rows_per_warp);
    const std::int64_t resident = std::int64_t{std::max(1, arch.num_sms)} * c.blocks_per_sm;
    plan.grid[0] = static_cast<unsigned>(std::min(groups, resident));
    plan.block[0] = static_cast<unsigned>(c.warps_n * c.warps_k * 32);
    plan.smem_bytes = static_cast<unsigned>(smem_bytes_of_gemv(p, c));
    return plan;
  }
  const std::int64_t tiles = ceil_div(p.m, c.tile_m) * ceil_div(p.n, c.tile_n);
  plan.grid[0] = static_cast<unsigned>(tiles * c.split_k);
  plan.block[0] = static_cast<unsigned>(c.warps_m * c.warps_n * 32);
  plan.smem_bytes = static_cast<unsigned>(mma_smem_bytes(c.tile_m, c.tile_n, c.tile_k, c.stages));
  plan.workspace_bytes = split_workspace_bytes(tiles, c.split_k, c.tile_m * c.tile_n);
  return plan;
}

std::vector<Tunable> GemmFamily::space(const Params& problem) const {
  problem_from(problem);
  std::vector<Tunable> out;
  out.push_back({"kernel", {"gemv", "mma", "wgmma", "cublaslt", "reference"}});
  append(tunables(), out);
  out.push_back({"async_copy", {false, true}});
  out.push_back({"pingpong", {false, true}});
  return out;
}

RankedSpace GemmFamily::ranked_space(const Params& problem, const Arch& arch) const {
  return quern::ranked_space(problem_from(problem), arch);
}

Params GemmFamily::default_config(const Params& problem, const Arch& arch) const {
  return to_params(quern::default_config(problem_from(problem), arch));
}

double GemmFamily::estimate_us(const Params& problem, const Params& config,
                               const Arch& arch) const {
  return quern::estimate_us(problem_from(problem), config_from(config), arch);
}

std::optional<std::string> GemmFamily::unsupported(const Params& problem, const Arch& arch) const {
  return quern::unsupported(from_params<GemmProblem>(problem), arch);
}

std::optional<std::string> GemmFamily::reject_reason(const Params& problem, const Params& config,
                                                     const Arch& arch) const {
  return quern::reject_reason(from_params<GemmProblem>(problem), config_from(config), arch);
}

Params GemmFamily::reference_config(const Params& problem) const {
  problem_from(problem);
  GemmConfig config;
  config.kernel = "reference";
  return to_params(config);
}

bool GemmFamily::is_library(const Params& config) const {
  return config_from(config).kernel == "cublaslt";
}

KernelSource GemmFamily::source(const Params& problem, const Params& config,
                                const Arch& arch) const {
  const GemmProblem p = problem_from(problem);
  const GemmConfig c = config_from(config);
  if (const auto why = quern::reject_reason(p, c, arch)) throw InputError(*why);

  const std::string shape = fmt::format(
      "struct Problem {{\n  static constexpr int n = {};\n  static constexpr int k = {};\n"
      "  using Input = {};\n  using Output = {};\n}};\n",
      p.n, p.k, device_type(p.dtype), device_type(p.out_dtype));
  if (c.kernel == "reference")
    return {fmt::format("#include \"gemm/reference.cuh\"\n\n{}\n"
                        "extern \"C\" __global__ void __launch_bounds__({})\n"
                        "gemm_reference(const quern::GemmArgs args) {{\n"
                        "  quern::gemm_reference<Problem>(args);\n}}\n",
                        shape, kReferenceTile * kReferenceTile),
            "gemm_reference",
            {}};

  if (c.kernel == "wgmma")
    return {source_wgmma(p, c, shape, config_struct(config)), "gemm_wgmma", {}};

  const bool gemv = c.kernel == "gemv";
  const std::string entry = fmt::format("gemm_{}", c.kernel);
  return {fmt::format("#include \"gemm/{}.cuh\"\n\n{}{}\n"
                      "extern \"C\" __global__ void __launch_bounds__({}, {})\n"
                      "{}(const quern::GemmArgs args) {{\n"
                      "  extern __shared__ __align__(128) unsigned char smem[];\n"
                      "  quern::{}<Problem, Config>::run(args, smem);\n}}\n",
                      c.kernel, shape, config_struct(config),
                      (gemv ? c.warps_n * c.warps_k : c.warps_m * c.warps_n) * 32,
                      gemv ? c.blocks_per_sm : 1, entry, gemv ? "Gemv" : "MmaGemm"),
          entry,
          {}};
}

LaunchPlan GemmFamily::plan(const Params& problem, const Params& config, const Arch& arch) const {
  const GemmProblem p = problem_from(problem);
  const GemmConfig c = config_from(config);
  if (const auto why = quern::reject_reason(p, c, arch)) throw InputError(*why);
  return quern::plan(p, c, arch);
}

std::vector<OperandSpec> GemmFamily::operands(const Params& problem) const {
  const GemmProblem p = problem_from(problem);
  OperandSpec x{"x", p.dtype, {p.m, p.k}, OperandSpec::Role::in, 1.0, {}};
  // Sums of k products then have a standard deviation of 1, as tolerance() assumes.
  OperandSpec w{"w", p.dtype, {p.n, p.k}, OperandSpec::Role::in, 1.0 / std::sqrt(p.k), {}};
  OperandSpec y{"y", p.out_dtype, {p.m, p.n}, OperandSpec::Role::out, 1.0, {}};
  return {x, w, y};
}

std::vector<TensorMapSpec> GemmFamily::tensor_maps(const Params& problem,
                                                   const Params& config) const {
  const GemmConfig c = config_from(config);
  if (c.kernel != "wgmma") return {};
  return tensor_maps_wgmma(problem_from(problem), c);
}

std::vector<std::byte> GemmFamily::pack_args(const Params& problem, const Params& config,
                                             std::span<const std::uint64_t> addresses,
                                             std::uint64_t workspace) const {
  const GemmProblem p = problem_from(problem);
  if (addresses.size() != 3) throw InputError("gemm has the operands x, w and y");
  if (config_from(config).kernel == "wgmma") {
    GemmTmaArgs args{};
    args.y = reinterpret_cast<void*>(addresses[2]);
    args.workspace = reinterpret_cast<void*>(workspace);
    args.m = p.m;
    return args_bytes(args);
  }
  GemmArgs args{};
  args.x = reinterpret_cast<const void*>(addresses[0]);
  args.w = reinterpret_cast<const void*>(addresses[1]);
  args.y = reinterpret_cast<void*>(addresses[2]);
  args.workspace = reinterpret_cast<void*>(workspace);
  args.m = p.m;
  return args_bytes(args);
}

Cost GemmFamily::cost(const Params& problem) const {
  const GemmProblem p = problem_from(problem);
  const double m = p.m, n = p.n, k = p.k;
  return {2 * (m * k + n * k) + static_cast<double>(size_bits(p.out_dtype)) / 8 * m * n,
          2 * m * n * k};
}

Tolerance GemmFamily::tolerance(const Params& problem, std::size_t) const {
  const GemmProblem p = problem_from(problem);
  // Two roundings of nearly the same sum differ by at most one unit in the last place. The sums
  // themselves, of k products with a total of about 1, differ by a random walk of fp32 roundings,
  // and by the truncation of tensor cores (2^-23 at most for each of k / 16 additions).
  const double rel = p.out_dtype == DType::bf16  ? std::ldexp(1.0, -7)
                     : p.out_dtype == DType::f16 ? std::ldexp(1.0, -10)
                                                 : std::ldexp(1.0, -16);
  const double k = p.k;
  return {std::ldexp(std::sqrt(k), -20) + std::ldexp(k, -27), rel};
}

}  // namespace quern
