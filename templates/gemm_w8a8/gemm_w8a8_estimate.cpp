#include <algorithm>

#include "templates/common/roofline.h"
#include "templates/gemm/gemm_args.h"
#include "templates/gemm_w8a8/gemm_w8a8.h"
#include "templates/gemm_w8a8/gemm_w8a8_args.h"
#include "templates/gemm_w8a8/gemm_w8a8_wgmma.h"

// The analytic model of the gemm_w8a8 family, of the same form as that of gemm:
//
//   launch + rounds of blocks * (latency + steps of k * the slowest of what a step needs + finish)

namespace quern {
namespace {

constexpr double kSmemBytesPerClock = 128;  // of an SM
constexpr double kWarpIssueClocks = 2.5;    // per instruction of one warp by itself

/// Products of 8 bits by mma.sync, of the peak of 16 bits. Twice as many fit a clock, except where
/// codes are unpacked to f16 first (e4m3 on Hopper).
double mma_share(const GemmW8A8Problem& p, const Arch& arch) {
  if (arch.cc() < 90) return 1.5;
  return p.dtype == DType::e4m3 && arch.major == 9 ? 0.4 : 0.9;
}

double few_rows_us(const GemmW8A8Problem& p, const GemmW8A8Config& c, const Arch& arch) {
  const double clocks_per_us = arch.clock_ghz * 1e3;
  const double warps = c.warps_n * c.warps_k;
  const double groups = ceil_ratio(p.n, c.warps_n * 16.0);
  const double places = double(arch.num_sms) * c.blocks_per_sm;
  const double rounds = ceil_ratio(groups, places);  // groups of the busiest block
  const double steps = ceil_ratio(few_rows_chunks(p.k), c.warps_k * c.unroll);
  const double busy = std::min<double>(arch.num_sms, groups);
  const double blocks = std::min<double>(c.blocks_per_sm, ceil_ratio(groups, arch.num_sms));

  const double step_bytes = blocks * warps * 1024 * c.unroll;  // of an SM
  const double in_flight = step_bytes * (c.stages - 0.5);
  const double dram = step_bytes * busy / dram_rate(arch, busy, in_flight);
  // Of a warp and chunk: two loads with their addresses, x from shared memory, the products; codes
  // of e4m3 are unpacked on Hopper; sums are scaled where scales are in blocks.
  const double tiles = c.tile_m / 8.0;
  const bool unpacked = p.dtype == DType::e4m3 && arch.major == 9;
  const double instructions =
      c.unroll * (8 + tiles * (5 + (unpacked ? 12 : 0) + (p.has_block_scales() ? 5 : 0)) +
                  (unpacked ? 16 : 0)) +
      8;
  const double math = std::max(lanes_us(arch, blocks * warps * 32 * instructions),
                               instructions * kWarpIssueClocks / clocks_per_us);
  const double finish = lanes_us(arch, blocks * warps * 32 * (12 * tiles + 30)) +
                        (c.warps_k > 1 ? kBarrierUs + 0.02 * c.warps_k : 0);
  const double stage_x = c.tile_m * p.k * blocks / sm_rate(arch);
  return kLaunchUs + kDramLatencyUs + stage_x +
         rounds * (steps * overlapped({dram, math}) + finish);
}

double mma_us(const GemmW8A8Problem& p, const GemmW8A8Config& c, const Arch& arch) {
  const double clocks_per_us = arch.clock_ghz * 1e3;
  const int threads = c.warps_m * c.warps_n * 32;
  const int smem_bytes = w8a8_mma_smem_bytes(c.tile_m, c.tile_n, c.tile_k, c.stages);
  const int most =
      std::max(1, resident_blocks(arch, threads, estimated_registers(p, c, arch), smem_bytes));
  const double tiles_m = ceil_ratio(p.m, c.tile_m), tiles_n = ceil_ratio(p.n, c.tile_n);
  const double blocks = tiles_m * tiles_n * c.split_k;
  const double on_sm = std::max(1.0, std::min<double>(most, ceil_ratio(blocks, arch.num_sms)));
  const double steps = ceil_ratio(ceil_ratio(p.k, c.tile_k), c.split_k);
  // A last round that is not full still takes its time, though its blocks have an SM to themselves.
  const double full = std::floor(blocks / (double(arch.num_sms) * on_sm));
  const double left = blocks - full * arch.num_sms * on_sm;
  const double last = left > 0 ? std::max(0.5, ceil_ratio(left, arch.num_sms) / on_sm) : 0;
  const double rounds = std::max(1.0, full + last);

  const double x_bytes = double(c.tile_m) * c.tile_k, w_bytes = double(c.tile_n) * c.tile_k;
  const double tile_bytes = x_bytes + w_bytes;
  const double block_in_flight = (c.stages - 1) * tile_bytes;
  // x stays in L2; of w one block in group_m (or in all of m's tiles) fetches, the others find it.
  const double shared_by = std::min<double>(tiles_m, c.group_m);
  const double at_once = blocks / rounds;
  const double dram = at_once * w_bytes / shared_by / dram_rate(arch, at_once, block_in_flight);
  const double l2 = on_sm * tile_bytes / sm_rate(arch);
  const double tensor_flops = mma_share(p, arch) * arch.tensor_tflops * 1e6 / arch.num_sms;
  const double math = on_sm * 2.0 * c.tile_m * c.tile_n * c.tile_k / tensor_flops;
  const double fragments = (double(c.tile_m) * c.warps_n + double(c.tile_n) * c.warps_m) * c.tile_k;
  const double smem = on_sm * (fragments + tile_bytes) / kSmemBytesPerClock / clocks_per_us;
  // A warp by itself: its products, fragments and copies, one after the other, and the barrier.
  const double warps = c.warps_m * c.warps_n;
  const double products = c.tile_m / 16.0 * (c.tile_n / 8.0) / warps * (c.tile_k / 32.0);
  const double copies =
      (c.tile_m + c.tile_n) * double(c.tile_k) / (32.0 * warps * w8a8_vector_bytes(p.k));
  const double alone =
      (8 * products + 4 * kWarpIssueClocks * copies + (p.has_block_scales() ? 400 : 60)) /
      clocks_per_us;
  const double latency = kDramLatencyUs / (c.stages - 1);
  const double step = overlapped({dram, l2, math, smem, alone, latency});
  // Splitting costs a write and a read of the sums in L2, and the wait for the last block.
  const double sums = c.tile_m * c.tile_n * 4.0;
  const double split =
      c.split_k == 1 ? 0 : 1.2 + (on_sm + c.split_k) * sums / (0.5 * sm_rate(arch));
  const double stores = c.tile_m * c.tile_n * static_cast<double>(size_bits(p.out_dtype)) / 8;
  const double finish = split + on_sm * stores / sm_rate(arch);
  return kLaunchUs + kDramLatencyUs + rounds * (steps * step + finish);
}

/// Its kernels use all that the architecture has, but in a graph they do not overlap with their
/// neighbours.
double library_us(const GemmW8A8Problem& p, const GemmW8A8Config& c, const Arch& arch) {
  const double m = p.m, n = p.n, k = p.k;
  const double out_bytes = static_cast<double>(size_bits(p.out_dtype)) / 8;
  const double dram = (m * k + n * k + out_bytes * m * n) / (0.92 * arch.dram_gbps * 1e3);
  const double math = 2 * m * n * k / (0.68 * 2 * arch.tensor_tflops * 1e6);
  constexpr double kOverheadUs = 5.2, kPerRank = 0.004;
  return (kOverheadUs + overlapped({dram, math})) * (1 + kPerRank * c.algorithm);
}

}  // namespace

double estimate_us(const GemmW8A8Problem& p, const GemmW8A8Config& c, const Arch& arch) {
  if (c.kernel == "few_rows") return few_rows_us(p, c, arch);
  if (c.kernel == "mma") return mma_us(p, c, arch);
  if (c.kernel == "cublaslt") return library_us(p, c, arch);
  if (c.kernel == "wgmma") return estimate_wgmma_us(p, c, arch);
  const double m = p.m, n = p.n, k = p.k;  // reference: one thread an output, nothing shared
  return kLaunchUs + lanes_us(arch, 8 * m * n * k / arch.num_sms);
}

}  // namespace quern
