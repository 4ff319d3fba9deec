#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "templates/family.h"

namespace quern {

/// The bytes of a kernel's parameter: Family::pack_args() with the tensor maps that the driver
/// writes. Throws InputError, CudaError.
std::vector<std::byte> launch_args(const Family& family, const Params& problem,
                                   const Params& config, std::span<const std::uint64_t> addresses,
                                   std::uint64_t workspace);

}  // namespace quern
