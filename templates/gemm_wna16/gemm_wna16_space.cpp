#include <algorithm>
#include <limits>

#include "templates/common/roofline.h"
#include "templates/gemm_wna16/gemm_wna16.h"
#include "templates/gemm_wna16/gemm_wna16_args.h"
#include "templates/gemm_wna16/gemm_wna16_slices.h"
#include "templates/gemm_wna16/gemm_wna16_wgmma.h"

// The space of the gemm_wna16 family: the points that are distinct and why some are not worth a
// compile. The default is the best of them by the model.

namespace quern {
namespace {

using Reason = std::optional<std::string>;

int rows_computed(const GemmWna16Problem& p) {
  int rows = 1;
  while (rows < p.m) rows *= 2;
  return rows;
}

void add_stream(const GemmWna16Problem& p, std::vector<GemmWna16Config>& out) {
  if (p.m > 16) return;
  GemmWna16Config c;
  c.kernel = "stream";
  c.tile_m = rows_computed(p);  // more would compute zeros
  for (c.warps_n = 1; c.warps_n <= 16; c.warps_n *= 2)
    for (c.warps_k = 1; c.warps_k <= 16; c.warps_k *= 2) {
      const int warps = c.warps_n * c.warps_k;
      if (warps < 4 || warps > 16) continue;
      for (const int units : {1, 2, 4, 8})
        for (const int stages : {2, 3, 4, 6})
          for (const int blocks : {1, 2})
            for (const int split : {1, 2, 4, 8}) {
              c.units = units, c.stages = stages, c.blocks_per_sm = blocks, c.split_k = split;
              out.push_back(c);
            }
    }
}

void add_mma(const GemmWna16Problem& p, std::vector<GemmWna16Config>& out) {
  GemmWna16Config c;
  for (c.tile_m = 16; c.tile_m <= 128; c.tile_m *= 2) {
    if (c.tile_m > 16 && c.tile_m >= 2 * p.m) break;                      // mostly padding
    if ((p.m + c.tile_m - 1) / c.tile_m > 4 && c.tile_m < 128) continue;  // dequantise too often
    for (const int tile_n : {32, 64, 96, 128, 192, 224, 256})
      for (const int row_tiles : {1, 2, 4}) {  // of a warp
        c.tile_n = tile_n;
        if (tile_n % (16 * row_tiles) != 0) continue;
        c.warps_n = tile_n / 16 / row_tiles;
        if (c.warps_n < 2 || c.warps_n > 8) continue;
        for (const int units : {1, 2, 4})
          for (const int stages : {2, 3, 4})
            for (const int split : {1, 2, 4, 8}) {
              c.units = units, c.stages = stages, c.split_k = split;
              out.push_back(c);
            }
      }
  }
}

Reason wasteful_stream(const GemmWna16Problem& p, const GemmWna16Config& c, const Arch& arch) {
  const int warps = c.warps_n * c.warps_k * c.blocks_per_sm;
  const double chunk = wna16_chunk_bytes(p.bits, p.group_size, p.zero_points, c.units);
  const double in_flight = warps * (c.stages - 1) * chunk;
  if (in_flight < 24 << 10)
    return fmt::format("{} bytes in flight on an SM are too few", in_flight);
  if (in_flight > 100 << 10)
    return fmt::format("{} bytes in flight on an SM are more than help", in_flight);
  const double groups = ceil_ratio(p.n / 16, c.warps_n);
  if (c.split_k > 1 && c.tile_m < 8 && groups >= arch.num_sms)
    return fmt::format("{} row groups fill the GPU without split_k = {}", groups, c.split_k);
  const int columns = c.units * wna16_unit_columns(p.bits);
  if (c.warps_k > 1 && double(columns) * c.warps_k * c.split_k > p.k)
    return fmt::format("{} warps share {} chunks of k", c.warps_k, p.k / columns / c.split_k);
  return std::nullopt;
}

Reason wasteful_mma(const GemmWna16Problem& p, const GemmWna16Config& c, const Arch& arch) {
  const double sms = std::max(1, arch.num_sms);
  const double tiles = ceil_ratio(p.m, c.tile_m) * ceil_ratio(p.n, c.tile_n);
  const double blocks = tiles * c.split_k;
  if (c.split_k > 1 && (tiles >= sms || blocks > 2 * sms))
    return fmt::format("{} blocks fill the GPU without split_k = {}", tiles, c.split_k);
  const int columns = c.units * wna16_unit_columns(p.bits);
  if (blocks < sms / 2 && 2.0 * c.split_k <= std::min(8.0, ceil_ratio(p.k, columns)))
    return fmt::format("{} blocks leave most of {} SMs without work", blocks, sms);
  const int row_tiles = c.tile_n / 16 / c.warps_n;
  if (row_tiles == 4 && c.tile_m > 64) return "a warp of four row tiles has too many sums";
  if (row_tiles == 1 && c.tile_m > 64) return "a warp of one row tile reads too much of x";
  const double stage =
      wna16_mma_stage_bytes(p.bits, p.group_size, p.zero_points, c.tile_m, c.tile_n, c.units);
  if ((c.stages - 1) * stage < 16 << 10 && p.k >= 1024)
    return fmt::format("{} bytes in flight for a block are too few", (c.stages - 1) * stage);
  return std::nullopt;
}

Reason wasteful(const GemmWna16Problem& p, const GemmWna16Config& c, const Arch& arch) {
  if (c.kernel == "stream") return wasteful_stream(p, c, arch);
  if (c.kernel == "slices") return wasteful_slices(p, c, arch);
  return c.kernel == "mma" ? wasteful_mma(p, c, arch) : wasteful_wgmma(p, c, arch);
}

}  // namespace

RankedSpace ranked_space(const GemmWna16Problem& p, const Arch& arch) {
  std::vector<GemmWna16Config> points;
  add_stream(p, points);
  add_slices(p, points);
  if (p.m > 4) add_mma(p, points);  // fewer would leave most of 16 columns idle
  add_wgmma(p, points);
  return rank_points(
      default_config(p, arch), points,
      [&](const GemmWna16Config& c) -> Reason {
        const Reason why = reject_reason(p, c, arch);
        return why ? why : wasteful(p, c, arch);
      },
      [&](const GemmWna16Config& c) { return estimate_us(p, c, arch); });
}

GemmWna16Config default_config(const GemmWna16Problem& p, const Arch& arch) {
  std::vector<GemmWna16Config> points;
  add_stream(p, points);
  add_slices(p, points);
  add_mma(p, points);
  if (arch.has_wgmma()) add_wgmma(p, points);
  std::optional<GemmWna16Config> best;
  double best_us = std::numeric_limits<double>::infinity();
  for (const GemmWna16Config& config : points) {
    if (reject_reason(p, config, arch)) continue;
    double us = estimate_us(p, config, arch);
    if (us >= best_us) continue;
    // Only where there is nothing else, as for odd shapes.
    if (wasteful(p, config, arch)) us *= 1e3;
    if (us < best_us) best_us = us, best = config;
  }
  if (best) return *best;
  GemmWna16Config reference;
  reference.kernel = "reference";
  return reference;
}

}  // namespace quern
