#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/base/dtype.h"
#include "templates/params.h"

namespace quern {

/// `params` without the pairs named: what is left for a stub once run-time values are taken out.
Params without(Params params, const std::vector<std::string>& names);

/// Device type of a tensor: "quern::bf16", "quern::f16" or "float". Throws InputError for others.
std::string device_type(DType dtype);

/// The address as the pointer that a kernel's parameter struct holds.
template <class T = void>
T* device_pointer(std::uint64_t address) {
  return reinterpret_cast<T*>(static_cast<std::uintptr_t>(address));
}

/// Throws InputError unless `count` addresses were given.
void require_operands(std::string_view family, std::span<const std::uint64_t> addresses,
                      std::size_t count);

}  // namespace quern
