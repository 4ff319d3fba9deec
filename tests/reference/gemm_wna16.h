#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "templates/family.h"

namespace quern::test {

/// Where the code of an element of w[n, k] lies in kernel order (gemm_wna16_args.h), counted in
/// codes: nibbles, the lower one of a byte first, or bytes.
std::size_t wna16_code_index(std::size_t row, std::size_t column, std::size_t k, int bits);
/// Where the scale or zero point of a row and group lies.
std::size_t wna16_scale_index(std::size_t row, std::size_t group, std::size_t groups);

/// y[m, n] = sum over k of x[m, k] * (code - zero) * scale, summed in f64; the oracle of family
/// "gemm_wna16" with its operands.
void reference_gemm_wna16(const Params& problem, std::span<HostTensor> operands);

}  // namespace quern::test
