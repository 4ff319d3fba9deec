#pragma once
#include "templates/family.h"

namespace quern {

/// What bounds every kernel on one device.
struct Roofs {
  double bytes_per_s = 0;  // measured, of a kernel that only reads; 0 = unknown
  double flops_per_s = 0;  // of the tensor cores, 16-bit inputs (DeviceInfo); 0 = unknown

  /// No launch of this problem can take less, in microseconds: its bytes at the one roof or its
  /// operations at the other, whichever takes longer. Problems whose inputs have 8 bits compute
  /// twice as fast. 0 if nothing is known. Operands that stay in the L2 cache, as small ones do,
  /// may beat it. Throws InputError for malformed parameters.
  double least_us(const Family& family, const Params& problem) const;
};

}  // namespace quern
