#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <set>
#include <vector>

#include "model/sampling.h"
#include "runtime/base/error.h"
#include "tests/support/support.h"

using namespace quern;

namespace {

/// How often each token is chosen, at temperature 1 unless `params` says otherwise.
std::map<std::int32_t, int> draw(const std::vector<float>& logits, SamplingParams params,
                                 int count) {
  std::map<std::int32_t, int> counts;
  for (int position = 0; position < count; ++position)
    ++counts[sample(logits, params, static_cast<std::uint32_t>(position))];
  return counts;
}

std::set<std::int32_t> support(const std::vector<float>& logits, SamplingParams params) {
  std::set<std::int32_t> tokens;
  for (const auto& [token, unused] : draw(logits, params, 4000)) tokens.insert(token);
  return tokens;
}

std::vector<float> logs(std::vector<float> probabilities) {
  for (float& p : probabilities) p = std::log(p);
  return probabilities;
}

}  // namespace

TEST_CASE("Philox4x32-10 gives the known answers of its authors' library") {
  using Words = std::array<std::uint32_t, 4>;
  CHECK(philox4x32({0, 0, 0, 0}, {0, 0}) == Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  const std::uint32_t ones = 0xffffffff;
  CHECK(philox4x32({ones, ones, ones, ones}, {ones, ones}) ==
        Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
  CHECK(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}) ==
        Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}

TEST_CASE("uniform numbers stay strictly between 0 and 1 and average one half") {
  double total = 0;
  for (std::uint32_t token = 0; token < 100000; ++token) {
    const double u = gumbel_uniform(7, 3, token);
    CHECK_GT(u, 0);
    CHECK_LT(u, 1);
    total += u;
  }
  CHECK(total / 100000 == doctest::Approx(0.5).epsilon(0.01));
}

TEST_CASE("temperature 0 takes the largest logit, the first among equals") {
  CHECK_EQ(sample(std::vector<float>{1, 3, 2, 3}, {}, 0), 1);
  CHECK_EQ(sample(std::vector<float>{5}, {}, 9), 0);
  const float nan = std::nanf(""), infinity = std::numeric_limits<float>::infinity();
  CHECK_EQ(sample(std::vector<float>{nan, 1, nan, 2}, {}, 0), 3);
  CHECK_EQ(sample(std::vector<float>{nan, nan}, {}, 0), 0);
  CHECK_EQ(sample(std::vector<float>{-infinity, -5}, {}, 0), 1);
}

TEST_CASE("draws are a function of seed and position") {
  const std::vector<float> logits(50, 0.0f);
  const SamplingParams params{.temperature = 1, .seed = 1};
  CHECK_EQ(sample(logits, params, 5), sample(logits, params, 5));
  CHECK_GT(draw(logits, params, 500).size(), 40);
  int differing = 0;
  for (std::uint32_t position = 0; position < 100; ++position)
    differing += sample(logits, params, position) !=
                 sample(logits, {.temperature = 1, .seed = 1ull << 32}, position);
  CHECK_GT(differing, 80);
}

TEST_CASE("frequencies follow the softmax at any temperature") {
  const std::vector<float> logits{2.0f, 1.0f, 0.0f, -1.0f, 0.5f};
  constexpr int kDraws = 40000;
  for (const float temperature : {0.5f, 1.0f, 2.0f}) {
    double total = 0;
    for (const float logit : logits) total += std::exp(static_cast<double>(logit / temperature));
    auto counts = draw(logits, {.temperature = temperature, .seed = 42}, kDraws);
    double chi_square = 0;
    for (std::size_t i = 0; i < logits.size(); ++i) {
      const double expected =
          kDraws * std::exp(static_cast<double>(logits[i] / temperature)) / total;
      const double difference = counts[static_cast<std::int32_t>(i)] - expected;
      chi_square += difference * difference / expected;
    }
    CHECK_LT(chi_square, 18.5);  // 99.9th percentile at 4 degrees of freedom
  }
}

TEST_CASE("filters keep what they promise") {
  const auto logits = logs({0.4f, 0.3f, 0.15f, 0.1f, 0.05f});
  using Set = std::set<std::int32_t>;
  CHECK(support(logits, {.temperature = 1}) == Set{0, 1, 2, 3, 4});
  CHECK(support(logits, {.temperature = 1, .top_k = 1}) == Set{0});
  CHECK(support(logits, {.temperature = 1, .top_k = 2}) == Set{0, 1});
  CHECK(support(logits, {.temperature = 1, .top_k = 99}) == Set{0, 1, 2, 3, 4});
  CHECK(support(logits, {.temperature = 1, .top_p = 0.3f}) == Set{0});
  CHECK(support(logits, {.temperature = 1, .top_p = 0.6f}) == Set{0, 1});
  CHECK(support(logits, {.temperature = 1, .top_p = 0.8f}) == Set{0, 1, 2});
  CHECK(support(logits, {.temperature = 1, .min_p = 0.3f}) == Set{0, 1, 2});
  CHECK(support(logits, {.temperature = 1, .min_p = 1.0f}) == Set{0});
  // top_p counts the mass that top_k has left: 0.4 of 0.7 reaches 0.55, of 1 it would not.
  CHECK(support(logits, {.temperature = 1, .top_k = 2, .top_p = 0.55f}) == Set{0});
  // A hot temperature flattens the distribution before top_p sees it.
  CHECK(support(logits, {.temperature = 100, .top_p = 0.8f}).size() >= 4);
}

TEST_CASE("ties at the edge of a filter are kept") {
  const auto logits = logs({0.25f, 0.25f, 0.25f, 0.25f});
  CHECK_EQ(support(logits, {.temperature = 1, .top_k = 1}).size(), 4);
  CHECK_EQ(support(logits, {.temperature = 1, .top_p = 0.1f}).size(), 4);
}

TEST_CASE("options without meaning are refused") {
  const float nan = std::nanf(""), infinity = std::numeric_limits<float>::infinity();
  CHECK_NOTHROW(check_sampling({}));
  CHECK_NOTHROW(check_sampling({.temperature = 0.7f, .top_k = 40, .top_p = 0.9f, .min_p = 0.05f}));
  for (const SamplingParams& params :
       {SamplingParams{.temperature = -1}, SamplingParams{.temperature = nan},
        SamplingParams{.temperature = infinity}, SamplingParams{.top_k = -1},
        SamplingParams{.top_p = 0}, SamplingParams{.top_p = 1.5f}, SamplingParams{.top_p = nan},
        SamplingParams{.min_p = -0.1f}, SamplingParams{.min_p = 2}, SamplingParams{.min_p = nan}})
    CHECK_THROWS_AS(check_sampling(params), InputError);
}

TEST_CASE("logits that are not finite do no harm") {
  const float nan = std::nanf(""), infinity = std::numeric_limits<float>::infinity();
  const SamplingParams params{.temperature = 1, .top_k = 2, .top_p = 0.9f, .min_p = 0.1f};
  CHECK_EQ(sample(std::vector<float>{nan, 1.0f, nan}, params, 0), 1);
  CHECK_EQ(sample(std::vector<float>{nan, nan}, params, 0), 0);
  CHECK_EQ(sample(std::vector<float>{-infinity, 0.0f, -infinity}, params, 0), 1);
  CHECK_EQ(sample(std::vector<float>{0.0f, infinity, 0.0f}, params, 0), 1);
}
