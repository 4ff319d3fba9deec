#pragma once
#include <cstddef>
#include <optional>
#include <string_view>

namespace quern {

/// Element types of tensors in files, on the host and on the device.
enum class DType { f32, f16, bf16, f64, i64, i32, i16, i8, u8, boolean, e4m3, e5m2, i4 };

/// "bf16", "i32", ...: the spelling of the DSL, of cache keys and of JSON.
std::string_view name(DType);
std::optional<DType> parse_dtype(std::string_view);

/// True for f16, bf16, f32, f64 and both fp8 types.
bool is_floating_point(DType);
/// Size of one element in bits (i4 is 4).
std::size_t size_bits(DType);
/// Bytes that `count` elements occupy, packed; i4 rounds up.
inline std::size_t bytes_for(DType dtype, std::size_t count) {
  return (size_bits(dtype) * count + 7) / 8;
}

}  // namespace quern
