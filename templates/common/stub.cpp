#include "templates/common/stub.h"

namespace quern {

Params without(Params params, const std::vector<std::string>& names) {
  for (const std::string& name : names) params.erase(name);
  return params;
}

std::string device_type(DType dtype) {
  if (dtype == DType::bf16) return "quern::bf16";
  if (dtype == DType::f16) return "quern::f16";
  throw InputError(fmt::format("activations are bf16 or f16, not {}", name(dtype)));
}

void require_operands(std::string_view family, std::span<const std::uint64_t> addresses,
                      std::size_t count) {
  if (addresses.size() != count)
    throw InputError(
        fmt::format("{} takes {} operands, {} were given", family, count, addresses.size()));
}

}  // namespace quern
