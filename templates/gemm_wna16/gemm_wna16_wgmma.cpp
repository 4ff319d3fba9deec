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

int out_bytes(const GemmWna16Problem& p) { return static_cast<int>(size_bits(p.out_dtype)) / 8; }

int smem_bytes(const GemmWna16Problem& p, const GemmWna16Config& c) {
  return wna16_wgmma_smem_bytes(p.bits, p.group_size, p.zero_points, c.tile_m, c.tile_n, c.warps_n,
                                c.warps_k, c.units, c.stages, c.cluster_k, c.tma_store,
                                out_bytes(p));
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
/// Blocks that share an output tile, in a cluster or through the workspace.
int shares_of_k(const GemmWna16Config& c) { return c.split_k * c.cluster_k; }
/// A warpgroup that copies comes on top.
int warpgroups(const GemmWna16Config& c) { return c.warps_n * c.warps_k / 4; }
int threads(const GemmWna16Config& c) { return (warpgroups(c) + 1) * 128; }
/// Accumulators of a thread.
int sums(const GemmWna16Config& c) { return c.tile_n / (c.warps_n * 16) * (c.tile_m / 2); }
/// Of the architecture's registers a thread that multiplies gets 232 of two warpgroups, 160 of
/// three, 112 of four; fragments and addresses take the rest.
int max_sums(const GemmWna16Config& c) {
  return warpgroups(c) == 2 ? 128 : warpgroups(c) == 3 ? 64 : 32;
}

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

/// The most stages that fit, for a config that lacks only them; 2 where none do.
int deepest_ring(const GemmWna16Problem& p, GemmWna16Config c) {
  constexpr int kHopperBytes = 227 << 10;
  for (const int stages : {8, 6, 5, 4, 3}) {
    c.stages = stages;
    if (smem_bytes(p, c) <= kHopperBytes) return stages;
  }
  return 2;
}

}  // namespace

std::optional<std::string> reject_wgmma(const GemmWna16Problem& p, const GemmWna16Config& c,
                                        const Arch& arch) {
  if (!arch.has_wgmma()) return fmt::format("{} has no wgmma", arch.name());
  if (c.warps_n % 4 != 0 || c.warps_k > 2 || warpgroups(c) < 2 || warpgroups(c) > 4)
    return fmt::format("{} by {} warps are not two to four warpgroups, two along k at most",
                       c.warps_n, c.warps_k);
  if (c.tile_n % (c.warps_n * 16) != 0)
    return fmt::format("tile_n = {} is not whole 64 rows for each of {} warpgroups", c.tile_n,
                       c.warps_n / 4);
  if (c.tile_m < 16) return "a product has at least 16 tokens";
  if (sums(c) > max_sums(c))
    return fmt::format("{} sums of a thread are more than {}", sums(c), max_sums(c));
  if (p.bits == 8 ? c.units < 2 : c.units < 1) return "x comes in blocks of 64 columns";
  const int columns = chunk_columns(p, c);
  const int own = columns / c.warps_k, span = wna16_span(p.bits, p.group_size, c.units);
  if (c.units % c.warps_k != 0 || own % 64 != 0 || (own % span != 0 && span != columns))
    return fmt::format("{} warpgroups do not share {} columns in groups of {}", c.warps_k, columns,
                       span);
  if (p.k % columns != 0) return fmt::format("k = {} is not whole stages of {}", p.k, columns);
  if (p.group_size != p.k && columns % p.group_size != 0 && p.group_size % columns != 0)
    return fmt::format("groups of {} columns and chunks of {} do not divide one another",
                       p.group_size, columns);
  if (auto why = too_much_smem(smem_bytes(p, c), 1, arch)) return why;
  if (cluster(c) > 8) return fmt::format("a cluster has at most 8 blocks, not {}", cluster(c));
  if (c.tile_m % (8 * c.cluster_n) != 0)
    return fmt::format("{} blocks do not share {} tokens in groups of 8", c.cluster_n, c.tile_m);
  if (c.tile_n % (16 * c.cluster_m) != 0)
    return fmt::format("{} blocks do not share {} rows of w by sixteens", c.cluster_m, c.tile_n);
  if (c.tile_m % (8 * c.cluster_k) != 0)
    return fmt::format("{} blocks do not add {} tokens in groups of 8", c.cluster_k, c.tile_m);
  if (c.cluster_k > 1 && c.tma_store)
    return "blocks that add up a tile store parts of it from registers";
  if (c.stream_k > 0 && shares_of_k(c) > 1)
    return "blocks that share all tiles evenly share the k of none in another way";
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
      static_cast<unsigned>(std::min<std::int64_t>(work, clusters_at_once(cluster(c), arch)) * cluster(c));
  plan.block[0] = threads(c);
  plan.cluster = static_cast<unsigned>(cluster(c));
  plan.smem_bytes = static_cast<unsigned>(smem_bytes(p, c));
  plan.pdl = true;
  const int sums = c.tile_m * c.tile_n;
  plan.workspace_bytes = c.stream_k > 0 ? stream_workspace_bytes(plan.grid[0], sums)
                                        : split_workspace_bytes(tiles(p, c), c.split_k, sums);
  return plan;
}

