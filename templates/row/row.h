#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "templates/family.h"

namespace quern {

/// Row-wise and elementwise kernels, written in the kernel language (the .qk files of this folder;
/// compiler/README.md). What they compute matters little to their tuning: they move memory. This is
/// what they move.
struct RowProblem {
  std::int64_t rows = 1;   // that stand by themselves; without reductions all but the last axis
  std::int64_t row = 1;    // elements of one, over all of its axes
  std::int64_t inner = 1;  // extent of the innermost axis, which accesses have to divide
  /// Elements of each group of a row that some reduction folds by itself; 0: there are no groups.
  std::int64_t segment = 0;
  /// Bits of an element, of the narrowest and of the widest operand that has the innermost axis:
  /// they fix how many elements make a 16-byte access.
  int narrow_bits = 16, wide_bits = 16;
  /// Of what a row reads, per element of the row: what it would take to keep it in shared memory.
  double loaded_bytes = 2;
  /// Threads share a row; otherwise every element stands by itself.
  bool reduces = false;
  /// Neighbours in memory belong to different rows: what is reduced is an outer axis.
  bool column = false;
};

struct RowConfig {
  int threads = 256;          // per block
  int threads_per_row = 256;  // of a block that share a row; fewer than threads: several rows
  int vector = 1;             // elements that a thread moves at once
  std::string keep =
      "none";             // where a row waits between two walks: none, registers, packed, shared
  int cluster = 1;        // blocks that share a row
  bool pdl = false;       // programmatic dependent launch
  int turns = 1;          // rows that the same threads take one after another
  int blocks_per_sm = 0;  // that registers should leave room for; 0 = as it comes
  static constexpr auto fields() {
    using C = RowConfig;
    return std::tuple{
        std::pair{"threads", &C::threads}, std::pair{"threads_per_row", &C::threads_per_row},
        std::pair{"vector", &C::vector},   std::pair{"keep", &C::keep},
        std::pair{"cluster", &C::cluster}, std::pair{"pdl", &C::pdl},
        std::pair{"turns", &C::turns},     std::pair{"blocks_per_sm", &C::blocks_per_sm}};
  }
  bool operator==(const RowConfig&) const = default;
};

/// Every value that a tunable may take.
std::vector<Tunable> row_space();

/// The distinct points of the space for a problem, whether legal or not: the kernel language may
/// refuse some (dsl::reject_reason), row_reject_reason() others. Threads per row by powers of two,
/// and as many as find work in every step; several rows a block or a cluster of blocks a row;
/// accesses from 4 elements to 64 bytes of the widest operand; each place to keep a row; rows in
/// turn where there are more than fill the GPU; registers bounded for a full SM and for three
/// quarters of one, where what is kept takes registers. Always with PDL where there is such: a
/// launch without it only begins later.
std::vector<RowConfig> row_points(const RowProblem& problem, const Arch& arch);

/// What to run untuned, best guess first; as legal as row_points().
std::vector<RowConfig> row_defaults(const RowProblem& problem, const Arch& arch);

/// The analytic model: microseconds of a legal config. `cost` is the whole problem's. Rows go
/// through blocks in rounds, each round as long as its loads' latency, the steps that wait for one
/// another (fewer the more of a row is kept in registers at once), and the reductions' barriers;
/// below lie the limits of DRAM (Little's law), of an SM's way in, of its lanes, and of the rate at
/// which blocks start.
double row_estimate_us(const RowProblem& problem, const Cost& cost, const RowConfig& config,
                       const Arch& arch);

/// Why a legal config would waste what it asks for, or nothing: more threads than an SM holds, or
/// more than find an element of the row.
std::optional<std::string> row_reject_reason(const RowProblem& problem, const RowConfig& config,
                                             const Arch& arch);

/// Where an output's value comes from, as far as its tolerance depends on that.
struct RowOutput {
  DType dtype = DType::f32;
  std::int64_t row = 1;  // elements that it depends on
  /// Nothing but comparisons, roundings, integer arithmetic and lone f32 operations on what was
  /// loaded: every build agrees to the last bit.
  bool exact = false;
  /// A sum itself, not a mean: its error grows with the number of terms.
  bool sum = false;
  /// The position of an extreme of f32 arithmetic, which a near tie moves anywhere.
  bool position = false;
};

/// One rounding of the dtype, and fp32 arithmetic in another order. An integer that f32 arithmetic
/// was rounded to may be one off where the arithmetic came close to a tie; of such elements there
/// can only be few (Tolerance::share).
Tolerance row_tolerance(const RowOutput& output);

}  // namespace quern
