#pragma once
#include "runtime/base/tensor_map_spec.h"
#include "runtime/memory.h"

namespace quern {

/// Writes the description of the matrix at `address` (16-byte aligned) to TensorMapSpec::kBytes
/// bytes at `to`. Throws InputError for what the hardware cannot describe, CudaError.
void encode_tensor_map(std::byte* to, const TensorMapSpec& spec, CUdeviceptr address);

}  // namespace quern
