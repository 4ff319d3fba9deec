#include "tests/support/reference_data.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "model/safetensors.h"
#include "tests/support/support.h"

namespace quern::test {
namespace {

template <class T>
std::vector<T> copy(const Checkpoint& file, const char* name) {
  if (!file.contains(name)) return {};
  const auto values = file.at(name).as<T>();
  return {values.begin(), values.end()};
}

}  // namespace

Expected load_expected(const std::filesystem::path& safetensors) {
  const Checkpoint file(safetensors);
  return {copy<std::int32_t>(file, "input_ids"), copy<float>(file, "logits"),
          copy<std::int32_t>(file, "greedy_ids"), copy<float>(file, "greedy_margins")};
}

LogitError logit_error(std::span<const float> actual, std::span<const float> expected) {
  REQUIRE_EQ(actual.size(), expected.size());
  double squares = 0, reference_squares = 0, largest = 0, reference_largest = 0;
  for (std::size_t i = 0; i < actual.size(); ++i) {
    const double reference = static_cast<double>(expected[i]);
    const double difference = static_cast<double>(actual[i]) - reference;
    squares += difference * difference;
    reference_squares += reference * reference;
    largest = std::max(largest, std::isnan(difference) ? HUGE_VAL : std::abs(difference));
    reference_largest = std::max(reference_largest, std::abs(reference));
  }
  return {std::sqrt(squares / reference_squares), largest / reference_largest};
}

std::string greedy_mismatch(Backend& backend, std::span<const std::int32_t> prompt,
                            std::span<const std::int32_t> greedy_ids,
                            std::span<const float> margins, float margin) {
  backend.reset();
  std::vector<float> logits = backend.forward(prompt, LogitRows::last);
  for (std::size_t step = 0; step < greedy_ids.size(); ++step) {
    const std::int32_t token = sample(logits, {}, 0);
    if (token != greedy_ids[step] && margins[step] > margin)
      return fmt::format("step {} chose {} instead of {}, with a margin of {}", step, token,
                         greedy_ids[step], margins[step]);
    if (step + 1 < greedy_ids.size())
      logits = backend.forward(greedy_ids.subspan(step, 1), LogitRows::last);
  }
  return {};
}

}  // namespace quern::test
