#pragma once
#include <span>
#include <vector>

#include "autotune/kernel_library.h"
#include "autotune/search.h"

namespace quern {

/// A kernel that is timed against others, of the same problem or of another.
struct Contestant {
  const Family* family = nullptr;
  Params problem, config;
};

/// Times kernels against each other: `rounds` rounds in which everybody runs a few replays, after
/// one that does not count, so that falling clocks touch all alike. Those of one problem share
/// operands. One timing for each. Throws CompileError, OutOfMemoryError, CudaError.
std::vector<Timing> time_in_turns(KernelLibrary& library, std::span<const Contestant> contestants,
                                  int rounds = 11);

/// The same for configs of one problem.
std::vector<Timing> time_configs(KernelLibrary& library, const Family& family,
                                 const Params& problem, std::span<const Params> configs,
                                 int rounds = 11);

}  // namespace quern
