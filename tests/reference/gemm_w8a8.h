#pragma once
#include <span>

#include "templates/family.h"

namespace quern::test {

/// y[m, n] = scales * sum over k of x[m, k] * w[n, k]; the oracle of family "gemm_w8a8" with
/// operands x, w, x_scales, w_scales, y. Integer sums are exact and scaled in fp32 in the family's
/// order; sums of e4m3 are f64.
void reference_gemm_w8a8(const Params& problem, std::span<HostTensor> operands);

}  // namespace quern::test
