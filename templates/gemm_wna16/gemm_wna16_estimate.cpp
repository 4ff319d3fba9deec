#include <algorithm>

#include "templates/common/roofline.h"
#include "templates/gemm_wna16/gemm_wna16.h"
#include "templates/gemm_wna16/gemm_wna16_args.h"
#include "templates/gemm_wna16/gemm_wna16_slices.h"
#include "templates/gemm_wna16/gemm_wna16_wgmma.h"

// The analytic model of the gemm_wna16 family. Every kernel comes to
//
//   launch + rounds of blocks * (steps of k * the slowest of what a step needs + finish)
//
// where a step needs bytes from DRAM or L2 (Little's law with the ring's bytes in flight), shared
// memory, tensor cores, instructions to turn codes into fragments, and a warp's own chain of them.

namespace quern {
namespace {

constexpr double kSmemBytesPerClock = 128;  // of an SM
constexpr double kIssuesPerClock = 4;       // warp instructions of an SM
constexpr double kWarpIssueClocks = 2.5;    // per instruction of one warp by itself
constexpr double kMmaLatencyClocks = 34;    // of m16n8k16 products that follow one another
/// Of arch.tensor_tflops: what mma.sync reaches where wgmma exists, and where it does not.
double mma_share(const Arch& arch) { return arch.cc() >= 90 ? 0.33 : 0.85; }

/// Instructions of a warp that make the A fragment of one k16 step; `raised`: with the offset of
/// codes of 4 bits left in.
double dequantise_instructions(const GemmWna16Problem& p, bool raised) {
  if (p.bits == 4) return (p.dtype == DType::f16 ? 5 : 7) + (raised ? 0 : 4);
  return p.dtype == DType::f16 ? 10 : p.zero_points ? 18 : 14;
}

/// Microseconds that `products` of m16n8k16 take one SM.
double mma_us(const Arch& arch, double products) {
  return products * 4096 / (mma_share(arch) * arch.tensor_tflops * 1e6 / arch.num_sms);
}

double stream_us(const GemmWna16Problem& p, const GemmWna16Config& c, const Arch& arch) {
  const double clocks_per_us = arch.clock_ghz * 1e3, sms = std::max(1, arch.num_sms);
  const double chunk = wna16_chunk_bytes(p.bits, p.group_size, p.zero_points, c.units);
  const int columns = c.units * wna16_unit_columns(p.bits);
  const double warps = c.warps_n * c.warps_k;
  const double groups = ceil_ratio(p.n / 16, c.warps_n);
  const double most_sets = std::max(1.0, std::floor(sms * c.blocks_per_sm / c.split_k));
  const double sets = std::min(groups, most_sets), blocks = sets * c.split_k;
  const double busy = std::min(sms, blocks), on_sm = ceil_ratio(blocks, sms);
  const double rounds = ceil_ratio(groups, sets);
  const double share = wna16_share_chunks(p.k, p.bits, c.units, c.split_k);
  const double steps = ceil_ratio(share, c.warps_k);

  const double in_flight = on_sm * warps * chunk * (c.stages - 1);
  // Of all blocks, whose busiest has `rounds`: the others leave it their part of the bandwidth.
  const double bytes = double(p.n / 16) * ceil_ratio(p.k, columns) * chunk;
  const double dram = bytes / (rounds * steps) / dram_rate(arch, busy, in_flight);
  const double k16 = columns / 16.0, token_tiles = c.tile_m > 8 ? 2 : 1;
  const double instructions =
      k16 * (dequantise_instructions(p, true) + 1.5 * token_tiles) + 3 * c.units + 30;
  const double issue = on_sm * warps * instructions / kIssuesPerClock / clocks_per_us;
  // Measured on an H200: with the few warps of this kernel the two do not overlap.
  const double math = mma_us(arch, on_sm * warps * k16 * token_tiles);
  const double alone =
      std::max(k16 * kMmaLatencyClocks, instructions * kWarpIssueClocks) / clocks_per_us;
  const double smem = on_sm * warps * (2 * chunk + columns * 2.0 * 8 * token_tiles) /
                      kSmemBytesPerClock / clocks_per_us;
  const double sums = c.tile_m * 16.0 * warps;
  const double finish = 4 * kBarrierUs + lanes_us(arch, on_sm * sums * 6);
  // x comes after the previous kernel has ended, when the ring has long been filled.
  const double x = share * columns * 2 * c.tile_m;
  const double stage_x = 0.6 + std::max(on_sm * x / sm_rate(arch), blocks * x / 5.5e6);
  const double sum_bytes = groups * c.split_k * c.warps_n * c.tile_m * 64;
  const double split = c.split_k == 1 ? 0 : 1.5 + 2 * sum_bytes / 3e6;
  return kLaunchUs + stage_x + split +
         rounds * (steps * overlapped({dram, issue + math, smem, alone}) + finish);
}

double tile_us(const GemmWna16Problem& p, const GemmWna16Config& c, const Arch& arch) {
  const double clocks_per_us = arch.clock_ghz * 1e3, sms = std::max(1, arch.num_sms);
  const int threads = c.warps_n * 32;
  const int smem_bytes =
      wna16_mma_smem_bytes(p.bits, p.group_size, p.zero_points, c.tile_m, c.tile_n, c.units,
                           c.stages, static_cast<int>(size_bits(p.out_dtype)) / 8);
  const double most =
      std::max(1, resident_blocks(arch, threads, estimated_registers(p, c), smem_bytes));
  const double chunk = wna16_chunk_bytes(p.bits, p.group_size, p.zero_points, c.units);
  const int columns = c.units * wna16_unit_columns(p.bits);
  const double tiles_m = ceil_ratio(p.m, c.tile_m), tiles_n = ceil_ratio(p.n, c.tile_n);
  const double blocks = tiles_m * tiles_n * c.split_k;
  const double on_sm = std::max(1.0, std::min(most, ceil_ratio(blocks, sms)));
  const double steps = ceil_ratio(ceil_ratio(p.k, columns), c.split_k);
  const double full = std::floor(blocks / (sms * on_sm)), left = blocks - full * sms * on_sm;
  const double last = left > 0 ? std::max(0.5, ceil_ratio(left, sms) / on_sm) : 0;
  const double rounds = std::max(1.0, full + last);

  const double row_tiles = c.tile_n / 16.0, token_tiles = c.tile_m / 8.0, k16 = columns / 16.0;
  const double w_bytes = row_tiles * chunk, x_bytes = c.tile_m * columns * 2.0;
  const double at_once = blocks / rounds;
  const double dram =
      at_once * w_bytes / tiles_m /
      dram_rate(arch, std::min(sms, at_once), on_sm * (c.stages - 1) * (w_bytes + x_bytes));
  const double l2 =
      std::max(on_sm * (w_bytes + x_bytes) / sm_rate(arch), at_once * (w_bytes + x_bytes) / 5.5e6);
  const double math = mma_us(arch, on_sm * row_tiles * token_tiles * k16);
  const double scaling = token_tiles <= 2 ? 2 : 4;
  const double per_step = dequantise_instructions(p, false) + scaling + token_tiles;
  const double instructions = k16 * (row_tiles / c.warps_n * per_step + token_tiles / 2) + 40;
  const double issue = on_sm * c.warps_n * instructions / kIssuesPerClock / clocks_per_us;
  const double alone = (instructions * kWarpIssueClocks + 80) / clocks_per_us;
  const double smem =
      on_sm * (c.warps_n * x_bytes + x_bytes + 2 * w_bytes) / kSmemBytesPerClock / clocks_per_us;
  const double latency = kDramLatencyUs / (c.stages - 1);
  const double step = overlapped({dram, l2, math, issue, smem, alone, latency});
  const double sums = c.tile_m * c.tile_n * 4.0;
  const double split = c.split_k == 1
                           ? 0
                           : 1.5 + std::max((on_sm + c.split_k) * sums / (0.5 * sm_rate(arch)),
                                            2 * blocks * sums / 3e6);
  const double finish = split + on_sm * c.tile_m * c.tile_n * 6.0 / sm_rate(arch);
  return kLaunchUs + kDramLatencyUs + rounds * (steps * step + finish);
}

}  // namespace

double estimate_us(const GemmWna16Problem& p, const GemmWna16Config& c, const Arch& arch) {
  if (c.kernel == "stream") return stream_us(p, c, arch);
  if (c.kernel == "slices") return estimate_slices_us(p, c, arch);
  if (c.kernel == "mma") return tile_us(p, c, arch);
  if (c.kernel == "wgmma") return estimate_wgmma_us(p, c, arch);
  const double m = p.m, n = p.n, k = p.k;  // reference: one thread an output, little shared
  return kLaunchUs + lanes_us(arch, 8 * m * n * k / std::max(1, arch.num_sms));
}

}  // namespace quern
