#include "templates/gemm_w8a8/gemm_w8a8_wgmma.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>

#include "templates/common/roofline.h"
#include "templates/common/tunables.h"
#include "templates/common/wgmma.h"
#include "templates/gemm/gemm_args.h"
#include "templates/gemm_w8a8/gemm_w8a8_args.h"

namespace quern {
namespace {

constexpr int kThreads = 384;  // two warpgroups that multiply, one that copies
constexpr int kTileK = 128;    // elements, the span of the swizzle in bytes
/// 32-bit sums of a thread that are not promoted: beside more the epilogue has no room, which holds
/// scales of eight columns where they have their own.
constexpr int kMaxSums = 160, kMaxSumsOfTensors = 192;
/// With promotion: the promoted ones and two sets of those of the tensor cores. The rest of the 232
/// registers are addresses, scales and the epilogue.
constexpr int kMaxPromotedSums = 192;

/// In pairs of elements, as gemm's kernel counts them.
int smem_bytes(const GemmW8A8Problem& p, const GemmW8A8Config& c, int stages) {
  return wgmma_smem_bytes(c.tile_m, c.tile_n, kTileK / 2, stages, c.cluster_k) +
         (p.has_block_scales() ? w8a8_wgmma_scale_bytes(c.tile_m, stages) : 0);
}
int rows_of_group(const GemmW8A8Config& c) { return c.pingpong ? c.tile_m : c.tile_m / 2; }

/// Rows of tiles, in whole clusters.
std::int64_t tiles_m(const GemmW8A8Problem& p, const GemmW8A8Config& c) {
  return ceil_div(ceil_div(p.m, c.tile_m), c.cluster) * c.cluster;
}
std::int64_t tiles(const GemmW8A8Problem& p, const GemmW8A8Config& c) {
  return tiles_m(p, c) * ceil_div(p.n, c.tile_n);
}
int cluster(const GemmW8A8Config& c) { return c.cluster * c.cluster_k; }  // blocks of one

}  // namespace

std::optional<std::string> reject_wgmma(const GemmW8A8Problem& p, const GemmW8A8Config& c,
                                        const Arch& arch) {
  if (!arch.has_wgmma()) return fmt::format("{} has no wgmma", arch.name());
  if (p.n % 8 != 0 || p.k % 16 != 0)
    return fmt::format(
        "TMA copies rows of whole 16 bytes: n is a multiple of 8 and k of 16, not {} and {}", p.n,
        p.k);
  if (c.tile_k != kTileK) return "tile_k is 128, the span of the swizzle";
  const int rows = rows_of_group(c);
  if (rows < 64 || rows % 64 != 0)
    return fmt::format("tile_m = {} is not 64 rows for each warpgroup", c.tile_m);
  if (c.promote > 0 && rows > 64)
    return fmt::format("sums are promoted for 64 rows of a warpgroup, not {}", rows);
  const int sums = rows / 64 * c.tile_n / 2 * (c.promote > 0 ? 3 : 1);
  const int most = c.promote > 0           ? kMaxPromotedSums
                   : p.w_scale == "tensor" ? kMaxSumsOfTensors
                                           : kMaxSums;
  if (sums > most) return fmt::format("{} sums of a thread are too many", sums);
  if (p.dtype == DType::e4m3 && c.promote == 0 && p.k > kMaxUnpromotedK)
    return fmt::format("sums of k = {} products of e4m3 need promotion", p.k);
  if (p.dtype == DType::i8 && c.promote > 0) return "sums of integers are exact without promotion";
  if (p.has_block_scales()) {
    if (c.promote == 0) return "with block scales sums are promoted after every 128 of k";
    if (kScaleBlock % c.tile_n != 0)
      return fmt::format("a tile of {} columns does not lie in one block of scales", c.tile_n);
  }
  if (c.tile_n % (8 * c.cluster) != 0)
    return fmt::format("a cluster of {} does not share {} rows of w in groups of 8", c.cluster,
                       c.tile_n);
  if (c.cluster_k > 1) {
    const std::int64_t steps = ceil_div(p.k, kTileK);
    if (c.cluster > 1) return "blocks share the k of a tile or w, not both";
    if (c.tile_n % (16 * c.cluster_k) != 0)
      return fmt::format("{} blocks do not add {} columns in groups of 16", c.cluster_k, c.tile_n);
    if (steps % (c.cluster_k * (p.has_block_scales() ? 4 : 1)) != 0)
      return fmt::format("{} blocks do not share {} steps of k evenly", c.cluster_k, steps);
  }
  const int bytes = smem_bytes(p, c, c.stages);
  if (bytes > arch.smem_per_block_bytes)
    return fmt::format("needs {} bytes of shared memory, {} has {} for a block", bytes, arch.name(),
                       arch.smem_per_block_bytes);
  if (tiles(p, c) > 0x3fffffff) return "more tiles than are counted";
  return std::nullopt;
}

LaunchPlan plan_wgmma(const GemmW8A8Problem& p, const GemmW8A8Config& c, const Arch& arch) {
  LaunchPlan plan;
  const std::int64_t work = tiles(p, c) / c.cluster;
  // Blocks that exchange sums do so for one tile.
  const std::int64_t at_once = c.cluster_k > 1 ? work : clusters_at_once(cluster(c), arch);
  plan.grid[0] = static_cast<unsigned>(std::min(work, at_once) * cluster(c));
  plan.block[0] = kThreads;
  plan.cluster = static_cast<unsigned>(cluster(c));
  plan.smem_bytes = static_cast<unsigned>(smem_bytes(p, c, c.stages));
  plan.pdl = true;
  return plan;
}

std::string source_wgmma(const GemmW8A8Problem& p, const GemmW8A8Config& c,
                         const std::string& types, const std::string& tunables) {
  return fmt::format(
      "#include \"gemm_w8a8/wgmma.cuh\"\n\n{}{}{}\n"
      "extern \"C\" __global__ void __launch_bounds__({}, 1)\n"
      "gemm_w8a8_wgmma(const __grid_constant__ quern::GemmW8A8TmaArgs args) {{\n"
      "  extern __shared__ __align__(128) unsigned char smem[];\n"
      "  quern::WgmmaW8A8<Problem, Config, Product>::run(args, smem);\n}}\n",
      types, tunables, wgmma_product("Product", p.dtype, c.tile_n), kThreads);
}

std::vector<TensorMapSpec> tensor_maps_wgmma(const GemmW8A8Problem& p, const GemmW8A8Config& c) {
  // The kernel counts columns in pairs of elements, so the maps do.
  constexpr DType kPair = DType::bf16;
  return {{0, offsetof(GemmTmaArgs, x_map), kPair, p.m, p.k / 2, c.tile_m, kTileK / 2},
          {1, offsetof(GemmTmaArgs, w_map), kPair, p.n, p.k / 2, c.tile_n / c.cluster, kTileK / 2}};
}

void add_wgmma(const GemmW8A8Problem& p, std::vector<GemmW8A8Config>& points) {
  if (p.m <= 16) return;  // three quarters of the smallest tile would be padding
  GemmW8A8Config c;
  c.kernel = "wgmma";
  c.tile_k = kTileK;
  for (const bool pingpong : {false, true})
    for (c.tile_m = 64; c.tile_m <= 256; c.tile_m *= 2)
      for (const int tile_n : {32, 64, 96, 128, 160, 192, 224, 256})
        for (const auto& [cluster, cluster_k] : {std::pair{1, 1}, {2, 1}, {1, 2}})
          for (c.stages = 3; c.stages <= 8; ++c.stages)
            for (const int promote : {0, 1})
              for (const int group_m : {1, 4, 8, 16}) {
                c.pingpong = pingpong, c.tile_n = tile_n, c.promote = promote, c.group_m = group_m;
                c.cluster = cluster, c.cluster_k = cluster_k;
                points.push_back(c);
              }
}

void add_usual_wgmma(const GemmW8A8Problem& p, std::vector<GemmW8A8Config>& points) {
  if (p.m <= 16) return;
  GemmW8A8Config c;
  c.kernel = "wgmma";
  c.tile_k = kTileK;
  struct Shape {
    int tile_m, tile_n, stages, cluster;
    bool pingpong;
    int cluster_k = 1;
  };
  // Unless the gate of a tune has shown that it may be left out, sums of e4m3 are promoted.
  c.promote = p.dtype == DType::i8 ? 0 : 1;
  for (const Shape& s :
       {Shape{128, 256, 4, 1, false}, Shape{128, 192, 5, 1, false}, Shape{256, 128, 4, 2, false},
        Shape{128, 128, 6, 1, false}, Shape{128, 64, 8, 1, false}, Shape{64, 128, 8, 1, true},
        Shape{64, 64, 8, 1, true, 2}})
    for (const int group_m : {1, 4, 8}) {
      c.tile_m = s.tile_m, c.tile_n = s.tile_n, c.stages = s.stages, c.cluster = s.cluster;
      c.pingpong = s.pingpong, c.cluster_k = s.cluster_k, c.group_m = group_m;
      points.push_back(c);
    }
}

std::optional<std::string> wasteful_wgmma(const GemmW8A8Problem& p, const GemmW8A8Config& c,
                                          const Arch& arch) {
  const std::int64_t rows = ceil_div(p.m, c.tile_m);
  if (c.tile_m >= 2 * p.m && rows_of_group(c) > 64)
    return fmt::format("tiles of {} rows are mostly padding", c.tile_m);
  if (c.cluster > 1 && rows < c.cluster) return "one row of tiles leaves a cluster half empty";
  const std::int64_t groups = ceil_div(rows, c.cluster);
  if (c.group_m > 1 && groups <= c.group_m / 2)
    return fmt::format("a group of {} tiles along m is the same as one of fewer", c.group_m);
  if (c.cluster_k > 1 && double(tiles(p, c)) >= 0.8 * std::max(1, arch.num_sms))
    return fmt::format("{} tiles fill the GPU without {} shares of k", tiles(p, c), c.cluster_k);
  if (groups > 4 && c.group_m < 4) return "so small a group along m reads w too often";
  if (c.stages != 4 && c.stages < 8 && smem_bytes(p, c, c.stages + 1) <= arch.smem_per_block_bytes)
    return "a deeper ring fits";
  return std::nullopt;
}

double estimate_wgmma_us(const GemmW8A8Problem& p, const GemmW8A8Config& c, const Arch& arch) {
  const double clocks_per_us = arch.clock_ghz * 1e3;
  const double work = double(tiles(p, c)) / c.cluster;
  const double at_once = std::min<double>(work, clusters_at_once(cluster(c), arch));
  const double rounds = std::ceil(work / at_once);
  const double steps = ceil_ratio(p.k, kTileK) / c.cluster_k;
  const double x_bytes = double(c.tile_m) * kTileK, w_bytes = double(c.tile_n) * kTileK;
  // What the tensor cores of one SM reach of twice the 16-bit rate: less than on paper, for the
  // power that all of them draw.
  constexpr double kShare = 0.75;
  const double flops = 2.0 * c.tile_m * c.tile_n * kTileK;
  const double math = flops / (kShare * 2 * arch.tensor_tflops * 1e6 / std::max(1, arch.num_sms));
  // Lanes add up the sums of every stage while the next is multiplied; a warpgroup by itself hides
  // less of it.
  const double promotion = c.promote == 0 ? 0
                                          : lanes_us(arch, c.tile_m * c.tile_n * 1.5 + 256 * 40) +
                                                (c.pingpong ? 0.05 : 0.02);
  // Both operands of every 64 rows are read from shared memory.
  constexpr double kSmemBytesPerClock = 128;
  const double smem = (x_bytes + c.tile_m / 64.0 * w_bytes) / kSmemBytesPerClock / clocks_per_us;
  const double l2 = (x_bytes + w_bytes / c.cluster) / sm_rate(arch);
  const double shared_by = std::min<double>(double(tiles_m(p, c)), c.group_m * c.cluster);
  const double blocks = at_once * cluster(c);
  const double dram =
      blocks * w_bytes / shared_by / dram_rate(arch, blocks, (c.stages - 1) * (x_bytes + w_bytes));
  const double latency = kDramLatencyUs / (c.stages - 1);
  const double step = overlapped({math, smem, l2, dram, latency, promotion});
  const double out_bytes = static_cast<double>(size_bits(p.out_dtype)) / 8;
  const double stores = 0.3 + c.tile_m * c.tile_n * out_bytes / (0.5 * sm_rate(arch));
  // The other warpgroup multiplies meanwhile, in all rounds but the last.
  const double exchange =
      c.cluster_k == 1 ? 0 : 0.8 + c.tile_m * c.tile_n * 2.0 / (0.5 * sm_rate(arch));
  const double own = stores / c.cluster_k + exchange;
  const double finish = c.pingpong ? own + 0.1 * rounds * own : rounds * own;
  return kLaunchUs + kDramLatencyUs + rounds * steps * step + finish;
}

}  // namespace quern
