#include "runtime/base/dtype.h"

#include <array>
#include <utility>

namespace quern {
namespace {

struct Row {
  DType dtype;
  std::string_view name;
  std::size_t bits;
};
constexpr std::array<Row, 13> kRows{{
    {DType::f32, "f32", 32},   {DType::f16, "f16", 16},  {DType::bf16, "bf16", 16},
    {DType::f64, "f64", 64},   {DType::i64, "i64", 64},  {DType::i32, "i32", 32},
    {DType::i16, "i16", 16},   {DType::i8, "i8", 8},     {DType::u8, "u8", 8},
    {DType::boolean, "bool", 8}, {DType::e4m3, "e4m3", 8}, {DType::e5m2, "e5m2", 8},
    {DType::i4, "i4", 4},
}};

}  // namespace

std::string_view name(DType dtype) { return kRows[static_cast<std::size_t>(dtype)].name; }

std::optional<DType> parse_dtype(std::string_view text) {
  for (const Row& row : kRows)
    if (row.name == text) return row.dtype;
  return std::nullopt;
}

bool is_floating_point(DType dtype) {
  switch (dtype) {
    case DType::f32:
    case DType::f16:
    case DType::bf16:
    case DType::f64:
    case DType::e4m3:
    case DType::e5m2:
      return true;
    default:
      return false;
  }
}

std::size_t size_bits(DType dtype) { return kRows[static_cast<std::size_t>(dtype)].bits; }

}  // namespace quern
