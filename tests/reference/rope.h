#pragma once
#include <span>

#include "templates/family.h"

namespace quern::test {

/// Rotation and append from the formula, element by element. Operands as RopeAppendFamily has them.
void rope_append_oracle(const Params& problem, std::span<HostTensor> operands);

}  // namespace quern::test
