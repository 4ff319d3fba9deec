#include "templates/common/stub.h"

namespace quern {

Params without(Params params, const std::vector<std::string>& names) {
  for (const std::string& name : names) params.erase(name);
  return params;
}

std::string device_type(DType dtype) {
  if (dtype == DType::bf16) return "quern::bf16";
  if (dtype == DType::f16) return "quern::f16";
  if (dtype == DType::f32) return "float";
  throw InputError(fmt::format("tensors of a kernel are bf16, f16 or f32, not {}", name(dtype)));
}

void require_operands(std::string_view family, std::span<const std::uint64_t> addresses,
                      std::size_t count) {
  if (addresses.size() != count)
    throw InputError(
        fmt::format("{} takes {} operands, {} were given", family, count, addresses.size()));
}

}  // namespace quern
