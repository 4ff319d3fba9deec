#include <algorithm>
#include <limits>

#include "templates/common/roofline.h"
#include "templates/gemm/gemm.h"
#include "templates/gemm/gemm_args.h"
#include "templates/gemm/gemm_wgmma.h"
#include "templates/gemm/mma_points.h"

// The space of the gemm family: the points that are distinct, why some are not worth a compile, and
// the default, which is the best of a few by the model.

namespace quern {
namespace {

using Reason = std::optional<std::string>;

int rows_computed(const GemmProblem& p) {
  int rows = 1;
  while (rows < p.m) rows *= 2;
  return rows;
}

void add_gemv(const GemmProblem& p, std::vector<GemmConfig>& out) {
  if (p.m > 16) return;
  GemmConfig c;
  c.kernel = "gemv";
  c.tile_m = rows_computed(p);  // more would compute zeros
  for (c.warps_n = 1; c.warps_n <= 16; c.warps_n *= 2)
    for (c.warps_k = 1; c.warps_k <= 16; c.warps_k *= 2) {
      const int warps = c.warps_n * c.warps_k;
      if (warps < 4 || warps > 16) continue;
      for (c.rows_per_warp = 1; c.rows_per_warp <= 8; c.rows_per_warp *= 2)
        for (c.unroll = 1; c.rows_per_warp * c.unroll <= 8; c.unroll *= 2)
          for (c.blocks_per_sm = 1; c.blocks_per_sm <= 4; c.blocks_per_sm *= 2) {
            c.async_copy = true;
            for (c.stages = 3; c.stages <= 6; ++c.stages)
              if (c.stages != 5) out.push_back(c);
            c.async_copy = false;
            for (c.stages = 2; c.stages <= 3; ++c.stages) out.push_back(c);
          }
    }
}

void add_library(std::vector<GemmConfig>& out) {
  GemmConfig c;
  c.kernel = "cublaslt";
  for (c.algorithm = 0; c.algorithm < 8; ++c.algorithm) out.push_back(c);
}

/// Bytes of weights that an SM has in flight, one block's or all of them.
Reason wasteful_gemv(const GemmProblem& p, const GemmConfig& c) {
  constexpr int kMinBytes = 16 << 10, kMaxSums = 64, kMaxUnrolled = 96, kMinWarps = 8;
  const int warps = c.warps_n * c.warps_k * c.blocks_per_sm;
  if (warps < kMinWarps) return fmt::format("{} warps on an SM are too few", warps);
  if (c.rows_per_warp * c.tile_m > kMaxSums)
    return fmt::format("{} sums in each lane are too many", c.rows_per_warp * c.tile_m);
  const int accesses = c.rows_per_warp * c.unroll;
  // A ring in registers is unrolled over its stages.
  if (!c.async_copy && c.stages * accesses * c.tile_m > kMaxUnrolled)
    return fmt::format("{} unrolled products of a ring in registers are too much code",
                       c.stages * accesses * c.tile_m);
  const int bytes = warps * 32 * accesses * gemm_vector_elements(p.k) * 2 * (c.stages - 1);
  if (bytes < kMinBytes && gemm_vector_elements(p.k) == 8)
    return fmt::format("{} bytes in flight on an SM are too few", bytes);
  return std::nullopt;
}

Reason wasteful_mma(const GemmProblem& p, const GemmConfig& c, const Arch& arch) {
  const double tiles = ceil_ratio(p.m, c.tile_m) * ceil_ratio(p.n, c.tile_n);
  const double blocks = tiles * c.split_k;
  const double sms = std::max(1, arch.num_sms);
  if (c.split_k > 1 && (tiles >= sms || blocks > 4 * sms))
    return fmt::format("{} blocks fill the GPU without split_k = {}", tiles, c.split_k);
  const double most_split = std::min(16.0, ceil_ratio(p.k, c.tile_k));
  if (blocks < sms / 2 && 2 * c.split_k <= most_split)
    return fmt::format("{} blocks leave most of {} SMs without work", blocks, sms);
  const int warps = c.warps_m * c.warps_n;
  const int products = c.tile_m / 16 * (c.tile_n / 8) / warps;  // of a warp and 16 of k
  if (products < (c.tile_m > 16 ? 4 : 2))
    return fmt::format("{} warps have {} products a step", warps, products);
  // Fragments of one side are read again by every warp along the other.
  const int warp_m = c.tile_m / c.warps_m, warp_n = c.tile_n / c.warps_n;
  if (c.tile_m > 16 && std::max(warp_m, warp_n) > 4 * std::min(warp_m, warp_n))
    return fmt::format("warps of {} x {} elements read much of shared memory", warp_m, warp_n);
  const int in_flight = (c.stages - 1) * (c.tile_m + c.tile_n) * c.tile_k * 2;
  const int least = (c.tile_m > 16 ? 24 : 8) << 10;
  if (in_flight < least && p.k >= 1024)
    return fmt::format("{} bytes in flight for a block are too few", in_flight);
  return std::nullopt;
}

/// A handful of good shapes for the default to be the best of.
std::vector<GemmConfig> shortlist(const GemmProblem& p, const Arch& arch) {
  std::vector<GemmConfig> out;
  GemmConfig c;
  if (p.m <= 16) {
    c.kernel = "gemv";
    c.tile_m = rows_computed(p);
    struct Shape {
      int warps_n, warps_k, rows, unroll, stages, blocks;
      bool async_copy;
    };
    for (const Shape& s : {Shape{4, 2, 2, 4, 2, 2, false}, Shape{4, 4, 4, 2, 3, 1, true},
                           Shape{4, 2, 2, 2, 3, 2, true}, Shape{4, 2, 2, 1, 4, 2, true},
                           Shape{4, 1, 1, 1, 2, 2, false}, Shape{4, 1, 1, 1, 2, 1, true}}) {
      c.warps_n = s.warps_n, c.warps_k = s.warps_k, c.rows_per_warp = s.rows;
      c.unroll = s.unroll, c.stages = s.stages, c.blocks_per_sm = s.blocks;
      c.async_copy = s.async_copy;
      out.push_back(c);
    }
  }
  c = GemmConfig{};
  c.stages = 3;
  for (const int tile_m : {16, 32, 64, 128}) {
    if (tile_m > 16 && tile_m >= 2 * p.m) break;
    c.tile_m = tile_m;
    c.group_m = round_up_to((p.m + tile_m - 1) / tile_m, {1, 4, 8});
    for (const int tile_n : {32, 64, 128})
      for (const int tile_k : {32, 64, 128})
        for (const int stages : {2, 3, 4})
          for (const int split_k : {1, 2, 4, 8}) {
            c.tile_n = tile_n, c.tile_k = tile_k, c.stages = stages, c.split_k = split_k;
            c.warps_m = tile_m >= 64 ? 2 : 1;
            c.warps_n = std::min(tile_n / 16, 4 / c.warps_m);
            out.push_back(c);
          }
  }
  if (arch.has_wgmma() && p.m >= 64) add_usual_wgmma(out);
  return out;
}

}  // namespace

GemmConfig default_config(const GemmProblem& p, const Arch& arch) {
  std::optional<GemmConfig> best;
  double best_us = std::numeric_limits<double>::infinity();
  for (const GemmConfig& config : shortlist(p, arch)) {
    if (reject_reason(p, config, arch)) continue;
    const double us = estimate_us(p, config, arch);
    if (us < best_us) best_us = us, best = config;
  }
  if (best) return *best;
  GemmConfig reference;
  reference.kernel = "reference";
  return reference;
}

RankedSpace ranked_space(const GemmProblem& p, const Arch& arch) {
  std::vector<GemmConfig> points;
  add_gemv(p, points);
  // One row alone: tensor cores would compute sixteen.
  if (p.m > 1) add_mma_points(p.m, 32, points);
  if (arch.has_wgmma()) add_wgmma(p, points);
  add_library(points);
  return rank_points(
      default_config(p, arch), points,
      [&](const GemmConfig& c) -> Reason {
        if (auto why = reject_reason(p, c, arch)) return why;
        if (c.kernel == "gemv") return wasteful_gemv(p, c);
        if (c.kernel == "wgmma") return wasteful_wgmma(p, c, arch);
        return c.kernel == "mma" ? wasteful_mma(p, c, arch) : std::nullopt;
      },
      [&](const GemmConfig& c) { return estimate_us(p, c, arch); });
}

}  // namespace quern
