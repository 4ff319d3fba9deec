#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "compiler/dsl_passes.h"

namespace quern::dsl {

/// What a schedule comes to for one kernel and binding.
struct CudaShape {
  /// Threads share a row; otherwise they share all vectors of all rows.
  bool shares_rows = false;
  /// Neighbouring lanes hold one segment of a row that is kept in registers: so many. 0: there are
  /// no segments, or groups of lanes take them in turn.
  int lanes_per_segment = 0;
  bool takes_segments_in_turn = false;
  int lanes = 1;   // threads that share a row, those of other blocks included
  int chunks = 0;  // with a row that is kept: vectors of it that each thread holds
  /// Elements that a thread moves at once where the innermost extent, known at run time alone, is
  /// no multiple of the schedule's vector. 0: it always is.
  int narrow = 0;
  unsigned smem_bytes = 0;  // dynamic
};

/// Of a legal schedule.
CudaShape cuda_shape(const Tree& tree, const Binding& binding, const Schedule& schedule);

/// Why no GPU could run this, or nothing: an illegal schedule, a dtype missing, an empty axis.
std::optional<std::string> schedule_reason(const Kernel& kernel, const Binding& binding,
                                           const Schedule& schedule);
/// The same as an InputError.
void check_schedule(const Kernel& kernel, const Binding& binding, const Schedule& schedule);

/// Number of elements along these axes, if all are bound; 0 if not.
std::int64_t bound_extent(const Tree& tree, const Binding& binding, AxisSet axes);

/// Loads that wait in shared memory (one for each vector), with Keep::shared.
std::vector<int> staged_loads(const Tree& tree, const Passes& passes, const Binding& binding);
/// Bytes of shared memory that hold one of them, for a whole block.
std::int64_t staged_bytes(const Tree& tree, const Binding& binding, const Schedule& schedule,
                          std::int64_t chunks, int load);

/// Pointers, scalars and extents as a struct of C++ lays them out.
std::vector<std::byte> pack(const Kernel& kernel, std::span<const std::uint64_t> addresses,
                            const std::map<std::string, double>& scalars,
                            const std::map<std::string, std::int64_t>& extents);

/// What later walks of a kernel take from earlier ones.
Reuse reuse_of(Keep keep);

}  // namespace quern::dsl
