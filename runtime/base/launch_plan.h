#pragma once
#include <array>
#include <cstddef>

namespace quern {

/// How a kernel is launched for one problem and config. Pure data: computed by the host descriptors
/// in templates/, consumed by runtime/launch.h.
struct LaunchPlan {
  std::array<unsigned, 3> grid{1, 1, 1};   // thread blocks
  std::array<unsigned, 3> block{1, 1, 1};  // threads
  unsigned smem_bytes = 0;                 // dynamic shared memory per block
  unsigned cluster = 1;                    // thread blocks per cluster along x; 1 = no cluster
  bool pdl = false;  // programmatic dependent launch: the kernel calls griddepcontrol.wait itself
  /// Scratch in device memory that the launch needs, zero before the first launch and left zero by
  /// the kernel (self-resetting counters); 0 = none.
  std::size_t workspace_bytes = 0;
};

}  // namespace quern
