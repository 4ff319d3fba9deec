#pragma once
#include <string>

#include "runtime/base/dtype.h"

namespace quern {

/// CUDA source of `struct NAME` whose run(float (&d)[n / 2], u64 a, u64 b) adds the product of
/// a[64, 128 bytes] and b[n, 128 bytes] to the accumulators, both by descriptors of
/// common/wgmma.cuh: the four wgmma of one stage in one statement, since a compile takes three
/// times as long for four. `dtype` is bf16, f16, e4m3 or, with accumulators of int, i8; n a
/// multiple of 8 (i8: of 16) up to 256. With 8 bits there is also start(d, a, b), which sets the
/// accumulators to the product.
std::string wgmma_product(const std::string& name, DType dtype, int n);

}  // namespace quern
