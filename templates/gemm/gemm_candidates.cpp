#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <set>
#include <tuple>

#include "templates/gemm/gemm.h"
#include "templates/gemm/gemm_args.h"

// Which configs are worth trying, and in which order. Both kernels are ranked by a small model of
// one SM; it only has to put good configs early, since measurement decides.

namespace quern {
namespace {

// Rates of one SM per clock; they set where a config turns from one limit to another.
constexpr double kMemoryBytes = 24;      // its share of DRAM (H200: 4.65 TB/s over 132 SMs)
constexpr double kCacheBytes = 40;       // its share of L2
constexpr double kSmemBytes = 128;       // shared memory
constexpr double kTensorFlops = 2048;    // mma.sync, half of what wgmma reaches
constexpr double kLanes = 128;           // instructions of single lanes
constexpr double kIssueClocks = 2.5;     // per instruction of one warp by itself
constexpr double kLatencyClocks = 1200;  // of memory under load
constexpr double kBytesInFlight =
    81920;  // that keep memory busy: 2 blocks of 3 x 16 KB saturate an H200

/// Several limits at once: the highest, and a part of the others, since overlap is never perfect.
double limited_by(std::initializer_list<double> clocks) {
  double highest = 0, sum = 0;
  for (const double c : clocks) highest = std::max(highest, c), sum += c;
  return highest + 0.2 * (sum - highest);
}

struct Ranked {
  GemmConfig config;
  double clocks = 0;  // the model's estimate
};

double ceil_div(double a, double b) { return std::ceil(a / b); }

/// Best first; of configs with the same `key` only the first three are kept, so that near-copies do
/// not crowd out other shapes.
template <class Key>
std::vector<GemmConfig> best(std::vector<Ranked> all, std::size_t limit, Key key) {
  std::stable_sort(all.begin(), all.end(),
                   [](const Ranked& a, const Ranked& b) { return a.clocks < b.clocks; });
  std::multiset<decltype(key(all.front().config))> seen;
  std::vector<GemmConfig> out;
  for (const Ranked& ranked : all) {
    if (out.size() == limit) break;
    const auto k = key(ranked.config);
    if (seen.count(k) == 3) continue;
    seen.insert(k);
    out.push_back(ranked.config);
  }
  return out;
}

double gemv_clocks(const GemmProblem& p, const GemmConfig& c, const Arch& arch) {
  const int vector = gemm_vector_elements(p.k), chunks = gemv_chunks(p.k);
  const double warps = c.warps_n * c.warps_k, blocks = arch.num_sms * c.blocks_per_sm;
  const double groups = ceil_div(p.n, c.warps_n * c.rows_per_warp);
  const double rounds = ceil_div(groups, blocks);  // of the busiest block
  const double steps = ceil_div(chunks, c.warps_k * c.unroll);
  const double accesses = c.rows_per_warp * c.unroll;  // per lane and step
  const double step_bytes = c.blocks_per_sm * warps * 32 * accesses * vector * 2;

  const double in_flight = step_bytes * (c.stages - (c.async_copy ? 1 : 0.5));
  const double memory = step_bytes / kMemoryBytes * std::max(1.0, kBytesInFlight / in_flight);
  // Per access: unpack the weights, unpack x once for all rows, multiply; issue the load.
  const double instructions =
      accesses * (vector * (1.0 + c.tile_m + c.tile_m / double(c.rows_per_warp)) + 4) +
      c.tile_m * c.unroll + 8;
  const double math =
      std::max(c.blocks_per_sm * warps * 32 * instructions / kLanes, instructions * kIssueClocks);
  // At a group's end: exchanges among lanes, a barrier, the sum over warps, the store.
  const double sums = c.tile_m * c.rows_per_warp;
  const double finish =
      c.blocks_per_sm * warps * 32 * (6 * sums + 20) / kLanes + (c.warps_k > 1 ? 40 : 0);
  return kLatencyClocks + rounds * (steps * limited_by({memory, math}) + finish);
}

std::vector<GemmConfig> gemv_candidates(const GemmProblem& p, const Arch& arch, std::size_t limit) {
  if (p.m > 16) return {};
  GemmConfig c;
  c.kernel = "gemv";
  c.tile_m = 1;
  while (c.tile_m < p.m) c.tile_m *= 2;
  std::vector<Ranked> all;
  for (const auto& [warps_n, warps_k] :
       {std::pair{1, 8}, {2, 4}, {4, 2}, {8, 1}, {1, 4}, {4, 1}, {1, 16}, {4, 4}})
    for (const int rows : {2, 4, 1, 8})
      for (const int unroll : {2, 1, 4, 8})
        for (const int blocks : {2, 1, 4})
          for (const auto& [async_copy, stages] :
               {std::pair{true, 4}, {false, 2}, {true, 3}, {true, 6}, {false, 3}}) {
            if (rows * unroll > 8 || rows * c.tile_m > 64) continue;
            c.warps_n = warps_n, c.warps_k = warps_k;
            c.rows_per_warp = rows, c.unroll = unroll, c.blocks_per_sm = blocks;
            c.async_copy = async_copy, c.stages = stages;
            if (!reject_reason(p, c, arch)) all.push_back({c, gemv_clocks(p, c, arch)});
          }
  return best(std::move(all), limit, [](const GemmConfig& g) {
    return std::tuple{g.warps_n, g.warps_k, g.async_copy};
  });
}

double mma_clocks(const GemmProblem& p, const GemmConfig& c, const Arch& arch) {
  const int threads = c.warps_m * c.warps_n * 32;
  const int smem = mma_smem_bytes(c.tile_m, c.tile_n, c.tile_k, c.stages);
  const int occupancy = std::max(
      1, std::min({arch.smem_per_sm_bytes / (smem + 1024), arch.max_threads_per_sm / threads,
                   arch.registers_per_sm / (threads * estimated_registers(p, c)), 8}));
  const double blocks = ceil_div(p.m, c.tile_m) * ceil_div(p.n, c.tile_n) * c.split_k;
  const double waves = ceil_div(blocks, double(arch.num_sms) * occupancy);
  const double resident = std::min<double>(occupancy, ceil_div(blocks, arch.num_sms));
  const double tiles_k = ceil_div(ceil_div(p.k, c.tile_k), c.split_k);

  const double tile_bytes = (c.tile_m + c.tile_n) * c.tile_k * 2.0;
  const double in_flight = resident * (c.stages - 1) * tile_bytes;
  const double memory = resident * tile_bytes / (p.m > c.tile_m ? kCacheBytes : kMemoryBytes) *
                        std::max(1.0, kBytesInFlight / in_flight);
  const double math = resident * 2.0 * c.tile_m * c.tile_n * c.tile_k / kTensorFlops;
  const double fragments = resident * (c.tile_m * c.warps_n + c.tile_n * c.warps_m) * c.tile_k * 2;
  const double step = limited_by(
      {memory, math, (fragments + tile_bytes) / kSmemBytes, kLatencyClocks / (c.stages - 1)});
  // Splitting costs a write and a read of the sums, and the wait for the last block.
  const double sums = c.tile_m * c.tile_n * 4.0;
  const double split =
      c.split_k == 1 ? 0 : resident * sums * 2 / kMemoryBytes + sums * c.split_k / 64 + 2000;
  return waves * (kLatencyClocks + tiles_k * (step + 20) + split);
}

std::vector<GemmConfig> mma_candidates(const GemmProblem& p, const Arch& arch, std::size_t limit) {
  std::vector<Ranked> all;
  GemmConfig c;
  for (const int tile_m : {16, 32, 64, 128}) {
    if (tile_m > 16 && tile_m >= 2 * p.m) break;  // mostly padding
    if (tile_m < 64 && p.m > 8 * tile_m) continue;
    for (const int tile_n : {32, 64, 128, 256})
      for (const int tile_k : {64, 32, 128})
        for (const auto& [warps_m, warps_n] :
             {std::pair{1, 4}, {2, 2}, {1, 2}, {2, 4}, {4, 2}, {1, 8}, {4, 1}})
          for (const int stages : {4, 3, 6, 2})
            for (const int split_k : {1, 2, 3, 4, 6, 8}) {
              c.tile_m = tile_m, c.tile_n = tile_n, c.tile_k = tile_k;
              c.warps_m = warps_m, c.warps_n = warps_n;
              c.stages = stages, c.split_k = split_k;
              c.group_m = p.m > tile_m ? 8 : 1;
              if (!reject_reason(p, c, arch)) all.push_back({c, mma_clocks(p, c, arch)});
            }
  }
  return best(std::move(all), limit, [](const GemmConfig& g) {
    return std::tuple{g.tile_m, g.tile_n, g.tile_k};
  });
}

}  // namespace

std::vector<GemmConfig> candidates(const GemmProblem& p, const Arch& arch) {
  std::vector<GemmConfig> out;
  const auto append = [&](const std::vector<GemmConfig>& more) {
    out.insert(out.end(), more.begin(), more.end());
  };
  // Up to 4 rows the arithmetic of single lanes keeps up with memory; beyond, tensor cores do.
  const bool few = p.m <= 4;
  if (few) append(gemv_candidates(p, arch, 20));
  append(mma_candidates(p, arch, few ? 8 : p.m <= 16 ? 20 : 30));
  if (!few) append(gemv_candidates(p, arch, 8));
  GemmConfig library;
  library.kernel = "cublaslt";
  for (library.algorithm = 0; library.algorithm < (p.m <= 16 ? 4 : 8); ++library.algorithm)
    if (!reject_reason(p, library, arch)) out.push_back(library);
  return out;
}

}  // namespace quern
