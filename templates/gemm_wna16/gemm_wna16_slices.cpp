#include "templates/gemm_wna16/gemm_wna16_slices.h"

#include <fmt/format.h>

#include <algorithm>

#include "templates/common/roofline.h"
#include "templates/common/tunables.h"
#include "templates/gemm_wna16/gemm_wna16_args.h"

namespace quern {
namespace {

Wna16Slices shape(const GemmWna16Problem& p, const GemmWna16Config& c) {
  return {p.n,       p.k,       p.bits,  p.group_size, p.zero_points,   c.tile_m,
          c.warps_n, c.warps_k, c.units, c.stages,     c.blocks_per_sm, c.cluster_k};
}

int clusters(const GemmWna16Problem& p, const GemmWna16Config& c, const Arch& arch) {
  return std::min(clusters_at_once(c.cluster_k, arch), shape(p, c).row_groups());
}

int smem_bytes(const GemmWna16Problem& p, const GemmWna16Config& c, const Arch& arch) {
  return shape(p, c).smem_bytes(clusters(p, c, arch));
}

/// Where this kernel leaves SMs idle and two blocks fit one, the next kernel's first blocks go
/// there in pairs while others wait (4096 x 14336 in clusters of 8: 15.8 us instead of 11.1 on an
/// H200).
bool shares_sms(const GemmWna16Problem& p, const GemmWna16Config& c, const Arch& arch) {
  return c.blocks_per_sm > 1 && clusters(p, c, arch) * c.cluster_k < arch.num_sms;
}

}  // namespace

bool slices_hold_x(const GemmWna16Problem& p, const GemmWna16Config& c) {
  return shape(p, c).holds_x();
}

int slices_registers(const GemmWna16Problem& p, const GemmWna16Config& c) {
  const Wna16Slices s = shape(p, c);
  const int x = s.holds_x() ? s.held_registers() : c.tile_m > 8 ? 32 : 16;
  const int two_row_tiles = c.tile_m > 8 && c.warps_n > 1 ? 10 : 0;
  return x + s.other_registers() + two_row_tiles + (p.bits == 8 ? 10 : 0) +
         (p.group_size < 128 ? 4 : 0);
}

std::optional<std::string> reject_slices(const GemmWna16Problem& p, const GemmWna16Config& c,
                                         const Arch& arch) {
  if (!arch.has_tma()) return fmt::format("{} has no bulk copies", arch.name());
  if (c.tile_m > 16) return "slices computes at most 16 rows of x";
  if (p.m > c.tile_m)
    return fmt::format("m = {} is more than tile_m = {} rows of x", p.m, c.tile_m);
  if (p.group_size > Wna16Slices::kSpan)
    return fmt::format("slices takes groups of 32, 64 or 128 columns, not {}", p.group_size);
  if (p.k % Wna16Slices::kSpan != 0)
    return fmt::format("k = {} is not a multiple of {}", p.k, Wna16Slices::kSpan);
  const int columns = c.units * wna16_unit_columns(p.bits);
  if (columns % Wna16Slices::kSpan != 0)
    return fmt::format("{} columns of a warp are not a multiple of {}", columns,
                       Wna16Slices::kSpan);
  // More was never tried elsewhere.
  if (c.cluster_k > 1 && arch.cc() >= 120)
    return fmt::format("slices has no clusters of blocks on {}", arch.name());
  const Wna16Slices s = shape(p, c);
  if ((c.warps_n & (c.warps_n - 1)) != 0)
    return fmt::format("warps_n = {} is not a power of two", c.warps_n);
  if (s.warps() > 16) return fmt::format("{} warps are more than 16 a block", s.warps());
  if (std::int64_t{c.cluster_k - 1} * s.steps() * s.stage_spans() >= s.spans_k())
    return fmt::format("k = {} leaves nothing for the last of {} blocks of {} warps", p.k,
                       c.cluster_k, c.warps_k);
  if (p.k > 262144) return fmt::format("k = {} rows of x do not fit in shared memory", p.k);
  if (s.slots(clusters(p, c, arch)) > 4096)
    return fmt::format("{} row groups of a block are more than it gathers",
                       s.slots(clusters(p, c, arch)));
  if (auto why = too_much_smem(smem_bytes(p, c, arch), c.blocks_per_sm, arch)) return why;
  if (s.threads() * c.blocks_per_sm > arch.max_threads_per_sm)
    return fmt::format("{} blocks of {} threads do not fit an SM of {} with {}", c.blocks_per_sm,
                       s.threads(), arch.name(), arch.max_threads_per_sm);
  // Newer architectures' compilers need more.
  const int registers = slices_registers(p, c) + (arch.cc() > 90 ? 16 : 0);
  if (registers > s.math_registers())
    return fmt::format("a thread needs some {} registers and has {}", registers,
                       s.math_registers());
  return std::nullopt;
}

LaunchPlan plan_slices(const GemmWna16Problem& p, const GemmWna16Config& c, const Arch& arch) {
  LaunchPlan plan;
  plan.grid[0] = static_cast<unsigned>(clusters(p, c, arch) * c.cluster_k);
  plan.block[0] = static_cast<unsigned>(shape(p, c).threads());
  plan.smem_bytes = static_cast<unsigned>(smem_bytes(p, c, arch));
  plan.cluster = static_cast<unsigned>(c.cluster_k);
  plan.pdl = true;
  return plan;
}

std::string source_slices(const GemmWna16Problem& p, const GemmWna16Config& c,
                          const std::string& types, bool fused) {
  return fmt::format(
      "#include \"gemm_wna16/slices.cuh\"\n\n{}\n"
      "extern \"C\" __global__ void __launch_bounds__({}, {})\n"
      "{}(const __grid_constant__ {} args) {{\n"
      "  extern __shared__ __align__(128) unsigned char smem[];\n"
      "  quern::SlicesWna16<Problem, Config{}>::run(args, smem);\n}}\n",
      types, shape(p, c).threads(), c.blocks_per_sm, entry_of(c, fused),
      fused ? "Fusion::Args" : "quern::GemmWna16Args", fused ? ", Fusion" : "");
}

void add_slices(const GemmWna16Problem& p, std::vector<GemmWna16Config>& points) {
  if (p.m > 16 || p.group_size > Wna16Slices::kSpan || p.k % Wna16Slices::kSpan != 0) return;
  GemmWna16Config c;
  c.kernel = "slices";
  for (c.tile_m = 1; c.tile_m < p.m; c.tile_m *= 2) {
  }
  for (const auto& [warps_n, warps_k] : {std::pair{1, 7}, {1, 8}, {1, 14}, {1, 16}, {2, 7}, {2, 8}})
    for (const int spans : {1, 2})
      for (const int stages : {2, 3, 4, 5, 6, 8})
        for (const int cluster : {1, 2, 4, 8})
          for (const int blocks : {1, 2}) {
            c.warps_n = warps_n, c.warps_k = warps_k,
            c.units = spans * Wna16Slices::kSpan / wna16_unit_columns(p.bits);
            c.stages = stages, c.cluster_k = cluster, c.blocks_per_sm = blocks;
            points.push_back(c);
          }
}

std::optional<std::string> wasteful_slices(const GemmWna16Problem& p, const GemmWna16Config& c,
                                           const Arch& arch) {
  const Wna16Slices s = shape(p, c);
  if (c.tile_m > 8 && !s.holds_x()) return "16 rows of x from shared memory take all its bandwidth";
  const int taken = s.steps() * s.stage_spans() * c.cluster_k;
  if (taken * 8 > s.spans_k() * 9)
    return fmt::format("{} spans of k are {} with those of idle warps", s.spans_k(), taken);
  const int in_flight = c.stages * s.stage_bytes();
  if (in_flight < 24 << 10)
    return fmt::format("{} bytes in flight on an SM are too few", in_flight);
  if (in_flight > 144 << 10)
    return fmt::format("{} bytes in flight on an SM are more than help", in_flight);
  if (c.cluster_k > 2 && p.k < 8192)
    return fmt::format("clusters of {} leave SMs idle, and x is small enough for fewer",
                       c.cluster_k);
  if (shares_sms(p, c, arch)) return "two blocks of the next kernel may meet on an idle SM";
  if (c.blocks_per_sm == 1) {
    GemmWna16Config two = c;
    two.blocks_per_sm = 2;
    if (!reject_slices(p, two, arch) && !shares_sms(p, two, arch) &&
        slices_hold_x(p, two) == s.holds_x())
      return "the next kernel's blocks fit beside these";
  }
  return std::nullopt;
}

double estimate_slices_us(const GemmWna16Problem& p, const GemmWna16Config& c, const Arch& arch) {
  const Wna16Slices s = shape(p, c);
  const double clocks_per_us = arch.clock_ghz * 1e3;
  const double groups = clusters(p, c, arch), blocks = groups * c.cluster_k;
  const double steps = ceil_ratio(s.row_groups(), groups) * s.steps();
  const double bytes = double(s.row_tiles()) * s.spans_k() * s.span_bytes();
  const double in_flight = c.stages * s.stage_bytes();
  const double dram = bytes / steps / dram_rate(arch, blocks, in_flight);
  const double token_tiles = c.tile_m > 8 ? 2 : 1;
  const double dequantise = p.bits == 4 ? (p.dtype == DType::f16 ? 5 : 7) : 14;
  const double span = 8 * (dequantise + token_tiles + (s.holds_x() ? 0 : 0.5 * token_tiles)) + 16 +
                      s.groups() * (8 + 10 * token_tiles);
  const double of_warp = s.spans_warp() * span + 30 + (20 + 8 * token_tiles) / s.steps();
  // Of logical operations an SM does half as many as it issues.
  const double issue = (c.tile_m > 8 ? 1.5 : 1.2) * s.warps() * of_warp / 4 / clocks_per_us;
  const double alone = 3.5 * of_warp / clocks_per_us;
  const double x_bytes = double(c.tile_m) * s.x_columns() * 2 * c.warps_n;
  // Where x is staged, a lane waits for four pieces of 16 bytes at a time.
  const double waits = s.holds_x() ? 1 : ceil_ratio(c.tile_m * s.slices(), 8);
  const double x = 0.6 * waits + std::max(x_bytes / sm_rate(arch), blocks * x_bytes / 8e6);
  // Rings of the next kernel fill meanwhile, where there is room.
  const double exposed = c.blocks_per_sm > 1 && s.holds_x() ? 0.4 : 0.9;
  const double finish = s.holds_x() ? 0.6 : 1.8;
  const double us =
      kLaunchUs + exposed * x + steps * overlapped({dram, issue, alone}) + exposed * finish;
  return shares_sms(p, c, arch) ? 1.6 * us : us;
}

}  // namespace quern
