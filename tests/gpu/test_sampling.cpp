#include <cmath>

#include "runtime/driver.h"
#include "tests/reference/sampling.h"
#include "tests/support/family_check.h"

using namespace quern;
using namespace quern::test;

namespace {

FamilyCheck at_most(std::size_t candidates) {
  FamilyCheck check;
  check.max_candidates = candidates;
  return check;
}

const std::vector<SamplingRequest> kinds = {
    {0.0f, 0, 1.0f, 0.0f, 1, 2, {}},     {0.8f, 40, 0.95f, 0.0f, 3, 4, {}},
    {1.0f, 0, 1.0f, 0.0f, 5, 6, {}},     {0.7f, 0, 0.9f, 0.0f, 7, 8, {}},
    {1.2f, 0, 1.0f, 0.05f, 9, 10, {}},   {0.9f, 20, 1.0f, 0.02f, 11, 12, {}},
    {1.0f, 5000, 0.5f, 0.0f, 13, 14, {}}};

std::vector<float> gaussian(std::size_t count, float stddev, std::uint32_t seed) {
  auto values = random_values(2 * count, seed);
  for (std::size_t i = 0; i < count; ++i)
    values[i] = stddev * std::sqrt(-2 * std::log((values[2 * i] + 1.0001f) / 2.0002f)) *
                std::cos(3.14159265f * values[2 * i + 1]);
  values.resize(count);
  return values;
}

void check(GpuFixture& gpu, std::vector<float> logits) {
  const SamplingTrial family(std::move(logits), kinds);
  check_family(gpu, family, family.problem(16), sampling_oracle, at_most(6));
}

}  // namespace

TEST_CASE("greedy and filtered requests of one batch get the oracle's tokens") {
  QUERN_SKIP_IF(!gpu_available(), driver_problem());
  GpuFixture gpu;
  for (const std::size_t vocab_size : {1, 2, 7, 1000, 5003, 8192})
    for (const float stddev : {4.0f, 1.0f, 0.02f})
      check(gpu, gaussian(kinds.size() * vocab_size, stddev, 7));
}

TEST_CASE("ties, NaN and infinities are chosen as the text says") {
  QUERN_SKIP_IF(!gpu_available(), driver_problem());
  GpuFixture gpu;
  const std::size_t vocab_size = 3000, count = kinds.size() * vocab_size;
  auto ties = gaussian(count, 2.0f, 3), nans = gaussian(count, 4.0f, 4), infinities = nans;
  for (float& x : ties) x = std::round(x * 4) / 4;
  for (std::size_t i = 0; i < count; i += 3) nans[i] = std::nanf("");
  for (std::size_t i = 5; i < count; i += 7) infinities[i] = -HUGE_VALF;
  check(gpu, ties);
  check(gpu, nans);
  check(gpu, infinities);
  infinities[vocab_size / 2] = infinities[4 * vocab_size - 1] = HUGE_VALF;
  check(gpu, infinities);
  check(gpu, std::vector<float>(count, std::nanf("")));
  check(gpu, std::vector<float>(count, -HUGE_VALF));
  check(gpu, std::vector<float>(count, 0.0f));
}

TEST_CASE("a vocabulary of 128256 is sampled as its sorted reference says") {
  QUERN_SKIP_IF(!gpu_available(), driver_problem());
  GpuFixture gpu;
  for (const float stddev : {3.0f, 0.5f}) {
    const SamplingTrial family(gaussian(kinds.size() * 128256, stddev, 11), kinds);
    check_family(gpu, family, family.problem(16), {}, at_most(6));
  }
}
