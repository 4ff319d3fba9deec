#include "tests/support/row_problems.h"

#include <algorithm>

namespace quern::test {

Params row_problem(const RowFamily& family, const dsl::Kernel& kernel, std::int64_t rows,
                   std::int64_t cols, DType dtype, DType residual) {
  // A power of two up to 128 that divides cols; odd ones are one group or head.
  std::int64_t inner = cols;
  if (cols % 2 == 0)
    for (inner = 1; inner < 128 && cols % (2 * inner) == 0;) inner *= 2;
  const bool packed =
      std::any_of(kernel.operands().begin(), kernel.operands().end(),
                  [](const dsl::OperandInfo& info) { return info.dtype == DType::i4; });
  RowValues values;
  for (const std::string& axis : kernel.axes()) {
    std::int64_t& extent = values.axes[axis];
    if (axis == "rows" || axis == "tokens")
      extent = rows;
    else if (axis == "groups" || axis == "heads")
      extent = std::max<std::int64_t>(1, cols / inner);
    else if (axis == "lanes")
      extent = inner;
    else if (axis == "half")
      extent = std::max<std::int64_t>(1, inner / 2);
    else if (axis == "vocab" || axis == "max_positions")
      extent = 100;
    else
      extent = cols;
  }
  if (packed) {
    const std::string& last =
        kernel.axes()[static_cast<std::size_t>(kernel.num_iterated_axes() - 1)];
    values.axes[last] += values.axes[last] % 2;
  }
  for (const std::string& name : kernel.dtype_params())
    values.dtypes[name] = name == "R" ? residual : dtype;
  for (const dsl::ScalarInfo& scalar : kernel.scalars())
    values.scalars[scalar.name] = scalar.dtype == DType::i32 ? 1
                                  : scalar.name == "eps"     ? 1e-5
                                                             : 0.5;
  return family.problem(kernel.name(), values);
}

}  // namespace quern::test
