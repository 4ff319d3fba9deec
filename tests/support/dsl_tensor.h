#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "runtime/base/dtype.h"

namespace quern::test {

/// Host memory of one operand of a kernel, read and written as numbers: packed, i4 two to a byte.
struct Tensor {
  DType dtype;
  std::size_t count;  // of elements
  std::vector<std::byte> bytes;

  Tensor(DType type, std::size_t elements);
  std::size_t size() const { return count; }
  double get(std::size_t i) const;
  /// Rounds to nearest even; integers saturate, NaN becomes 0 there.
  void set(std::size_t i, double value);

  template <class T>
  T raw(std::size_t i) const {
    T out;
    std::memcpy(&out, bytes.data() + i * sizeof(T), sizeof(T));
    return out;
  }
  template <class T>
  void set_raw(std::size_t i, T value) {
    std::memcpy(bytes.data() + i * sizeof(T), &value, sizeof(T));
  }
};

/// What `dtype` makes of an f32 value: a cast of the kernel language.
double rounded_to(DType dtype, float value);

}  // namespace quern::test
