#include "autotune/epilogue_problem.h"

#include <fmt/format.h>

#include <algorithm>

#include "compiler/dsl_tree.h"
#include "runtime/base/error.h"
#include "templates/params.h"
#include "templates/row/row.h"

namespace quern {
namespace {

const dsl::OperandInfo& operand(const GemmEpilogue& epilogue, int index) {
  return epilogue.kernel().operands()[static_cast<std::size_t>(index)];
}

}  // namespace

GemmEpilogues epilogues_among(const std::map<std::string, std::string, std::less<>>& files,
                              const std::set<std::string>& fields) {
  GemmEpilogues out;
  const dsl::Includes includes = dsl::includes_from(files, "row");
  for (const auto& [path, text] : files) {
    if (!path.starts_with("epilogue/") || !path.ends_with(".qk")) continue;
    for (dsl::Kernel& kernel : dsl::parse(text, path, includes)) {
      const std::string name = kernel.name();
      for (const auto& field : kernel.dtype_params())
        if (fields.contains(field))
          throw InputError(
              fmt::format("kernel {} cannot have a dtype of the name '{}'", name, field));
      for (const dsl::ScalarInfo& scalar : kernel.scalars())
        if (fields.contains(scalar.name))
          throw InputError(
              fmt::format("kernel {} cannot have a scalar of the name '{}'", name, scalar.name));
      if (!out.emplace(name, GemmEpilogue(std::move(kernel))).second)
        throw InputError(fmt::format("{} defines kernel {}, which another file has", path, name));
    }
  }
  return out;
}

EpilogueProblem epilogue_problem(const Params& problem, const GemmEpilogues& epilogues,
                                 std::int64_t m, std::int64_t n) {
  EpilogueProblem out;
  std::string name;
  detail::take(problem, "epilogue", name);
  const auto found = epilogues.find(name);
  if (found == epilogues.end()) throw InputError(fmt::format("there is no epilogue '{}'", name));
  out.epilogue = &found->second;
  out.m = m;
  out.n = n;
  const dsl::Kernel& kernel = out.epilogue->kernel();
  for (const std::string& param : kernel.dtype_params()) {
    DType& dtype = out.binding.dtypes[param];
    detail::take(problem, param.c_str(), dtype);
    if (!dsl::is_operand_dtype(dtype) || dtype == DType::i4)
      throw InputError(
          fmt::format("epilogue {} cannot have {} = {}", name, param, quern::name(dtype)));
  }
  for (const dsl::ScalarInfo& scalar : kernel.scalars())
    detail::take(problem, scalar.name.c_str(), out.scalars[scalar.name]);
  if (n >= out.epilogue->parts()) out.binding.extents[out.epilogue->cols()] = out.cols();
  return out;
}

bool EpilogueProblem::has_wide_result() const {
  return std::ranges::any_of(epilogue->operands(), [&](int i) {
    return operand(*epilogue, i).role != dsl::OperandInfo::Role::in &&
           size_bits(epilogue->dtype(i, binding)) == 32;
  });
}

std::vector<OperandSpec> EpilogueProblem::operands() const {
  std::vector<OperandSpec> out;
  for (const int i : epilogue->operands()) {
    const dsl::OperandInfo& info = operand(*epilogue, i);
    OperandSpec spec;
    spec.name = info.name;
    spec.dtype = epilogue->dtype(i, binding);
    for (const std::string& axis : info.axes)
      spec.shape.push_back(axis == epilogue->rows()   ? m
                           : axis == epilogue->cols() ? cols()
                                                      : std::stoll(axis));
    spec.role = static_cast<OperandSpec::Role>(info.role);
    spec.positive = epilogue->traits(i).positive;
    // A factor of the whole tensor takes results over the range of the codes they are rounded to.
    if (spec.shape.empty()) spec.stddev = 32;
    if (spec.dtype == DType::i32) spec.range = {-100, 100};
    out.push_back(std::move(spec));
  }
  return out;
}

std::vector<std::byte> EpilogueProblem::args(std::optional<int> output,
                                             std::vector<std::uint64_t> addresses) const {
  addresses.resize(epilogue->operands().size());
  return epilogue->args(output, addresses, scalars, m, cols());
}

Tolerance EpilogueProblem::tolerance(std::size_t index, const Tolerance& sums) const {
  RowOutput output;
  output.dtype = epilogue->dtype(epilogue->operands().at(index), binding);
  output.exact = false;
  Tolerance out = row_tolerance(output);
  // What sums of all orders of addition differ by, and what an expression makes of that: results
  // change up to 1.13 times as much as the one sum they depend on, and as many times as the other
  // part is large where there are two, 6 standard deviations.
  double factor = epilogue->parts() == 2 ? 8 : 1.2;
  // Several standard deviations of the factor of the whole tensor (operands()).
  for (const OperandSpec& spec : operands())
    if (spec.shape.empty()) factor *= 4 * spec.stddev;
  if (out.share > 0)
    out.share = std::min(1.0 / 64, out.share + factor * sums.abs);
  else
    out.abs += factor * sums.abs;
  return out;
}

Cost EpilogueProblem::cost(const std::vector<OperandSpec>& all, std::int64_t k) const {
  const auto rows = static_cast<double>(m);
  Cost out{0, 2 * rows * static_cast<double>(n) * static_cast<double>(k) +
                  rows * static_cast<double>(cols()) * epilogue->kernel().operations_per_element()};
  for (const OperandSpec& spec : all)
    out.bytes +=
        static_cast<double>(spec.size_bytes()) * (spec.role == OperandSpec::Role::inout ? 2 : 1);
  return out;
}

PrologueProblem prologue_problem(const Params& problem, DType dtype) {
  PrologueProblem out;
  out.stream = dtype;
  detail::take(problem, "prologue", out.prologue);
  if (out.prologue.empty()) return out;
  if (out.prologue != "rmsnorm")
    throw InputError(fmt::format("there is no prologue '{}'", out.prologue));
  double& eps = out.norm_eps.emplace();
  detail::take(problem, "eps", eps);
  if (!(eps >= 0 && eps <= 1)) throw InputError("'eps' should be between 0 and 1");
  detail::take(problem, "stream", out.stream);
  if (out.stream != dtype && out.stream != DType::f32)
    throw InputError(fmt::format("'stream' should be {} or f32", quern::name(dtype)));
  return out;
}

void refuse_other_fields(const Params& problem, const std::set<std::string>& fields,
                         const EpilogueProblem& epilogue, const PrologueProblem& prologue) {
  for (const auto& [key, value] : problem.items()) {
    const bool of_prologue = key == "eps" || key == "stream";
    const bool known = fields.contains(key) && !(of_prologue && !prologue.norm_eps);
    if (!known && !epilogue.has_field(key))
      throw InputError(
          fmt::format("a product with epilogue '{}' and prologue '{}' has no field '{}'",
                      epilogue.epilogue->kernel().name(), prologue.prologue, key));
  }
}

void add_reference_to_empty(RankedSpace& space, const Family& family, const Params& problem,
                            const Arch& arch) {
  if (!space.configs.empty()) return;
  space.configs.push_back(family.reference_config(problem));
  space.estimates_us.push_back(family.estimate_us(problem, space.configs.front(), arch));
  ++space.num_points;
}

}  // namespace quern
