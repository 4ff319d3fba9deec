#pragma once
#include <cstdint>
#include <vector>

#include "model/quantised_matrix.h"
#include "runtime/base/dtype.h"

namespace quern {

/// A quantised matrix in the order in which the kernels of templates/gemm_wna16 read it, which
/// gemm_wna16_args.h describes: tiles of 16 rows, codes as fragments of mma.m16n8k16.
struct KernelOrder {
  std::vector<std::uint32_t> codes;   // [out / 16, in / 64 (32 for 8 bits), 32, 4]
  std::vector<std::uint16_t> scales;  // [out / 16, groups, 8, 2], bf16 or f16
  std::vector<std::uint8_t> zeros;    // the same shape; empty for symmetric weights
};

/// Bytes of codes, scales and zero points of a matrix in this order.
struct KernelOrderBytes {
  std::size_t codes = 0, scales = 0, zeros = 0;
};
KernelOrderBytes kernel_order_bytes(std::int64_t out_features, std::int64_t in_features, int bits,
                                    std::int64_t group_size, bool zero_points);

/// Rounds scales to `dtype`, bf16 or f16. A matrix without codes stays without. Throws InputError
/// unless there are a multiple of 16 rows and of 64 columns.
KernelOrder kernel_order(const QuantisedMatrix& matrix, DType dtype, ThreadPool& pool);

}  // namespace quern
