#include "autotune/roof.h"

#include <algorithm>
#include <string>

namespace quern {
namespace {

double inputs_per_16_bits(const Params& problem) {
  const auto field = problem.find("dtype");
  if (field == problem.end() || !field->is_string()) return 1;
  const auto dtype = parse_dtype(field->get<std::string>());
  return dtype && size_bits(*dtype) == 8 ? 2 : 1;
}

}  // namespace

double Roofs::least_us(const Family& family, const Params& problem) const {
  const Cost cost = family.cost(problem);
  const double moving = bytes_per_s > 0 ? cost.bytes / bytes_per_s : 0;
  const double computing =
      flops_per_s > 0 ? cost.flops / (flops_per_s * inputs_per_16_bits(problem)) : 0;
  return 1e6 * std::max(moving, computing);
}

}  // namespace quern