std::string source_wgmma(const GemmWna16Problem& p, const GemmWna16Config& c,
                         const std::string& types, bool fused) {
  return fmt::format(
      "#include \"gemm_wna16/wgmma.cuh\"\n\n{}{}\n"
      "extern \"C\" __global__ void __launch_bounds__({}, 1)\n"
      "{}(const __grid_constant__ {} args) {{\n"
      "  extern __shared__ __align__(128) unsigned char smem[];\n"
      "  quern::WgmmaWna16<Problem, Config, Product{}>::run(args, smem);\n}}\n",
      types, product(p.dtype, c.tile_m), threads(c), entry_of(c, fused),
      fused ? "Fusion::Args" : "quern::GemmWna16TmaArgs", fused ? ", Fusion" : "");
}

std::vector<TensorMapSpec> tensor_maps_wgmma(const GemmWna16Problem& p, const GemmWna16Config& c) {
  std::vector<TensorMapSpec> maps = {
      {0, offsetof(GemmWna16TmaArgs, x_map), p.dtype, p.m, p.k, c.tile_m / c.cluster_n, 64}};
  if (c.tma_store)
    maps.push_back({p.zero_points ? std::size_t{4} : std::size_t{3},
                    offsetof(GemmWna16TmaArgs, y_map), p.out_dtype, p.m, p.n,
                    wna16_wgmma_store_tokens(c.tile_m, out_bytes(p)), 128 / out_bytes(p)});
  return maps;
}

void add_wgmma(const GemmWna16Problem& p, std::vector<GemmWna16Config>& points) {
  if (p.m <= 8) return;  // most of the smallest tile would be padding
  struct Shape {
    int tile_n, warps_n, warps_k;
  };
  struct Sharing {
    int split_k, cluster_m, cluster_n, cluster_k, stream_k = 0;
  };
  for (const int tile_m : {16, 32, 64, 128, 192, 256}) {
    if (tile_m > 16 && tile_m >= 2 * p.m) break;
    const auto rows = ceil_div(p.m, tile_m);
    for (const Shape& shape : {Shape{64, 4, 2}, {128, 8, 1}, {192, 12, 1}, {256, 8, 1}})
      for (const Sharing& sharing : {Sharing{1, 1, 1, 1},
                                     {2, 1, 1, 1},
                                     {3, 1, 1, 1},
                                     {4, 1, 1, 1},
                                     {8, 1, 1, 1},
                                     {1, 2, 1, 1},
                                     {1, 1, 2, 1},
                                     {1, 1, 1, 2},
                                     {1, 1, 1, 4},
                                     {1, 1, 1, 1, 1},
                                     {1, 2, 1, 1, 1},
                                     {1, 1, 2, 1, 1}})
        for (const int units : {1, 2, 4, 8})
          for (const int tma_store : {0, 1})
            for (const int group_m : {1, 4, 8, 16}) {
              if (group_m / 4 >= rows) break;  // the same as fewer
              GemmWna16Config c;
              c.kernel = "wgmma";
              c.tile_m = tile_m, c.tile_n = shape.tile_n, c.warps_n = shape.warps_n;
              c.warps_k = shape.warps_k, c.units = units;
              c.split_k = sharing.split_k, c.cluster_m = sharing.cluster_m;
              c.cluster_n = sharing.cluster_n, c.cluster_k = sharing.cluster_k;
              c.group_m = group_m, c.tma_store = tma_store, c.stream_k = sharing.stream_k;
              c.stages = deepest_ring(p, c);
              if (c.stages < 3 && units > 1) continue;  // it would wait for copies
              points.push_back(c);
            }
  }
}

