#include <algorithm>
#include <limits>

#include "templates/common/roofline.h"
#include "templates/gemm/gemm_args.h"
#include "templates/gemm/mma_points.h"
#include "templates/gemm_w8a8/gemm_w8a8.h"
#include "templates/gemm_w8a8/gemm_w8a8_args.h"
#include "templates/gemm_w8a8/gemm_w8a8_wgmma.h"

// The space of the gemm_w8a8 family: the points that are distinct, why some are not worth a
// compile, and the default, which is the best of a few by the model.

namespace quern {
namespace {

using Reason = std::optional<std::string>;

void add_few_rows(const GemmW8A8Problem& p, std::vector<GemmW8A8Config>& out) {
  if (p.m > 16) return;
  GemmW8A8Config c;
  c.kernel = "few_rows";
  c.tile_m = p.m <= 8 ? 8 : 16;
  for (c.warps_n = 1; c.warps_n <= 4; c.warps_n *= 2)
    for (c.warps_k = 1; c.warps_k <= 16; c.warps_k *= 2) {
      const int warps = c.warps_n * c.warps_k;
      if (warps < 4 || warps > 16) continue;
      for (c.unroll = 1; c.unroll <= 4; c.unroll *= 2)
        for (c.stages = 2; c.stages <= 4; ++c.stages)
          for (c.blocks_per_sm = 1; c.blocks_per_sm <= 4; ++c.blocks_per_sm) out.push_back(c);
    }
}

void add_library(const GemmW8A8Problem& p, std::vector<GemmW8A8Config>& out) {
  if (p.dtype != DType::e4m3 || p.x_scale != "tensor" || p.w_scale != "tensor") return;
  GemmW8A8Config c;
  c.kernel = "cublaslt";
  for (c.algorithm = 0; c.algorithm < 8; ++c.algorithm) out.push_back(c);
}

Reason wasteful_few_rows(const GemmW8A8Config& c) {
  constexpr int kMinBytes = 16 << 10, kMinWarps = 8;
  const int warps = c.warps_n * c.warps_k * c.blocks_per_sm;
  if (warps < kMinWarps) return fmt::format("{} warps on an SM are too few", warps);
  const int bytes = warps * 1024 * c.unroll * (c.stages - 1);
  if (bytes < kMinBytes) return fmt::format("{} bytes in flight on an SM are too few", bytes);
  return std::nullopt;
}

Reason wasteful_mma(const GemmW8A8Problem& p, const GemmW8A8Config& c, const Arch& arch) {
  if (p.dtype == DType::e4m3 && arch.has_wgmma() && c.tile_m > 16 && p.n % 8 == 0 && p.k % 16 == 0)
    return "on Hopper e4m3 is multiplied by wgmma, mma.sync unpacks it to f16";
  const double tiles = ceil_ratio(p.m, c.tile_m) * ceil_ratio(p.n, c.tile_n);
  const double blocks = tiles * c.split_k;
  const double sms = std::max(1, arch.num_sms);
  if (c.split_k > 1 && (tiles >= sms || blocks > 4 * sms))
    return fmt::format("{} blocks fill the GPU without split_k = {}", tiles, c.split_k);
  const double most_split = std::min(16.0, ceil_ratio(p.k, c.tile_k));
  if (blocks < sms / 2 && 2 * c.split_k <= most_split)
    return fmt::format("{} blocks leave most of {} SMs without work", blocks, sms);
  const int warps = c.warps_m * c.warps_n;
  const int products = c.tile_m / 16 * (c.tile_n / 8) / warps;  // of a warp and 32 of k
  if (products < (c.tile_m > 16 ? 4 : 2))
    return fmt::format("{} warps have {} products a step", warps, products);
  // Fragments of one side are read again by every warp along the other.
  const int warp_m = c.tile_m / c.warps_m, warp_n = c.tile_n / c.warps_n;
  if (c.tile_m > 16 && std::max(warp_m, warp_n) > 4 * std::min(warp_m, warp_n))
    return fmt::format("warps of {} x {} elements read much of shared memory", warp_m, warp_n);
  const int in_flight = (c.stages - 1) * (c.tile_m + c.tile_n) * c.tile_k;
  const int least = (c.tile_m > 16 ? 16 : 8) << 10;
  if (in_flight < least && p.k >= 1024)
    return fmt::format("{} bytes in flight for a block are too few", in_flight);
  return std::nullopt;
}

/// A handful of good shapes for the default to be the best of.
std::vector<GemmW8A8Config> shortlist(const GemmW8A8Problem& p) {
  std::vector<GemmW8A8Config> out;
  GemmW8A8Config c;
  if (p.m <= 16) {
    c.kernel = "few_rows";
    c.tile_m = p.m <= 8 ? 8 : 16;
    c.unroll = 2;
    for (c.warps_n = 1; c.warps_n <= 2; ++c.warps_n)
      for (c.warps_k = 1; c.warps_n * c.warps_k <= 16; c.warps_k *= 2)
        for (c.stages = 2; c.stages <= 4; ++c.stages)
          for (c.blocks_per_sm = 1; c.blocks_per_sm <= 2; ++c.blocks_per_sm) out.push_back(c);
  }
  c = GemmW8A8Config{};
  for (const int tile_m : {16, 32, 64, 128}) {
    if (tile_m > 16 && tile_m >= 2 * p.m) break;
    c.tile_m = tile_m;
    c.group_m = round_up_to((p.m + tile_m - 1) / tile_m, {1, 4, 8});
    for (const int tile_n : {32, 64, 128})
      for (const int tile_k : {64, 128})
        for (const int stages : {2, 3, 4})
          for (const int split_k : {1, 2, 4, 8}) {
            c.tile_n = tile_n, c.tile_k = tile_k, c.stages = stages, c.split_k = split_k;
            c.warps_m = tile_m >= 64 ? 2 : 1;
            c.warps_n = std::min(tile_n / 16, 4 / c.warps_m);
            out.push_back(c);
          }
  }
  add_usual_wgmma(p, out);
  return out;
}

}  // namespace

GemmW8A8Config default_config(const GemmW8A8Problem& p, const Arch& arch) {
  std::optional<GemmW8A8Config> best;
  double best_us = std::numeric_limits<double>::infinity();
  for (const GemmW8A8Config& config : shortlist(p)) {
    if (reject_reason(p, config, arch)) continue;
    const double us = estimate_us(p, config, arch);
    if (us < best_us) best_us = us, best = config;
  }
  if (best) return *best;
  GemmW8A8Config reference;
  reference.kernel = "reference";
  return reference;
}

RankedSpace ranked_space(const GemmW8A8Problem& p, const Arch& arch) {
  std::vector<GemmW8A8Config> points;
  add_few_rows(p, points);
  add_mma_points(p.m, 64, points);
  add_wgmma(p, points);
  add_library(p, points);
  return rank_points(
      default_config(p, arch), points,
      [&](const GemmW8A8Config& c) -> Reason {
        if (auto why = reject_reason(p, c, arch)) return why;
        if (c.kernel == "wgmma") return wasteful_wgmma(p, c, arch);
        if (c.kernel == "cublaslt") return std::nullopt;
        return c.kernel == "few_rows" ? wasteful_few_rows(c) : wasteful_mma(p, c, arch);
      },
      [&](const GemmW8A8Config& c) { return estimate_us(p, c, arch); });
}

}  // namespace quern
