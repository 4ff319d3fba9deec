#include "templates/family.h"

#include <functional>
#include <numeric>

namespace quern {

std::size_t OperandSpec::num_elements() const {
  return static_cast<std::size_t>(
      std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>()));
}

void Family::cpu_reference(const Params&, std::span<HostTensor>) const {
  throw InputError(fmt::format("{} has its reference on the device", name()));
}

bool Family::is_library(const Params&) const { return false; }

LibraryMatmul Family::library_matmul(const Params&, const Params&) const {
  throw InputError(fmt::format("{} has no library routine", name()));
}

}  // namespace quern
