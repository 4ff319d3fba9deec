#pragma once
#include <cstddef>
#include <cstdint>

#include "runtime/base/dtype.h"

namespace quern {

/// A row-major matrix that a kernel copies box by box through the tensor memory accelerator (sm_90
/// and later), with rows of a box permuted in shared memory by its 128-byte swizzle: a description
/// of kBytes in the kernel's parameter that only the driver can write.
struct TensorMapSpec {
  static constexpr std::size_t kBytes = 128;
  std::size_t operand = 0;  // whose address it is
  std::size_t offset = 0;   // in the kernel's parameter, bytes; a multiple of 64
  DType dtype = DType::bf16;
  std::int64_t rows = 0, columns = 0;  // elements; a row is a multiple of 16 bytes
  int box_rows = 0;                    // at most 256
  int box_columns = 0;                 // elements; at most 128 bytes
};

}  // namespace quern
