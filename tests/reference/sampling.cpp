#include "tests/reference/sampling.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>

namespace quern::test {

std::vector<bool> kept_tokens(std::span<const float> logits, const SamplingRequest& params) {
  float top = -HUGE_VALF;
  for (const float x : logits) top = std::fmax(top, x);
  const auto weight = [&](float x) {
    return std::isnan(x) ? 0.0
                         : std::exp(static_cast<double>(x / params.temperature) -
                                    static_cast<double>(top / params.temperature));
  };
  std::vector<bool> kept;
  for (const float x : logits) {
    const auto greater =
        std::count_if(logits.begin(), logits.end(), [&](float y) { return y > x; });
    kept.push_back(!std::isnan(x) && (params.top_k <= 0 || greater < params.top_k));
  }
  double total = 0;
  for (std::size_t i = 0; i < logits.size(); ++i) total += kept[i] ? weight(logits[i]) : 0;
  std::vector<bool> out = kept;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    double above = 0;  // a token is needed while those above it fall short of p
    for (std::size_t j = 0; j < logits.size(); ++j)
      above += kept[j] && logits[j] > logits[i] ? weight(logits[j]) : 0;
    const bool is_top = logits[i] == top;
    if (params.top_p < 1 && above >= static_cast<double>(params.top_p) * total && !is_top)
      out[i] = false;
    if (params.min_p > 0 && weight(logits[i]) < static_cast<double>(params.min_p) && !is_top)
      out[i] = false;
  }
  return out;
}

std::uint32_t philox_oracle(std::uint32_t key0, std::uint32_t key1, std::uint32_t c0,
                            std::uint32_t c1) {
  std::array<std::uint32_t, 4> c = {c0, c1, 0, 0};
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t a = std::uint64_t{0xD2511F53u} * c[0];
    const std::uint64_t b = std::uint64_t{0xCD9E8D57u} * c[2];
    c = {static_cast<std::uint32_t>(b >> 32) ^ c[1] ^ key0, static_cast<std::uint32_t>(b),
         static_cast<std::uint32_t>(a >> 32) ^ c[3] ^ key1, static_cast<std::uint32_t>(a)};
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return c[0];
}

int sampled_token(std::span<const float> logits, const SamplingRequest& params, int position) {
  const bool random = params.temperature > 0;
  float top = -HUGE_VALF;
  for (const float x : logits) top = std::fmax(top, x);
  const bool finite = std::isfinite(top / params.temperature);
  std::vector<bool> kept(logits.size(), true);
  if (random && finite) kept = kept_tokens(logits, params);
  int best = 0;
  double best_value = std::nan("");
  for (std::size_t i = 0; i < logits.size(); ++i) {
    if (!kept[i] || std::isnan(logits[i])) continue;
    double value = static_cast<double>(logits[i]);
    if (random && finite) {
      const auto bits =
          philox_oracle(params.seed_low, params.seed_high, static_cast<std::uint32_t>(i),
                        static_cast<std::uint32_t>(position) + 1);
      const double u = (static_cast<double>(bits >> 8) + 0.5) / 16777216.0;
      value = static_cast<double>(logits[i] / params.temperature) - std::log(-std::log(u));
    }
    if (std::isnan(best_value) || value > best_value) {
      best_value = value;
      best = static_cast<int>(i);
    }
  }
  return best;
}

void sampling_oracle(const Params& problem, std::span<HostTensor> operands) {
  const auto vocab_size = problem.at("vocab_size").get<std::size_t>();
  const auto log_capacity = problem.at("log_capacity").get<int>();
  const auto ints = [&](std::size_t i) {
    return reinterpret_cast<std::int32_t*>(operands[i].data.data());
  };
  for (std::size_t b = 0; b < problem.at("batch").get<std::size_t>(); ++b) {
    std::vector<float> logits(vocab_size);
    std::memcpy(logits.data(), operands[0].data.data() + b * vocab_size * 4, vocab_size * 4);
    SamplingRequest params;
    std::memcpy(&params, operands[1].data.data() + b * sizeof params, sizeof params);
    ints(2)[b] = sampled_token(logits, params, ints(3)[b]);
    ints(3)[b] += 1;
    ints(4)[b] += 1;
    if (ints(3)[b] < log_capacity)
      ints(5)[static_cast<int>(b) * log_capacity + ints(3)[b]] = ints(2)[b];
  }
}

Params SamplingTrial::problem(int log_capacity) const {
  return to_params(SamplingProblem{static_cast<int>(params_.size()),
                                   static_cast<int>(logits_.size() / params_.size()),
                                   log_capacity});
}

std::vector<OperandSpec> SamplingTrial::operands(const Params& problem) const {
  auto operands = SamplingFamily::operands(problem);
  operands[0].dtype = DType::i32;
  operands[0].values.resize(logits_.size());
  std::memcpy(operands[0].values.data(), logits_.data(), logits_.size() * 4);
  std::memcpy(operands[1].values.data(), params_.data(), params_.size() * sizeof(SamplingRequest));
  return operands;
}

}  // namespace quern::test
