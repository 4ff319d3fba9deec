#pragma once
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "autotune/row_traits.h"
#include "compiler/dsl.h"
#include "compiler/dsl_fragment.h"

namespace quern {

/// A kernel of templates/epilogue as what is computed of a product's sums: its first operand is
/// acc: f32[rows, cols], or f32[rows, cols, 2] for the sums of gate and up, and it has no
/// reductions. Its other operands are the product's further operands, its outputs take the place of
/// the product's.
class GemmEpilogue {
 public:
  /// Throws InputError with a sentence if the kernel is none of that kind.
  explicit GemmEpilogue(dsl::Kernel kernel);

  const dsl::Kernel& kernel() const { return kernel_; }
  /// Sums that an element of the result is computed from, 1 or 2.
  int parts() const { return parts_; }
  /// Numbers of the operands besides acc, in order.
  const std::vector<int>& operands() const { return operands_; }
  const RowTraits::Operand& traits(int operand) const {
    return traits_.operands[static_cast<std::size_t>(operand)];
  }
  DType dtype(int operand, const dsl::Binding& binding) const;
  /// The one output, if what is left of the expression without it only reads, and nothing of a
  /// result's own size: then a kernel that rounds and stores results by itself is as good, and
  /// better where its threads do not hold neighbours. Nothing if there is no such output, or if it
  /// is neither bf16, f16 nor f32.
  std::optional<int> output_for_kernel(const dsl::Binding& binding) const;

  /// The fragment, with a given output left in registers as f32, or none. `cols` are those of the
  /// result.
  std::string source(const dsl::Binding& binding, std::optional<int> output) const;
  /// Its arguments. `addresses` are those of operands().
  std::vector<std::byte> args(std::optional<int> output,
                              const std::vector<std::uint64_t>& addresses,
                              const std::map<std::string, double>& scalars, std::int64_t rows,
                              std::int64_t cols) const;
  /// Names of its two axes.
  const std::string& rows() const { return kernel_.axes()[0]; }
  const std::string& cols() const { return kernel_.axes()[1]; }

 private:
  dsl::Fragment fragment(std::optional<int> output) const;

  dsl::Kernel kernel_;
  RowTraits traits_;
  int parts_ = 1;
  std::vector<int> operands_;
};

}  // namespace quern
