#pragma once
#include <span>

#include "templates/family.h"

namespace quern::test {

/// y[m, n] = sum over k of x[m, k] * w[n, k], summed in f64; the oracle of family "gemm" with
/// operands x, w, y.
void reference_gemm(const Params& problem, std::span<HostTensor> operands);

}  // namespace quern::test
