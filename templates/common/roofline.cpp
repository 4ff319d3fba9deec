#include "templates/common/roofline.h"

#include <algorithm>

namespace quern {

double overlapped(std::initializer_list<double> limits_us) {
  constexpr double kExposed = 0.2;
  double highest = 0, sum = 0;
  for (const double us : limits_us) highest = std::max(highest, us), sum += us;
  return highest + kExposed * (sum - highest);
}

int resident_blocks(const Arch& arch, int threads, int registers, int smem_bytes) {
  constexpr int kMaxBlocks = 32, kSystemSmem = 1024;  // of an SM; of a block, for the system
  const int warps = (threads + 31) / 32;
  const int granule = (std::max(registers, 16) + 7) / 8 * 8;  // registers are dealt out by eights
  return std::min({kMaxBlocks, arch.max_threads_per_sm / (warps * 32),
                   arch.registers_per_sm / (granule * warps * 32),
                   arch.smem_per_sm_bytes / (smem_bytes + kSystemSmem)});
}

Waves waves_of(double blocks, int max_resident, const Arch& arch) {
  const double sms = std::max(1, arch.num_sms), most = std::max(1, max_resident);
  Waves out;
  out.busy_sms = std::min(sms, std::max(1.0, blocks));
  out.resident = std::min(most, std::max(1.0, blocks / out.busy_sms));
  out.rounds = ceil_ratio(blocks, sms * most);
  return out;
}

double dram_rate(const Arch& arch, double busy_sms, double in_flight_bytes) {
  const double peak =
      0.93 * arch.dram_gbps * 1e3;  // bytes per microsecond; refresh and turnarounds
  const double little = busy_sms * in_flight_bytes / kDramLatencyUs;
  // 1 / (1/a^4 + 1/b^4)^(1/4): within 16% of the lower limit where both are equal.
  const double ratio = little / peak;
  return little / std::pow(1 + std::pow(ratio, 4), 0.25);
}

double streaming_us(const StreamingKernel& k, const Arch& arch) {
  const int most = std::max(1, resident_blocks(arch, k.threads, k.registers, k.smem_bytes));
  const Waves waves = waves_of(k.blocks, most, arch);
  const double on_sm = waves.resident * k.threads;  // threads
  const double dram = k.bytes / dram_rate(arch, waves.busy_sms, on_sm * k.loads_at_once);
  // The busiest SM's share: whole blocks where there are few, an even part where there are many.
  const double share =
      std::max(ceil_ratio(k.blocks, arch.num_sms) / k.blocks, 1.0 / std::max(1, arch.num_sms));
  const double sm = k.bytes * share / sm_rate(arch);
  const double math = lanes_us(arch, k.instructions * k.blocks * share * k.threads);
  const double alone = waves.rounds * (kDramLatencyUs + (k.steps - 1) * k.step_us);
  return kLaunchUs + (k.pdl ? 0 : kNoPdlUs) +
         overlapped({dram, sm, math, alone, k.blocks / kBlocksPerUs});
}

}  // namespace quern
