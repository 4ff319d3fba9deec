#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "templates/family.h"

namespace quern {

/// Trial contents of an operand: the first elements of it, which then repeat. Random normal values
/// of the operand's standard deviation for floating types (or their magnitudes), its `values` or
/// numbers in its `range` where it has one of them, random bits otherwise (packed weights). Small
/// operands are not repeated; large ones are, with a prime period, so that a kernel which mixes up
/// tiles still reads other numbers. Equal seeds give equal contents. Throws InputError if `values`
/// do not fit the shape.
std::vector<std::byte> trial_contents(const OperandSpec& spec, std::uint64_t seed);

/// Contents as above, repeated to the operand's whole size.
std::vector<std::byte> repeat_to(const std::vector<std::byte>& contents, std::size_t bytes);

/// Element `index` as a number. Exact for every type but 64-bit integers beyond 2^53.
double element(DType dtype, const std::byte* data, std::size_t index);

struct Comparison {
  /// Worst |out - ref| / (abs + rel |ref|); infinite where an output is NaN or a bound of zero is
  /// missed.
  double error = 0;
  /// "y[3, 17] is 0.5 instead of 0.25", of the worst element; empty if error <= 1.
  std::string complaint;
};
/// Compares an output with its reference; integers and booleans must be equal unless the tolerance
/// has a `share`. The data may be a part of the operand's, from element `first` on.
Comparison compare_output(const OperandSpec& spec, const std::vector<std::byte>& out,
                          const std::vector<std::byte>& reference, const Tolerance& tolerance,
                          std::size_t first = 0);

/// Some neighbouring elements.
struct ElementRange {
  std::size_t first = 0, count = 0;
};
/// At most `most` (1 or more) of `count` elements, among them one with the worst error:
/// `worst_error` says the worst of a range. It is asked of halves, of halves of the worse one, and
/// so on: of twice as many elements as there are.
ElementRange around_worst(std::size_t count, std::size_t most,
                          const std::function<double(const ElementRange&)>& worst_error);

/// The same problem with its even dynamic fields one less, so that tails are checked too: all of
/// them if the family supports that, else the first one that may change alone, else nothing.
std::optional<Params> odd_problem(const Family& family, const Params& problem, const Arch& arch);

}  // namespace quern
