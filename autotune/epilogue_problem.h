#pragma once
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "autotune/gemm_epilogue.h"
#include "templates/family.h"

namespace quern {

using GemmEpilogues = std::map<std::string, GemmEpilogue, std::less<>>;

/// The epilogue/*.qk among `files` (templates/embedded.h), by the names of their kernels. Throws
/// CompileError or InputError for one that is no epilogue, or that has a parameter of a name that a
/// field of the problem has, `fields`.
GemmEpilogues epilogues_among(const std::map<std::string, std::string, std::less<>>& files,
                              const std::set<std::string>& fields);

/// What a problem says of its epilogue: the field "epilogue", and one for each dtype parameter and
/// scalar of that. The epilogue's operands besides acc are the last of the product's.
struct EpilogueProblem {
  const GemmEpilogue* epilogue = nullptr;
  std::int64_t m = 1, n = 1;  // of the product
  dsl::Binding binding;       // dtypes, and the columns of the result
  std::map<std::string, double> scalars;

  std::int64_t cols() const { return n / epilogue->parts(); }
  bool has_field(const std::string& name) const {
    return name == "epilogue" || binding.dtypes.contains(name) || scalars.contains(name);
  }
  /// Whether a result has 32 bits.
  bool has_wide_result() const;
  std::vector<OperandSpec> operands() const;
  /// Of `addresses`, those of operands(); `output` is left in registers.
  std::vector<std::byte> args(std::optional<int> output,
                              std::vector<std::uint64_t> addresses) const;
  /// For the operand `index` of operands(), where sums are what `sums` admits.
  Tolerance tolerance(std::size_t index, const Tolerance& sums) const;
  /// Least traffic and arithmetic of the product with it, all its operands being `all`.
  Cost cost(const std::vector<OperandSpec>& all, std::int64_t k) const;
};

/// What it says of its prologue: "" or "rmsnorm", which takes the fields "eps" and "stream".
struct PrologueProblem {
  std::string prologue;
  std::optional<double> norm_eps;
  DType stream = DType::bf16;  // of x
};

/// Of a product of `dtype`. Throws InputError for an unknown prologue, or for fields that are
/// missing or malformed.
PrologueProblem prologue_problem(const Params& problem, DType dtype);
/// Throws InputError for a field that is neither one of `fields`, those of the product and of any
/// prologue, nor the epilogue's.
void refuse_other_fields(const Params& problem, const std::set<std::string>& fields,
                         const EpilogueProblem& epilogue, const PrologueProblem& prologue);
/// Where no kernel of a space is left, the family's reference serves.
void add_reference_to_empty(RankedSpace& space, const Family& family, const Params& problem,
                            const Arch& arch);

/// Throws InputError for an unknown epilogue, or for fields that are missing or malformed.
EpilogueProblem epilogue_problem(const Params& problem, const GemmEpilogues& epilogues,
                                 std::int64_t m, std::int64_t n);

}  // namespace quern
