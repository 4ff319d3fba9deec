#pragma once
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "compiler/dsl.h"

/// Fragments: kernels without reductions as device functions that other CUDA code calls on values
/// which it has in registers: the epilogue or prologue of a GEMM, a modifier of attention scores.
/// "Fragments" in compiler/README.md is the page.
namespace quern::dsl {

struct Fragment {
  std::string input;              // operand whose elements are given in registers; f32
  std::string name = "Epilogue";  // of the struct and, in lower case, of the function
  std::string output = "";        // operand whose elements are left in registers, f32; "": none
  /// The caller promises that all N elements exist, that `col` is a multiple of N, and that N
  /// divides the last axis: no tails, and accesses are as wide as N elements are.
  bool whole = false;
};

/// Why this kernel cannot become such a fragment, as a sentence; or nothing.
std::optional<std::string> fragment_reason(const Kernel& kernel, const Binding& binding,
                                           const Fragment& fragment);

/// CUDA source that declares
///   struct EpilogueArgs { pointers of the side operands; scalars; extents };
///   template <int N> __device__ void epilogue(const EpilogueArgs&, long long row, long long col,
///                                             const float (&acc)[N] [, float (&y)[N]]);
/// for the N elements from `col` on along the last axis of one row; rows count along all the other
/// axes. Registers hold N * F values where fixed axes of F places follow the last one. Elements
/// past the end of the axis are neither read nor written (`whole`: there are none). Everything else
/// that the source declares is in a namespace of its own. Throws InputError with fragment_reason.
std::string emit_fragment(const Kernel& kernel, const Binding& binding, const Fragment& fragment);

/// Numbers of the operands that are passed as pointers, in order.
std::vector<int> fragment_operands(const Kernel& kernel, const Fragment& fragment);

/// The bytes of EpilogueArgs; addresses in order of fragment_operands.
std::vector<std::byte> fragment_args(const Kernel& kernel, const Fragment& fragment,
                                     std::span<const std::uint64_t> addresses,
                                     const std::map<std::string, double>& scalars,
                                     const std::map<std::string, std::int64_t>& extents);

}  // namespace quern::dsl
