#include "model/sampling.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <vector>

#include "runtime/base/error.h"

namespace quern {
namespace {

constexpr float kLowest = -std::numeric_limits<float>::infinity();

/// The least s that top_k keeps.
float top_k_threshold(const std::vector<float>& scaled, int top_k) {
  if (top_k <= 0 || static_cast<std::size_t>(top_k) >= scaled.size()) return kLowest;
  std::vector<float> order = scaled;
  const auto kth = order.begin() + (top_k - 1);
  std::nth_element(order.begin(), kth, order.end(), std::greater<>());
  return *kth;
}

/// The least s that top_p keeps, of those that are no less than `threshold`.
float top_p_threshold(const std::vector<float>& scaled, float threshold, float largest,
                      float top_p) {
  if (top_p >= 1) return threshold;
  std::vector<float> order;
  double total = 0;
  for (const float s : scaled) {
    if (!(s >= threshold)) continue;
    order.push_back(s);
    total += std::exp(static_cast<double>(s - largest));
  }
  std::sort(order.begin(), order.end(), std::greater<>());
  double mass = 0;
  for (const float s : order) {
    mass += std::exp(static_cast<double>(s - largest));
    if (mass >= static_cast<double>(top_p) * total) return s;
  }
  return threshold;
}

}  // namespace

void check_sampling(const SamplingParams& params) {
  if (!(params.temperature >= 0 && params.temperature <= 1e6f))
    throw InputError("the temperature must be between 0 and 1e6");
  if (params.top_k < 0) throw InputError("top-k must not be negative");
  if (!(params.top_p > 0 && params.top_p <= 1))
    throw InputError("top-p must be above 0 and at most 1");
  if (!(params.min_p >= 0 && params.min_p <= 1)) throw InputError("min-p must be between 0 and 1");
}

std::int32_t sample(std::span<const float> logits, const SamplingParams& params,
                    std::uint32_t position) {
  if (params.temperature <= 0) {
    std::size_t best = 0;
    for (std::size_t i = 1; i < logits.size(); ++i)
      if (logits[i] > logits[best] || std::isnan(logits[best])) best = i;
    return std::isnan(logits[best]) ? 0 : static_cast<std::int32_t>(best);
  }
  std::vector<float> scaled(logits.size());
  float largest = kLowest;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    scaled[i] = std::isnan(logits[i]) ? kLowest : logits[i] / params.temperature;
    largest = std::max(largest, scaled[i]);
  }
  float threshold = top_k_threshold(scaled, params.top_k);
  threshold = top_p_threshold(scaled, threshold, largest, params.top_p);
  if (params.min_p > 0) threshold = std::max(threshold, largest + std::log(params.min_p));

  std::size_t best = 0;
  double best_score = -std::numeric_limits<double>::infinity();
  for (std::size_t i = 0; i < scaled.size(); ++i) {
    if (!(scaled[i] >= threshold)) continue;
    const double u = gumbel_uniform(params.seed, position, static_cast<std::uint32_t>(i));
    const double score = static_cast<double>(scaled[i]) - std::log(-std::log(u));
    if (score > best_score) {
      best = i;
      best_score = score;
    }
  }
  return static_cast<std::int32_t>(best);
}

std::array<std::uint32_t, 4> philox4x32(std::array<std::uint32_t, 4> x,
                                        std::array<std::uint32_t, 2> key) {
  constexpr std::uint64_t kMultiplier0 = 0xd2511f53, kMultiplier1 = 0xcd9e8d57;
  constexpr std::uint32_t kWeyl0 = 0x9e3779b9, kWeyl1 = 0xbb67ae85;
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t product0 = kMultiplier0 * x[0], product1 = kMultiplier1 * x[2];
    x = {static_cast<std::uint32_t>(product1 >> 32) ^ x[1] ^ key[0],
         static_cast<std::uint32_t>(product1),
         static_cast<std::uint32_t>(product0 >> 32) ^ x[3] ^ key[1],
         static_cast<std::uint32_t>(product0)};
    key[0] += kWeyl0;
    key[1] += kWeyl1;
  }
  return x;
}

double gumbel_uniform(std::uint64_t seed, std::uint32_t position, std::uint32_t token) {
  const auto x = philox4x32({token, position, 0, 0}, {static_cast<std::uint32_t>(seed),
                                                      static_cast<std::uint32_t>(seed >> 32)});
  return (static_cast<double>(x[0] >> 8) + 0.5) * 0x1p-24;
}

}  // namespace quern
