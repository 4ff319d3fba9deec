#include "templates/common/tunables.h"

#include <cmath>

namespace quern {

std::optional<std::string> bad_extents(int m, int n, int k) {
  constexpr int kMaxExtent = 1 << 20;
  for (const auto& [name, value] : {std::pair{"m", m}, {"n", n}, {"k", k}})
    if (value < 1 || value > kMaxExtent)
      return fmt::format("{} = {} is not between 1 and {}", name, value, kMaxExtent);
  if (std::int64_t{m} * n > std::int64_t{1} << 38)
    return fmt::format("an output of {} x {} elements is more than 2^38", m, n);
  return std::nullopt;
}

int clusters_at_once(int blocks, const Arch& arch) {
  const int sms = std::max(1, arch.num_sms);
  return std::max(1, (blocks <= 2 ? sms : sms * 10 / 11) / blocks);
}

std::optional<std::string> too_much_smem(int smem_bytes, int blocks_per_sm, const Arch& arch) {
  constexpr int kReserved = 1024;  // of each block, by the system
  if (smem_bytes > arch.smem_per_block_bytes)
    return fmt::format("needs {} bytes of shared memory, {} has {} for a block", smem_bytes,
                       arch.name(), arch.smem_per_block_bytes);
  if (std::int64_t{blocks_per_sm} * (smem_bytes + kReserved) > arch.smem_per_sm_bytes)
    return fmt::format("{} blocks of {} bytes of shared memory do not fit an SM of {} with {}",
                       blocks_per_sm, smem_bytes, arch.name(), arch.smem_per_sm_bytes);
  return std::nullopt;
}

std::optional<std::string> too_many_registers(int registers, int threads, const Arch& arch) {
  const int available = std::min(255, arch.registers_per_sm / threads);
  if (registers > available)
    return fmt::format("needs about {} registers a thread, {} are available", registers, available);
  return std::nullopt;
}

std::optional<std::string> complete_rounds(double clusters, int blocks, int m, const Arch& arch) {
  constexpr int kFewRows = 64;
  if (m <= kFewRows) return fmt::format("{} rows wait for weights, not for SMs", m);
  const double rounds = clusters / clusters_at_once(blocks, arch);
  if (rounds >= 1 && std::ceil(rounds) >= 1.03 * rounds) return std::nullopt;
  return fmt::format("{:.2f} rounds of tiles need not be divided along k", rounds);
}

double rounds_of_tiles(double rounds, bool stream_k) {
  constexpr double kGain = 0.25;  // of the idle part
  const double whole = std::ceil(rounds);
  return stream_k ? whole - kGain * (whole - rounds) : whole;
}

}  // namespace quern
