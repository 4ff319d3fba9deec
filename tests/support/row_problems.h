#pragma once
#include <cstdint>

#include "autotune/row_family.h"

namespace quern::test {

/// A problem of any row kernel, from its axes' names: `rows` for rows and tokens, `cols` for cols;
/// axes within a row (groups, lanes, heads, half) come to about `cols` elements together, so that
/// odd `cols` give odd shapes. The innermost axis of packed operands is made even.
Params row_problem(const RowFamily& family, const dsl::Kernel& kernel, std::int64_t rows,
                   std::int64_t cols, DType dtype, DType residual);

}  // namespace quern::test
