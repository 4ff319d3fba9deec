#pragma once
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "compiler/dsl.h"
#include "tests/support/dsl_tensor.h"

namespace quern::test {

/// What a kernel should have written.
struct Interpreted {
  std::vector<Tensor> operands;
  /// Of each operand and element: how far a right result may be from it. 0 where every back end
  /// must agree to the bit; infinite where rounding may decide a comparison, so that anything goes.
  std::vector<std::vector<double>> error;
};

/// How arithmetic may differ from one rounding for each operation.
struct Arithmetic {
  bool contracts = false;  // a * b + c may round once
};

/// Evaluates a kernel as the language page has it, element by element and without a plan: f32
/// arithmetic rounds to f32 at each step, sums are folded in f64. Beside each value goes a bound of
/// the error that other right implementations may have, which follows from the ways in which they
/// may differ: rounding of functions, order of folding.
Interpreted interpret(const dsl::Kernel& kernel, const dsl::Binding& binding,
                      const std::vector<Tensor>& operands, const std::vector<double>& scalars,
                      const std::vector<std::int64_t>& extents, Arithmetic arithmetic = {});

/// The first element that is not as it should be, as "operand y [3]: 2 instead of 1 +- 0.1".
std::optional<std::string> difference(const dsl::Kernel& kernel, const Interpreted& wanted,
                                      const std::vector<Tensor>& got);

/// Elements of operand `i`.
std::size_t num_elements(const dsl::Kernel& kernel, std::size_t operand,
                         const std::vector<std::int64_t>& extents);

}  // namespace quern::test
