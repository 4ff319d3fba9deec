#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "runtime/base/dtype.h"

namespace quern::test {

/// Host memory of one operand of a kernel, read and written as numbers: packed, i4 two to a byte.
struct Tensor {
  DType dtype;
  std::size_t count;  // elements
  std::vector<std::byte> bytes;

  Tensor(DType type, std::size_t elements);
  double get(std::size_t i) const;
  /// Rounds to nearest even; integers saturate, NaN becomes 0 there.
  void set(std::size_t i, double value);
};

/// What `dtype` makes of an f32 value: a cast of the kernel language.
double rounded_to(DType dtype, float value);

}  // namespace quern::test
