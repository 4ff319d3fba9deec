#pragma once
#include <cstdint>
#include <vector>

#include "templates/family.h"

namespace quern {

/// Row-wise and elementwise kernels, written in the kernel language (the .qk files of this folder;
/// compiler/README.md). What they compute matters little to their tuning: they move memory. This is
/// what they move.
struct RowProblem {
  std::int64_t rows = 1, cols = 1;
  /// Of the narrowest operand whose rows are read or written: it fixes how many elements a thread
  /// moves at once.
  int element_bytes = 2;
  /// Threads share a row; otherwise every element stands by itself.
  bool reduces = false;
};

struct RowConfig {
  int threads = 256;          // per block
  int threads_per_row = 256;  // up to 32: several rows per block; = threads: one row per block
  int vector_bytes = 16;      // per memory access
  bool pdl = false;           // programmatic dependent launch
  static constexpr auto fields() {
    using C = RowConfig;
    return std::tuple{std::pair{"threads", &C::threads},
                      std::pair{"threads_per_row", &C::threads_per_row},
                      std::pair{"vector_bytes", &C::vector_bytes}, std::pair{"pdl", &C::pdl}};
  }
};

/// Every value that a tunable may take.
std::vector<Tunable> row_space();

/// Best guess first: as many threads for a row as leave each 8 to 16 elements; 16-byte accesses
/// where the row length allows.
std::vector<RowConfig> row_candidates(const RowProblem& problem, const Arch& arch);

/// Why a legal config would waste what it asks for, or nothing: threads that find no element, or
/// accesses wider than divides the row.
std::optional<std::string> row_reject_reason(const RowProblem& problem, const RowConfig& config,
                                             const Arch& arch);

/// Of an output of this dtype that depends on `cols` elements: one rounding of the dtype, and fp32
/// arithmetic in another order.
Tolerance row_tolerance(DType dtype, std::int64_t cols);

}  // namespace quern
