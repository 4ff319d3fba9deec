#include <cmath>
#include <numbers>

#include "model/rope.h"
#include "tests/support/support.h"

using namespace quern;

TEST_CASE("frequencies fall geometrically from 1") {
  ModelConfig config;
  config.head_dim = 8;
  config.rope_theta = 10000;
  const auto frequencies = rope_frequencies(config);
  REQUIRE_EQ(frequencies.size(), 4);
  CHECK_EQ(frequencies[0], 1.0f);
  CHECK_EQ(frequencies[1], doctest::Approx(0.1));
  CHECK_EQ(frequencies[3], doctest::Approx(0.001));
}

TEST_CASE("Llama 3.1 scaling keeps short waves, stretches long ones and blends between") {
  ModelConfig config;
  config.head_dim = 128;
  config.rope_theta = 500000;
  const auto plain = rope_frequencies(config);
  config.rope_scaling = RopeScaling{8, 1, 4, 8192};
  const auto scaled = rope_frequencies(config);
  bool blended = false;
  for (std::size_t i = 0; i < plain.size(); ++i) {
    const double wavelength = 2 * std::numbers::pi / static_cast<double>(plain[i]);
    const double ratio = static_cast<double>(scaled[i]) / static_cast<double>(plain[i]);
    if (wavelength < 8192.0 / 4) {
      CHECK_EQ(ratio, 1.0);
    } else if (wavelength > 8192) {
      CHECK(ratio == doctest::Approx(1.0 / 8));
    } else {
      const double kept = (8192 / wavelength - 1) / 3;
      CHECK(ratio == doctest::Approx((1 - kept) / 8 + kept));
      blended = true;
    }
  }
  CHECK(blended);
}