std::optional<std::string> wasteful_wgmma(const GemmWna16Problem& p, const GemmWna16Config& c,
                                          const Arch& arch) {
  if (c.stream_k > 0)
    if (auto why = complete_rounds(static_cast<double>(cluster_tiles(p, c)), cluster(c), p.m, arch))
      return why;
  const double sms = std::max(1, arch.num_sms), shares = shares_of_k(c);
  const double output_tiles = static_cast<double>(tiles(p, c)), work = output_tiles * shares;
  if (shares > 1 && (output_tiles >= sms || work > 2 * sms))
    return fmt::format("{} tiles fill the GPU without {} blocks for each", output_tiles, shares);
  if (work < sms / 2 && 2.0 * shares <= std::min(8.0, ceil_ratio(p.k, chunk_columns(p, c))))
    return fmt::format("{} tiles leave most of {} SMs without work", work, sms);
  const double in_flight =
      (c.stages - 1) *
      wna16_wgmma_stage_bytes(p.bits, p.group_size, p.zero_points, c.tile_m, c.tile_n, c.units);
  if (in_flight < 24 << 10 && p.k >= 1024)
    return fmt::format("{} bytes in flight for a block are too few", in_flight);
  const double rows = ceil_ratio(p.m, c.tile_m);
  if (rows > 8 && c.tile_m < 128)
    return fmt::format("{} tiles of tokens make fragments of the same weights", rows);
  if (rows < c.cluster_m) return "one row of tiles leaves a cluster half empty";
  if (std::min(rows, 4.0) > c.group_m * c.cluster_m)
    return "so small a group along m reads w too often";
  if (work > 2 * sms && c.tma_store == 0 && c.cluster_k == 1) {
    GemmWna16Config stored = c;
    stored.tma_store = 1;
    if (!reject_wgmma(p, stored, arch))
      return "the outputs of many tiles leave through shared memory";
  }
  return std::nullopt;
}

double estimate_wgmma_us(const GemmWna16Problem& p, const GemmWna16Config& c, const Arch& arch) {
  const double clocks_per_us = arch.clock_ghz * 1e3;
  const int columns = chunk_columns(p, c);
  const double work = static_cast<double>(cluster_tiles(p, c)) * c.split_k;
  const double at_once = std::min<double>(work, clusters_at_once(cluster(c), arch));
  const double rounds = rounds_of_tiles(work / at_once, c.stream_k > 0);
  const double blocks = at_once * cluster(c);
  const double steps = ceil_ratio(ceil_ratio(p.k, columns), shares_of_k(c));
  const double w_bytes =
      c.tile_n / 16 * wna16_chunk_bytes(p.bits, p.group_size, p.zero_points, c.units);
  const double x_bytes = c.tile_m * columns * 2.0;
  // Of tiles of the same rows of w one fetches them from DRAM.
  const double shared_by =
      std::min({ceil_ratio(p.m, c.tile_m), double(c.group_m) * c.cluster_m, blocks});
  const double dram =
      blocks * w_bytes / shared_by / dram_rate(arch, blocks, (c.stages - 1) * (w_bytes + x_bytes));
  const double fetched = w_bytes / c.cluster_m + x_bytes / c.cluster_n;
  const double l2 = std::max((w_bytes + x_bytes) / sm_rate(arch), blocks * fetched / 9e6);
  // A product of 64 rows by n tokens takes n / 2 clocks of all four tensor cores. Where n is small
  // the fragments take longer than that, since two warpgroups share the schedulers (H200: 29
  // clocks at 32 tokens, 41 at 64, 72 at 128, 140 at 256).
  const double k16 = columns / 16.0, row_blocks = c.tile_n / 64.0;
  const double math = k16 * row_blocks * (0.52 * c.tile_m + 10) / clocks_per_us;
  // A stage begins with reading codes, which the products under way hide if they are long.
  const double begin = 6000.0 / c.tile_m / clocks_per_us;
  // Blocks that fill one another's stages wait for one another.
  const double together = c.cluster_m * c.cluster_n > 1 ? 1.06 : 1;
  const double step = overlapped({dram, l2, (math + begin) * together});
  const double elements = c.tile_m * c.tile_n, sums = elements * 4;
  double finish = 0.3;
  if (c.split_k > 1)
    finish += 1.5 + std::max((1 + c.split_k) * sums / (0.5 * sm_rate(arch)), 2 * work * sums / 3e6);
  if (c.stream_k > 0) finish += (1.0 + 2 * sums / (0.5 * sm_rate(arch))) / rounds;
  if (c.cluster_k > 1)
    finish += 0.4 * c.cluster_k + sums * (c.cluster_k - 1) / c.cluster_k / (0.5 * sm_rate(arch));
  // Elements that leave at a clock.
  finish += elements / c.cluster_k /
            (c.tma_store != 0    ? 25
             : out_bytes(p) == 4 ? 8
                                 : 5) /
            clocks_per_us;
  const double last = c.tma_store != 0 ? 0.7 : 0;
  return kLaunchUs + kDramLatencyUs + 0.5 + rounds * (steps * step + finish) + last;
}

}  // namespace quern
