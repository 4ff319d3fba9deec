#pragma once
#include <cstdint>

#include "model/quantised_linear.h"

namespace quern::cpu {

/// out[i, j] = sum over k of x[i, k] * w[j, k], for x [m, in_features] contiguous, outputs
/// [begin, end), at most 64 of them from a multiple of 16, and rows of `out` out_stride apart.
/// Codes are unpacked to f32 in the cache, so that the weight takes no more memory than its file.
void multiply_quantised(const float* x, std::int64_t m, const QuantisedLinear& weight,
                        std::int64_t begin, std::int64_t end, float* out, std::int64_t out_stride);

}  // namespace quern::cpu
