#include "tests/support/dsl_tensor.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "runtime/base/fp8.h"
#include "runtime/base/half.h"

namespace quern::test {
namespace {

double to_integer(float value, double low, double high) {
  return std::isnan(value) ? 0 : std::clamp(std::nearbyint(static_cast<double>(value)), low, high);
}

}  // namespace

Tensor::Tensor(DType type, std::size_t elements)
    : dtype(type), count(elements), bytes(bytes_for(type, elements)) {}

double Tensor::get(std::size_t i) const {
  switch (dtype) {
    case DType::f16:
      return f16_to_f32(raw<std::uint16_t>(i));
    case DType::bf16:
      return bf16_to_f32(raw<std::uint16_t>(i));
    case DType::e4m3:
      return e4m3_to_f32(raw<std::uint8_t>(i));
    case DType::e5m2:
      return e5m2_to_f32(raw<std::uint8_t>(i));
    case DType::i32:
      return raw<std::int32_t>(i);
    case DType::i8:
      return raw<std::int8_t>(i);
    case DType::u8:
      return raw<std::uint8_t>(i);
    case DType::i4: {
      const int half = (raw<std::uint8_t>(i / 2) >> (i % 2 * 4)) & 15;
      return half < 8 ? half : half - 16;
    }
    default:
      return raw<float>(i);
  }
}

void Tensor::set(std::size_t i, double value) {
  switch (dtype) {
    case DType::f16:
      return set_raw(i, f32_to_f16(static_cast<float>(value)));
    case DType::bf16:
      return set_raw(i, f32_to_bf16(static_cast<float>(value)));
    case DType::e4m3:
      return set_raw(i, f32_to_e4m3(static_cast<float>(value)));
    case DType::e5m2:
      return set_raw(i, f32_to_e5m2(static_cast<float>(value)));
    case DType::i32:
      return set_raw(
          i, static_cast<std::int32_t>(std::clamp(std::nearbyint(std::isnan(value) ? 0 : value),
                                                  -2147483648.0, 2147483647.0)));
    case DType::i8:
      return set_raw(i, static_cast<std::int8_t>(rounded_to(dtype, static_cast<float>(value))));
    case DType::u8:
      return set_raw(i, static_cast<std::uint8_t>(rounded_to(dtype, static_cast<float>(value))));
    case DType::i4: {
      const int wanted = static_cast<int>(rounded_to(dtype, static_cast<float>(value))) & 15;
      const int byte = raw<std::uint8_t>(i / 2), shift = static_cast<int>(i % 2 * 4);
      return set_raw(i / 2, static_cast<std::uint8_t>((byte & ~(15 << shift)) | (wanted << shift)));
    }
    default:
      return set_raw(i, static_cast<float>(value));
  }
}

double rounded_to(DType dtype, float value) {
  switch (dtype) {
    case DType::f16:
      return f16_to_f32(f32_to_f16(value));
    case DType::bf16:
      return bf16_to_f32(f32_to_bf16(value));
    case DType::e4m3:
      return e4m3_to_f32(f32_to_e4m3(value));
    case DType::e5m2:
      return e5m2_to_f32(f32_to_e5m2(value));
    case DType::i32:
      return to_integer(value, -2147483648.0, 2147483647.0);
    case DType::i8:
      return to_integer(value, -128, 127);
    case DType::u8:
      return to_integer(value, 0, 255);
    case DType::i4:
      return to_integer(value, -8, 7);
    default:
      return value;
  }
}

}  // namespace quern::test
