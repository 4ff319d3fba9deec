#include "templates/gemm/gemm_wgmma.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>

#include "templates/common/roofline.h"
#include "templates/common/tunables.h"
#include "templates/common/wgmma.h"
#include "templates/common/workspace_args.h"
#include "templates/gemm/gemm_args.h"

namespace quern {
namespace {

constexpr int kThreads = 384;  // two warpgroups that multiply, one that copies
/// Accumulators of a thread, whose registers are 232; fewer where others' sums are added to them.
constexpr int kMaxSums = 192, kMaxStreamedSums = 160, kMaxPingpongStreamedSums = 128;

int smem_bytes(const GemmConfig& c) {
  return wgmma_smem_bytes(c.tile_m, c.tile_n, c.tile_k, c.stages, c.cluster_k);
}
int rows_of_group(const GemmConfig& c) { return c.pingpong ? c.tile_m : c.tile_m / 2; }

/// Rows of tiles, in whole clusters.
std::int64_t tiles_m(const GemmProblem& p, const GemmConfig& c) {
  return ceil_div(ceil_div(p.m, c.tile_m), c.cluster) * c.cluster;
}
std::int64_t tiles(const GemmProblem& p, const GemmConfig& c) {
  return tiles_m(p, c) * ceil_div(p.n, c.tile_n);
}
int cluster(const GemmConfig& c) { return c.cluster * c.cluster_k; }  // blocks of one
/// Blocks that share an output tile, in a cluster or through the workspace.
int shares_of_k(const GemmConfig& c) { return c.split_k * c.cluster_k; }

}  // namespace

std::optional<std::string> reject_wgmma(const GemmProblem& p, const GemmConfig& c,
                                        const Arch& arch) {
  if (!arch.has_wgmma()) return fmt::format("{} has no wgmma", arch.name());
  if (p.n % 8 != 0 || p.k % 8 != 0)
    return fmt::format(
        "TMA copies rows of whole 16 bytes: n and k are multiples of 8, not {} and {}", p.n, p.k);
  if (c.tile_k != 64) return "tile_k is 64, the span of the swizzle";
  const int rows = rows_of_group(c);
  if (rows < 64 || rows % 64 != 0)
    return fmt::format("tile_m = {} is not 64 rows for each warpgroup", c.tile_m);
  const int sums = rows / 64 * c.tile_n / 2;
  const int most = c.stream_k == 0 ? kMaxSums
                   : c.pingpong    ? kMaxPingpongStreamedSums
                                   : kMaxStreamedSums;
  if (sums > most) return fmt::format("{} sums of a thread are more than {}", sums, most);
  if (c.tile_n % (8 * c.cluster) != 0)
    return fmt::format("a cluster of {} does not share {} rows of w in groups of 8", c.cluster,
                       c.tile_n);
  if (c.pingpong && c.split_k > 1) return "pingpong does not split k";
  if (c.stream_k > 0 && shares_of_k(c) > 1)
    return "blocks that share all tiles evenly share the k of none in another way";
  if (c.cluster_k > 1 && (c.split_k > 1 || c.cluster > 1))
    return "blocks share the k of a tile in one way, and w with no others";
  if (c.tile_n % (16 * c.cluster_k) != 0)
    return fmt::format("{} blocks do not add {} columns in groups of 16", c.cluster_k, c.tile_n);
  if (smem_bytes(c) > arch.smem_per_block_bytes)
    return fmt::format("needs {} bytes of shared memory, {} has {} for a block", smem_bytes(c),
                       arch.name(), arch.smem_per_block_bytes);
  if (shares_of_k(c) > ceil_div(p.k, c.tile_k))
    return fmt::format("{} shares are more than the {} tiles of k", shares_of_k(c),
                       ceil_div(p.k, c.tile_k));
  if (tiles(p, c) * shares_of_k(c) > 0x3fffffff) return "more tiles than are counted";
  if (c.split_k > 1) {
    if (tiles(p, c) > kMaxCounters)
      return fmt::format("{} split output tiles are more than {} counters", tiles(p, c),
                         kMaxCounters);
    if (plan_wgmma(p, c, arch).workspace_bytes > kMaxWorkspaceBytes)
      return fmt::format("partial sums are more than {} bytes", kMaxWorkspaceBytes);
  }
  return std::nullopt;
}

LaunchPlan plan_wgmma(const GemmProblem& p, const GemmConfig& c, const Arch& arch) {
  LaunchPlan plan;
  const std::int64_t work = tiles(p, c) / c.cluster * c.split_k;
  // Blocks that exchange sums do so for one tile.
  const std::int64_t at_once = c.cluster_k > 1 ? work : clusters_at_once(cluster(c), arch);
  plan.grid[0] = static_cast<unsigned>(std::min(work, at_once) * cluster(c));
  plan.block[0] = kThreads;
  plan.cluster = static_cast<unsigned>(cluster(c));
  plan.smem_bytes = static_cast<unsigned>(smem_bytes(c));
  plan.pdl = true;
  const int sums = c.tile_m * c.tile_n;
  plan.workspace_bytes = c.stream_k > 0 ? stream_workspace_bytes(plan.grid[0], sums)
                                        : split_workspace_bytes(tiles(p, c), c.split_k, sums);
  return plan;
}

std::string source_wgmma(const GemmProblem& p, const GemmConfig& c, const std::string& types,
                         const std::string& tunables) {
  return fmt::format(
      "#include \"gemm/wgmma.cuh\"\n\n{}{}{}\n"
      "extern \"C\" __global__ void __launch_bounds__({}, 1)\n"
      "gemm_wgmma(const __grid_constant__ quern::GemmTmaArgs args) {{\n"
      "  extern __shared__ __align__(128) unsigned char smem[];\n"
      "  quern::WgmmaGemm<Problem, Config, Product>::run(args, smem);\n}}\n",
      types, tunables, wgmma_product("Product", p.dtype, c.tile_n), kThreads);
}

std::vector<TensorMapSpec> tensor_maps_wgmma(const GemmProblem& p, const GemmConfig& c) {
  return {{0, offsetof(GemmTmaArgs, x_map), p.dtype, p.m, p.k, c.tile_m, c.tile_k},
          {1, offsetof(GemmTmaArgs, w_map), p.dtype, p.n, p.k, c.tile_n / c.cluster, c.tile_k}};
}

void add_wgmma(const GemmProblem& p, std::vector<GemmConfig>& points) {
  if (p.m <= 16) return;  // three quarters of the smallest tile would be padding
  GemmConfig c;
  c.kernel = "wgmma";
  c.tile_k = 64;
  struct Sharing {
    int cluster, split_k, cluster_k, stream_k = 0;
  };
  for (const bool pingpong : {false, true})
    for (c.tile_m = 64; c.tile_m <= 256; c.tile_m *= 2)
      for (const int tile_n : {64, 96, 128, 160, 192, 224, 256})
        for (const Sharing& s :
             {Sharing{1, 1, 1}, Sharing{1, 2, 1}, Sharing{1, 3, 1}, Sharing{1, 4, 1},
              Sharing{1, 6, 1}, Sharing{1, 8, 1}, Sharing{1, 1, 2}, Sharing{1, 1, 4},
              Sharing{2, 1, 1}, Sharing{2, 2, 1}, Sharing{2, 3, 1}, Sharing{2, 4, 1},
              Sharing{1, 1, 1, 1}, Sharing{2, 1, 1, 1}})
          for (c.stages = 3; c.stages <= 8; ++c.stages)
            for (const int group_m : {1, 4, 8, 16}) {
              c.pingpong = pingpong, c.tile_n = tile_n, c.group_m = group_m;
              c.cluster = s.cluster, c.split_k = s.split_k, c.cluster_k = s.cluster_k;
              c.stream_k = s.stream_k;
              points.push_back(c);
            }
}

void add_usual_wgmma(std::vector<GemmConfig>& points) {
  GemmConfig c;
  c.kernel = "wgmma";
  c.tile_k = 64, c.cluster = 1, c.split_k = 1;
  struct Shape {
    int tile_m, tile_n, stages;
    bool pingpong;
    int cluster_k = 1;
  };
  for (const Shape& s :
       {Shape{128, 256, 4, false}, Shape{128, 192, 5, true}, Shape{128, 128, 6, true},
        Shape{128, 96, 7, false}, Shape{64, 128, 8, true}, Shape{128, 128, 6, false, 2},
        Shape{128, 64, 8, false, 2}, Shape{64, 64, 8, true, 2}})
    for (const int group_m : {1, 4, 8}) {
      c.tile_m = s.tile_m, c.tile_n = s.tile_n, c.stages = s.stages, c.pingpong = s.pingpong;
      c.cluster_k = s.cluster_k, c.group_m = group_m;
      points.push_back(c);
    }
}

std::optional<std::string> wasteful_wgmma(const GemmProblem& p, const GemmConfig& c,
                                          const Arch& arch) {
  const std::int64_t rows = ceil_div(p.m, c.tile_m);
  if (c.tile_m >= 2 * p.m && rows_of_group(c) > 64)
    return fmt::format("tiles of {} rows are mostly padding", c.tile_m);
  if (c.cluster > 1 && rows < c.cluster) return "one row of tiles leaves a cluster half empty";
  const std::int64_t groups = ceil_div(rows, c.cluster);
  if (c.group_m > 1 && groups <= c.group_m / 2)
    return fmt::format("a group of {} tiles along m is the same as one of fewer", c.group_m);
  if (groups > 4 && c.group_m < 4) return "so small a group along m reads w too often";
  const int one_more = wgmma_smem_bytes(c.tile_m, c.tile_n, c.tile_k, c.stages + 1, c.cluster_k);
  if (c.stages != 4 && c.stages < 8 && one_more <= arch.smem_per_block_bytes)
    return "a deeper ring fits";
  if (c.stream_k > 0)
    if (auto why = complete_rounds(double(tiles(p, c) / c.cluster), cluster(c), p.m, arch))
      return why;
  const double sms = std::max(1, arch.num_sms), count = double(tiles(p, c));
  const int shares = shares_of_k(c);
  if (shares > 1 && count >= 0.8 * sms)
    return fmt::format("{} tiles fill the GPU without {} shares of k", count, shares);
  if (shares > 1 && count * shares > 2 * sms)
    return fmt::format("{} tiles need no {} shares of k", count, shares);
  if (count * shares < sms / 4 && 2 * shares <= 8 && ceil_div(p.k, c.tile_k) > 8)
    return fmt::format("{} tiles leave most of {} SMs without work", count * shares, sms);
  return std::nullopt;
}

double estimate_wgmma_us(const GemmProblem& p, const GemmConfig& c, const Arch& arch) {
  const double clocks_per_us = arch.clock_ghz * 1e3;
  const double work = double(tiles(p, c)) / c.cluster * c.split_k;
  const double at_once = std::min<double>(work, clusters_at_once(cluster(c), arch));
  const double rounds = rounds_of_tiles(work / at_once, c.stream_k > 0);
  const double steps = ceil_ratio(ceil_ratio(p.k, c.tile_k), shares_of_k(c));
  const double x_bytes = c.tile_m * c.tile_k * 2.0, w_bytes = c.tile_n * c.tile_k * 2.0;
  // Both operands of every 64 rows are read from shared memory.
  constexpr double kSmemBytesPerClock = 128;
  const double read = x_bytes + c.tile_m / 64.0 * w_bytes;
  const double smem = read / kSmemBytesPerClock / clocks_per_us;
  // What the tensor cores of one SM reach: less than on paper, for the power that all of them draw;
  // reading draws some of it (128 x 128 tiles lose 3 to 6% to 128 x 256 on an H200).
  constexpr double kShare = 0.8, kReadingShare = 8, kLeastRead = 0.0195;  // bytes per operation
  const double flops = 2.0 * c.tile_m * c.tile_n * c.tile_k;
  const double share = kShare / (1 + kReadingShare * std::max(0.0, read / flops - kLeastRead));
  const double math = flops / (share * arch.tensor_tflops * 1e6 / std::max(1, arch.num_sms));
  const double l2 = (x_bytes + w_bytes / c.cluster) / sm_rate(arch);
  const double shared_by = std::min<double>(double(tiles_m(p, c)), c.group_m * c.cluster);
  const double blocks = at_once * cluster(c);
  const double dram =
      blocks * w_bytes / shared_by / dram_rate(arch, blocks, (c.stages - 1) * (x_bytes + w_bytes));
  const double latency = kDramLatencyUs / (c.stages - 1);
  const double step = overlapped({math, smem, l2, dram, latency});
  const double out_bytes = static_cast<double>(size_bits(p.out_dtype)) / 8;
  const double stores = 0.3 + c.tile_m * c.tile_n * out_bytes / (0.5 * sm_rate(arch));
  const double sums = c.tile_m * c.tile_n * 4.0;
  double split = c.split_k == 1 ? 0 : 1.5 + (1 + c.split_k) * sums / (0.5 * sm_rate(arch));
  if (c.stream_k > 0) split = (1.0 + 2 * sums / (0.5 * sm_rate(arch))) / rounds;
  if (c.cluster_k > 1)
    split = 0.4 * c.cluster_k + sums * (c.cluster_k - 1) / c.cluster_k / (0.5 * sm_rate(arch));
  // The other warpgroup multiplies meanwhile, in all rounds but the last.
  const double own = stores / c.cluster_k + split;
  const double finish = c.pingpong ? own + 0.1 * rounds * own : rounds * own;
  return kLaunchUs + kDramLatencyUs + rounds * steps * step + finish;
}

}  // namespace quern
