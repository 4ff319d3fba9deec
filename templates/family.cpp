#include "templates/family.h"

#include <functional>
#include <numeric>

namespace quern {

std::size_t OperandSpec::num_elements() const {
  return static_cast<std::size_t>(
      std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>()));
}

std::vector<std::string> Family::dynamic_fields_of(const Params&) const { return dynamic_fields(); }

Params Family::check_problem(const Params& problem) const { return problem; }

void Family::cpu_reference(const Params&, std::span<HostTensor>) const {
  throw InputError(fmt::format("{} has its reference on the device", name()));
}

bool Family::is_library(const Params&) const { return false; }

LibraryMatmul Family::library_matmul(const Params& problem, const Params& config) const {
  LibraryMatmul matmul;
  detail::take(problem, "m", matmul.m);
  detail::take(problem, "n", matmul.n);
  detail::take(problem, "k", matmul.k);
  detail::take(problem, "dtype", matmul.input);
  detail::take(problem, "out_dtype", matmul.output);
  detail::take(config, "algorithm", matmul.rank);
  return matmul;
}

}  // namespace quern
