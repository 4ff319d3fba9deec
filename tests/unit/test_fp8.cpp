#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "runtime/base/fp8.h"
#include "tests/support/support.h"

using namespace quern;

namespace {

struct Format {
  float (*widen)(std::uint8_t);
  std::uint8_t (*narrow)(float);
  float largest;
};
constexpr Format kFormats[] = {{e4m3_to_f32, f32_to_e4m3, 448}, {e5m2_to_f32, f32_to_e5m2, 57344}};

}  // namespace

TEST_CASE("8-bit floats: values that the specification lists") {
  CHECK_EQ(e4m3_to_f32(0x01), 0x1p-9f);
  CHECK_EQ(e4m3_to_f32(0x07), 0x0.7p-5f);
  CHECK_EQ(e4m3_to_f32(0x08), 0x1p-6f);
  CHECK_EQ(e4m3_to_f32(0x38), 1.0f);
  CHECK_EQ(e4m3_to_f32(0x7e), 448.0f);
  CHECK(std::isnan(e4m3_to_f32(0x7f)));
  CHECK(std::isnan(e4m3_to_f32(0xff)));
  CHECK_EQ(e5m2_to_f32(0x01), 0x1p-16f);
  CHECK_EQ(e5m2_to_f32(0x03), 0x3p-16f);
  CHECK_EQ(e5m2_to_f32(0x04), 0x1p-14f);
  CHECK_EQ(e5m2_to_f32(0x7b), 57344.0f);
  CHECK_EQ(e5m2_to_f32(0xfc), -std::numeric_limits<float>::infinity());
  CHECK(std::isnan(e5m2_to_f32(0x7d)));
}

TEST_CASE("8-bit floats survive the way to f32 and back, and saturate") {
  for (const Format& format : kFormats) {
    for (int bits = 0; bits < 256; ++bits) {
      const float value = format.widen(static_cast<std::uint8_t>(bits));
      CAPTURE(value);
      if (std::isnan(value))
        CHECK(std::isnan(format.widen(format.narrow(value))));
      else if (std::isinf(value))
        CHECK_EQ(format.widen(format.narrow(value)), std::copysign(format.largest, value));
      else
        CHECK_EQ(format.narrow(value), bits);
    }
    for (const float huge : {format.largest * 1.0001f, 1e30f, HUGE_VALF}) {
      CHECK_EQ(format.widen(format.narrow(huge)), format.largest);
      CHECK_EQ(format.widen(format.narrow(-huge)), -format.largest);
    }
  }
}

TEST_CASE("8-bit floats round to the nearest, at a tie to the even one") {
  for (const Format& format : kFormats) {
    const std::uint8_t top = format.narrow(format.largest);
    for (std::uint8_t bits = 0; bits < top; ++bits) {
      const float below = format.widen(bits),
                  above = format.widen(static_cast<std::uint8_t>(bits + 1));
      const float middle = (below + above) / 2;  // exact: it has one bit more
      const auto even = static_cast<std::uint8_t>(bits % 2 == 0 ? bits : bits + 1);
      CHECK_EQ(format.narrow(middle), even);
      CHECK_EQ(format.narrow(-middle), even | 0x80);
      CHECK_EQ(format.narrow(std::nextafterf(middle, 0)), bits);
      CHECK_EQ(format.narrow(std::nextafterf(middle, HUGE_VALF)), bits + 1);
    }
  }
}
