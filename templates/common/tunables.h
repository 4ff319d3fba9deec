#pragma once
#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/base/arch.h"
#include "templates/common/workspace_args.h"
#include "templates/family.h"

// What the families of products share when they declare their spaces and refuse configs.

namespace quern {

inline std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

/// Scratch that a launch may ask for.
constexpr std::size_t kMaxWorkspaceBytes = std::size_t{256} << 20;

/// What `split_k` blocks for each of `tiles` output tiles of so many fp32 sums need of it:
/// counters, and the sums that each leaves; nothing without a split.
inline std::size_t split_workspace_bytes(std::int64_t tiles, int split_k, std::int64_t sums) {
  return split_k <= 1 ? 0 : kCounterBytes + static_cast<std::size_t>(tiles * split_k * sums) * 4;
}

/// What `blocks` need of it that leave so many fp32 sums each (common/stream_k.cuh).
inline std::size_t stream_workspace_bytes(std::int64_t blocks, std::int64_t sums) {
  return kCounterBytes + static_cast<std::size_t>(blocks * sums) * 4;
}

/// What so many rounds of tiles take, in rounds, with or without stream_k: much less is gained than
/// the SMs that an incomplete round leaves idle, because a GPU at its power limit runs the others
/// faster meanwhile. 256 x 28672 x 4096 with 4-bit weights, 1.7 rounds: 97.2 us with stream_k and
/// 96.5 without (H200).
double rounds_of_tiles(double rounds, bool stream_k);

/// Why m, n or k of a product cannot be, or nothing.
std::optional<std::string> bad_extents(int m, int n, int k);

/// Clusters of so many blocks that are resident together, one block an SM. The SMs of a cluster
/// belong to one part of the GPU, and not every part is a multiple of four or eight of them: an
/// H200 (132 SMs, in parts of 16 and 18) holds 30 clusters of four and 15 of eight.
int clusters_at_once(int blocks, const Arch& arch);

/// Why tiles of so many clusters of `blocks`, of a product of m rows, are not worth dividing among
/// all (stream_k), or nothing: they fill less than a round, or the last round well enough; or rows
/// are few, so that weights are waited for whoever multiplies them.
std::optional<std::string> complete_rounds(double clusters, int blocks, int m, const Arch& arch);

/// The values that an integer tunable may take; 0 is that of a kernel that lacks it.
template <class Config>
struct IntTunable {
  const char* name;
  int Config::*member;
  std::vector<int> values;
  bool zero_counts = false;  // 0 is also a value of kernels that have it
};

/// Why a config lies outside of its space, or nothing: tunables that its kernel uses have one of
/// their values, the others are 0.
template <class Config>
std::optional<std::string> outside_space(const std::vector<IntTunable<Config>>& tunables,
                                         const Config& config,
                                         std::initializer_list<std::string_view> used) {
  for (const IntTunable<Config>& tunable : tunables) {
    const int value = config.*tunable.member;
    const bool has = std::find(used.begin(), used.end(), tunable.name) != used.end();
    if (!has && value != 0)
      return fmt::format("{} has no tunable {}, which should be 0", config.kernel, tunable.name);
    const auto& values = tunable.values;
    if (has && ((value == 0 && !tunable.zero_counts) ||
                std::find(values.begin(), values.end(), value) == values.end()))
      return fmt::format("{} = {} is not in the space of {}", tunable.name, value, config.kernel);
  }
  return std::nullopt;
}

template <class Config>
void append(const std::vector<IntTunable<Config>>& tunables, std::vector<Tunable>& space) {
  for (const IntTunable<Config>& tunable : tunables)
    space.push_back({tunable.name, {tunable.values.begin(), tunable.values.end()}});
}

/// Why so many blocks do not fit an SM, or one not a block's limit; or nothing.
std::optional<std::string> too_much_smem(int smem_bytes, int blocks_per_sm, const Arch& arch);
/// Why `threads` threads of an SM cannot have so many registers each, or nothing.
std::optional<std::string> too_many_registers(int registers, int threads, const Arch& arch);

}  // namespace quern
