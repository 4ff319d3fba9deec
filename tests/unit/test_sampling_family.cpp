#include <cmath>
#include <cstring>

#include "tests/reference/sampling.h"
#include "tests/support/family_rules.h"
#include "tests/support/gpu.h"

using namespace quern;
using namespace quern::test;

namespace {

Params problem(int batch, int vocab_size) {
  return to_params(SamplingProblem{batch, vocab_size, 16});
}

std::vector<SamplingRequest> assorted() {
  std::vector<SamplingRequest> out;
  unsigned seed = 1;
  for (const float temperature : {0.0f, 0.5f, 1.0f, 3.0f})
    for (const int top_k : {0, 1, 5, 1000})
      for (const float top_p : {1.0f, 0.9f, 0.3f, 0.0f})
        for (const float min_p : {0.0f, 0.1f, 1.0f}) {
          out.push_back({temperature, top_k, top_p, min_p, seed, 7 * seed, {}});
          ++seed;
        }
  return out;
}

}  // namespace

TEST_CASE("sampling obeys the rules of families and compiles everywhere") {
  const SamplingFamily family;
  for (const int vocab_size : {1, 7, 512, 128256, 151937})
    check_family_rules(family, problem(3, vocab_size));
  check_family_compiles(family, problem(1, 128256), 2);
  check_family_compiles(family, problem(1, 4097), 0);
  check_family_refuses_nonsense(family, problem(2, 512));
}

TEST_CASE("Philox4x32-10 gives the published known answers") {
  // Random123, kat_vectors: philox4x32 10, counter and key all zero.
  CHECK_EQ(philox_oracle(0, 0, 0, 0), 0x6627e8d5u);
}

TEST_CASE("sampling's sorted reference keeps what the definition keeps") {
  const auto params = assorted();
  for (const std::size_t vocab_size : {1, 2, 9, 64}) {
    auto logits = random_values(params.size() * vocab_size, 3);
    for (std::size_t i = 0; i < logits.size(); ++i)
      logits[i] = i % 11 == 3 ? std::nanf("") : std::round(logits[i] * 40) / 8;
    const SamplingTrial family(logits, params);
    const Params p = family.problem(16);
    std::vector<HostTensor> actual;
    for (const OperandSpec& spec : family.operands(p)) {
      actual.push_back({spec, std::vector<std::byte>(spec.size_bytes())});
      if (!spec.values.empty())
        std::memcpy(actual.back().data.data(), spec.values.data(), spec.size_bytes());
    }
    auto expected = actual;
    family.cpu_reference(p, actual);
    sampling_oracle(p, expected);
    for (std::size_t i = 2; i < actual.size(); ++i) CHECK(actual[i].data == expected[i].data);
  }
}

TEST_CASE("draws follow the softmax of what is kept") {
  const std::vector<float> logits = {1.0f, 0.0f, 2.0f, -3.0f, 1.5f};
  SamplingRequest params{0.8f, 4, 1.0f, 0.0f, 11, 12, {}};
  const auto kept = kept_tokens(logits, params);
  CHECK(kept == std::vector<bool>{true, true, true, false, true});
  double total = 0;
  for (std::size_t i = 0; i < 5; ++i) total += kept[i] ? std::exp(logits[i] / 0.8) : 0;
  constexpr int draws = 40000;
  int count[5] = {};
  for (int position = 0; position < draws; ++position)
    ++count[sampled_token(logits, params, position)];
  for (std::size_t i = 0; i < 5; ++i) {
    const double p = kept[i] ? std::exp(logits[i] / 0.8) / total : 0;
    CHECK_LE(std::fabs(count[i] - draws * p), 5 * std::sqrt(draws * p * (1 - p)) + 1e-9);
  }
}
