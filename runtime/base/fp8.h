#pragma once
#include <bit>
#include <cmath>
#include <cstdint>

namespace quern {

/// Host-side 8-bit float conversions of the OCP 8-bit floating point specification: e4m3 (its E4M3,
/// without infinities, NaN in 0x7f and 0xff) and e5m2. To 8 bits rounds to nearest even and
/// saturates: infinities too become the largest finite value, 448 and 57344. NaN stays NaN.

inline float e4m3_to_f32(std::uint8_t bits) {
  const int exponent = (bits >> 3) & 15, mantissa = bits & 7;
  float value = exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -9)
                              : std::ldexp(static_cast<float>(8 + mantissa), exponent - 10);
  if ((bits & 0x7f) == 0x7f) value = std::nanf("");
  return (bits & 0x80) ? -value : value;
}

inline float e5m2_to_f32(std::uint8_t bits) {
  const int exponent = (bits >> 2) & 31, mantissa = bits & 3;
  float value = exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -16)
                              : std::ldexp(static_cast<float>(4 + mantissa), exponent - 17);
  if (exponent == 31) value = mantissa == 0 ? HUGE_VALF : std::nanf("");
  return (bits & 0x80) ? -value : value;
}

/// `mantissa_bits`, and the exponent of the least normal number.
inline std::uint8_t f32_to_fp8(float value, int mantissa_bits, int least_exponent, float largest,
                               std::uint8_t largest_bits) {
  const auto sign = static_cast<std::uint8_t>(std::signbit(value) ? 0x80 : 0);
  if (std::isnan(value)) return sign | 0x7f;
  const float magnitude = std::fabs(value);
  if (magnitude >= largest) return sign | largest_bits;
  int exponent = 0;
  std::frexp(magnitude, &exponent);  // magnitude = m 2^exponent, 1/2 <= m < 1
  exponent = magnitude == 0 || exponent - 1 < least_exponent ? least_exponent : exponent - 1;
  // In units of the last place, which carry into the exponent by themselves.
  const auto units =
      static_cast<int>(std::nearbyint(std::ldexp(magnitude, mantissa_bits - exponent)));
  const int below = (exponent - least_exponent) << mantissa_bits;
  return static_cast<std::uint8_t>(sign | (below + units));
}

inline std::uint8_t f32_to_e4m3(float value) { return f32_to_fp8(value, 3, -6, 448, 0x7e); }
inline std::uint8_t f32_to_e5m2(float value) { return f32_to_fp8(value, 2, -14, 57344, 0x7b); }

}  // namespace quern
