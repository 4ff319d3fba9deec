#include "templates/gemm_wna16/gemm_wna16_wgmma.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>

#include "templates/common/roofline.h"
#include "templates/common/tunables.h"
#include "templates/common/workspace_args.h"
#include "templates/gemm_wna16/gemm_wna16_args.h"

namespace quern {
namespace {

int smem_bytes(const GemmWna16Problem& p, const GemmWna16Config& c) {
  return wna16_wgmma_smem_bytes(p.bits, p.group_size, p.zero_points, c.tile_m, c.tile_n, c.warps_n,
                                c.units, c.stages, c.cluster_k,
                                static_cast<int>(size_bits(p.out_dtype)) / 8);
}
int cluster(const GemmWna16Config& c) { return c.cluster_m * c.cluster_n * c.cluster_k; }
/// What clusters walk over: tiles of all their blocks, which those of cluster_k share.
std::int64_t cluster_tiles(const GemmWna16Problem& p, const GemmWna16Config& c) {
  return ceil_div(ceil_div(p.m, c.tile_m), c.cluster_m) *
         ceil_div(ceil_div(p.n, c.tile_n), c.cluster_n);
}
std::int64_t tiles(const GemmWna16Problem& p, const GemmWna16Config& c) {
  return cluster_tiles(p, c) * c.cluster_m * c.cluster_n;
}
/// Clusters that are resident together. The SMs of a cluster belong to one part of the GPU, of 16
/// or 18 of them on an H200, so that clusters of 4 and 8 leave some without work.
int clusters_at_once(const GemmWna16Config& c, const Arch& arch) {
  const int sms = std::max(1, arch.num_sms);
  return std::max(1, cluster(c) <= 2 ? sms / cluster(c) : sms / 16 * 16 / cluster(c));
}
/// Blocks that share an output tile, in a cluster or through the workspace.
int shares_of_k(const GemmWna16Config& c) { return c.split_k * c.cluster_k; }
/// A warpgroup that copies comes on top.
int threads(const GemmWna16Config& c) { return c.warps_n * 32 + 128; }
/// Accumulators of a thread.
int sums(const GemmWna16Config& c) { return c.tile_n / (c.warps_n * 16) * (c.tile_m / 2); }
/// Of the architecture's registers a thread that multiplies gets 232 of two warpgroups, 160 of
/// three, 112 of four; fragments and addresses take the rest.
int max_sums(const GemmWna16Config& c) { return c.warps_n == 8 ? 128 : c.warps_n == 12 ? 64 : 32; }

int chunk_columns(const GemmWna16Problem& p, const GemmWna16Config& c) {
  return c.units * wna16_unit_columns(p.bits);
}

/// CUDA source of `struct Product` whose run(float (&d)[tile_m / 2], const u32 (&a)[4], u64 b) adds
/// the product of a[64, 16] in registers and b[tile_m, 32 bytes] by descriptor.
std::string product(DType dtype, int tokens) {
  const int count = tokens / 2;  // accumulators of a thread
  std::string registers, operands;
  for (int i = 0; i < count; ++i) {
    registers += fmt::format("{}%{}", i == 0 ? "" : ",", i);
    operands += fmt::format("{}\"+f\"(d[{}])", i == 0 ? "" : ", ", i);
  }
  const std::string_view type = dtype == DType::f16 ? "f16" : "bf16";
  return fmt::format(
      "struct Product {{\n"
      "  static __device__ __forceinline__ void run(float (&d)[{}], const quern::u32 (&a)[4],\n"
      "                                             quern::u64 b) {{\n"
      "    asm volatile(\"wgmma.mma_async.sync.aligned.m64n{}k16.f32.{}.{} {{{}}}, \"\n"
      "                 \"{{%{}, %{}, %{}, %{}}}, %{}, 1, 1, 1, 0;\"\n"
      "                 : {}\n"
      "                 : \"r\"(a[0]), \"r\"(a[1]), \"r\"(a[2]), \"r\"(a[3]), \"l\"(b));\n  "
      "}}\n}};\n",
      count, tokens, type, type, registers, count, count + 1, count + 2, count + 3, count + 4,
      operands);
}

}  // namespace

std::optional<std::string> reject_wgmma(const GemmWna16Problem& p, const GemmWna16Config& c,
                                        const Arch& arch) {
  if (!arch.has_wgmma()) return fmt::format("{} has no wgmma", arch.name());
  if (c.warps_n != 8 && c.warps_n != 12 && c.warps_n != 16)
    return fmt::format("{} warps are not two to four warpgroups", c.warps_n);
  if (c.tile_n % (c.warps_n * 16) != 0 || c.tile_n < 128)
    return fmt::format("tile_n = {} is not 64 or 128 rows for each of {} warpgroups", c.tile_n,
                       c.warps_n / 4);
  if (c.tile_m < 16) return "a product has at least 16 tokens";
  if (sums(c) > max_sums(c))
    return fmt::format("{} sums of a thread are more than {}", sums(c), max_sums(c));
  if (p.bits == 8 ? c.units < 2 : c.units < 1) return "x comes in blocks of 64 columns";
  const int columns = chunk_columns(p, c);
  if (p.k % columns != 0) return fmt::format("k = {} is not whole stages of {}", p.k, columns);
  if (p.group_size != p.k && columns % p.group_size != 0 && p.group_size % columns != 0)
    return fmt::format("groups of {} columns and chunks of {} do not divide one another",
                       p.group_size, columns);
  if (smem_bytes(p, c) > arch.smem_per_block_bytes)
    return fmt::format("needs {} bytes of shared memory, {} has {} for a block", smem_bytes(p, c),
                       arch.name(), arch.smem_per_block_bytes);
  if (cluster(c) > 8) return fmt::format("a cluster has at most 8 blocks, not {}", cluster(c));
  if (c.tile_m % (8 * c.cluster_n) != 0)
    return fmt::format("{} blocks do not share {} tokens in groups of 8", c.cluster_n, c.tile_m);
  if (c.tile_n % (16 * c.cluster_m) != 0)
    return fmt::format("{} blocks do not share {} rows of w by sixteens", c.cluster_m, c.tile_n);
  if (c.tile_m % (8 * c.cluster_k) != 0)
    return fmt::format("{} blocks do not add {} tokens in groups of 8", c.cluster_k, c.tile_m);
  if (c.split_k > 1 && c.cluster_k > 1)
    return "sums of a tile are added in a cluster or in the workspace, not in both";
  if (shares_of_k(c) > ceil_div(p.k, columns))
    return fmt::format("{} blocks share the {} chunks of k", shares_of_k(c),
                       ceil_div(p.k, columns));
  if (tiles(p, c) * c.split_k > 0x3fffffff) return "more tiles than are counted";
  if (c.split_k > 1) {
    if (tiles(p, c) > kMaxCounters)
      return fmt::format("{} split output tiles are more than {} counters", tiles(p, c),
                         kMaxCounters);
    if (plan_wgmma(p, c, arch).workspace_bytes > kMaxWorkspaceBytes)
      return fmt::format("partial sums are more than {} bytes", kMaxWorkspaceBytes);
  }
  return std::nullopt;
}

LaunchPlan plan_wgmma(const GemmWna16Problem& p, const GemmWna16Config& c, const Arch& arch) {
  LaunchPlan plan;
  const std::int64_t work = cluster_tiles(p, c) * c.split_k;
  plan.grid[0] =
      static_cast<unsigned>(std::min<std::int64_t>(work, clusters_at_once(c, arch)) * cluster(c));
  plan.block[0] = threads(c);
  plan.cluster = static_cast<unsigned>(cluster(c));
  plan.smem_bytes = static_cast<unsigned>(smem_bytes(p, c));
  plan.pdl = true;
  plan.workspace_bytes = split_workspace_bytes(tiles(p, c), c.split_k, c.tile_m * c.tile_n);
  return plan;
}

std::string source_wgmma(const GemmWna16Problem& p, const GemmWna16Config& c,
                         const std::string& types, const std::string& tunables) {
  return fmt::format(
      "#include \"gemm_wna16/wgmma.cuh\"\n\n{}{}{}\n"
      "extern \"C\" __global__ void __launch_bounds__({}, 1)\n"
      "gemm_wna16_wgmma(const __grid_constant__ quern::GemmWna16TmaArgs args) {{\n"
      "  extern __shared__ __align__(128) unsigned char smem[];\n"
      "  quern::WgmmaWna16<Problem, Config, Product>::run(args, smem);\n}}\n",
      types, tunables, product(p.dtype, c.tile_m), threads(c));
}

std::vector<TensorMapSpec> tensor_maps_wgmma(const GemmWna16Problem& p, const GemmWna16Config& c) {
  std::vector<TensorMapSpec> maps = {
      {0, offsetof(GemmWna16TmaArgs, x_map), p.dtype, p.m, p.k, c.tile_m / c.cluster_n, 64}};
  if (c.cluster_k == 1) {
    const int bytes = static_cast<int>(size_bits(p.out_dtype)) / 8;
    maps.push_back({p.zero_points ? std::size_t{4} : std::size_t{3},
                    offsetof(GemmWna16TmaArgs, y_map), p.out_dtype, p.m, p.n,
                    wna16_wgmma_store_tokens(c.tile_m, bytes), 128 / bytes});
  }
  return maps;
}

void add_wgmma(const GemmWna16Problem& p, std::vector<GemmWna16Config>& points) {
  if (p.m <= 8) return;  // most of the smallest tile would be padding
  GemmWna16Config c;
  c.kernel = "wgmma";
  for (c.tile_m = 16; c.tile_m <= 256; c.tile_m *= 2) {
    if (c.tile_m > 16 && c.tile_m >= 2 * p.m) break;
    for (const auto& [tile_n, warps_n] : {std::pair{128, 8}, {256, 8}})
      for (const int units : {1, 2, 4, 8})
        for (const int stages : {2, 3, 4, 6})
          for (const int split : {1, 2, 3, 4, 8}) {
            c.tile_n = tile_n, c.warps_n = warps_n;
            c.units = units, c.stages = stages, c.split_k = split;
            points.push_back(c);
          }
  }
}

std::optional<std::string> wasteful_wgmma(const GemmWna16Problem& p, const GemmWna16Config& c,
                                          const Arch& arch) {
  const double sms = std::max(1, arch.num_sms);
  const double output_tiles = static_cast<double>(tiles(p, c)), work = output_tiles * c.split_k;
  if (c.split_k > 1 && (output_tiles >= sms || work > 2 * sms))
    return fmt::format("{} tiles fill the GPU without split_k = {}", output_tiles, c.split_k);
  if (work < sms / 2 && 2.0 * c.split_k <= std::min(8.0, ceil_ratio(p.k, chunk_columns(p, c))))
    return fmt::format("{} tiles leave most of {} SMs without work", work, sms);
  const double in_flight =
      (c.stages - 1) *
      wna16_wgmma_stage_bytes(p.bits, p.group_size, p.zero_points, c.tile_m, c.tile_n, c.units);
  if (in_flight < 24 << 10 && p.k >= 1024)
    return fmt::format("{} bytes in flight for a block are too few", in_flight);
  const double dequantised = ceil_ratio(p.m, c.tile_m);
  if (dequantised > 8 && c.tile_m < 128)
    return fmt::format("{} tiles of tokens make fragments of the same weights", dequantised);
  return std::nullopt;
}

double estimate_wgmma_us(const GemmWna16Problem& p, const GemmWna16Config& c, const Arch& arch) {
  const double clocks_per_us = arch.clock_ghz * 1e3, sms = std::max(1, arch.num_sms);
  const int columns = chunk_columns(p, c);
  const double output_tiles = static_cast<double>(tiles(p, c)), work = output_tiles * c.split_k;
  const double blocks = std::min(work, sms), rounds = ceil_ratio(work, sms);
  const double steps = ceil_ratio(ceil_ratio(p.k, columns), c.split_k);
  const double w_bytes =
      c.tile_n / 16 * wna16_chunk_bytes(p.bits, p.group_size, p.zero_points, c.units);
  const double x_bytes = c.tile_m * columns * 2.0;
  // Of tiles of the same rows of w one fetches them from DRAM.
  const double shared_by = std::min(ceil_ratio(p.m, c.tile_m), blocks);
  const double dram =
      blocks * w_bytes / shared_by / dram_rate(arch, blocks, (c.stages - 1) * (w_bytes + x_bytes));
  const double l2 =
      std::max((w_bytes + x_bytes) / sm_rate(arch), blocks * (w_bytes + x_bytes) / 9e6);
  // A product of 64 rows by n tokens takes n / 2 clocks of all four tensor cores, and 40 more, in
  // which its fragments are made (H200, 16 to 256 tokens).
  const double k16 = columns / 16.0, row_blocks = c.tile_n / 64.0;
  const double math = k16 * row_blocks * (c.tile_m / 2 + 40) / 0.95 / clocks_per_us;
  const double step = overlapped({dram, l2, math});
  const double sums = c.tile_m * c.tile_n * 4.0;
  const double split =
      c.split_k == 1
          ? 0
          : 1.5 + std::max((1 + c.split_k) * sums / (0.5 * sm_rate(arch)), 2 * work * sums / 3e6);
  const double finish = split + sums / sm_rate(arch) + 0.3;
  return kLaunchUs + kDramLatencyUs + 0.5 + rounds * (steps * step + finish);
}

}  // namespace quern
