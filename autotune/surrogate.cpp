#include "autotune/surrogate.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <numeric>
#include <string>

namespace quern {
namespace {

// Variances of the logarithm of time. Synthetic landscapes with estimates of rank correlation 0.3
// to 0.9 were searched best with these; on measured ones the mean loss stays between 0.17% and
// 0.29% with the others that were tried (tests/unit/test_search_landscapes.cpp).
constexpr double kCommon = 1.0;        // of an error that all estimates share
constexpr double kExaggeration = 1.0;  // per squared unit of log estimate
constexpr double kEffects = 0.03;      // of all single tunables together
constexpr double kInteractions = 0.03;
constexpr double kRange = 1.0;       // levels, over which an effect becomes another
constexpr double kSpread = 3.0;      // levels over all tunables, for interactions
constexpr int kCategoryLevels = 3;   // that strings and booleans lie apart
constexpr double kOrderStep = 1e-3;  // of log estimate, where only an order is known

}  // namespace

SearchSpace search_space(std::span<const Params> configs, std::vector<double> estimates_us) {
  SearchSpace out;
  out.estimates_us = std::move(estimates_us);
  out.levels.resize(configs.size());
  if (configs.empty()) return out;
  for (const auto& [name, first] : configs.front().items()) {
    const auto value_of = [&](const Params& config) -> const Params& {
      static const Params absent;
      const auto found = config.find(name);
      return found == config.end() ? absent : *found;
    };
    std::vector<const Params*> values;  // ascending
    for (const Params& config : configs) {
      const Params& value = value_of(config);
      const auto place = std::lower_bound(values.begin(), values.end(), value,
                                          [](const Params* a, const Params& b) { return *a < b; });
      if (place == values.end() || **place != value) values.insert(place, &value);
    }
    if (values.size() < 2) continue;
    for (std::size_t i = 0; i < configs.size(); ++i) {
      const auto place = std::lower_bound(values.begin(), values.end(), value_of(configs[i]),
                                          [](const Params* a, const Params& b) { return *a < b; });
      const auto level = static_cast<int>(place - values.begin());
      out.levels[i].push_back((*place)->is_number() ? level : level * kCategoryLevels);
    }
  }
  return out;
}

Surrogate::Surrogate(std::size_t num_candidates, const SearchSpace& space)
    : prior_(num_candidates), levels_(space.levels) {
  for (std::size_t i = 0; i < num_candidates; ++i)
    prior_[i] = space.estimates_us.empty() ? kOrderStep * static_cast<double>(i)
                                           : std::log(std::max(space.estimates_us[i], 1e-9));
  // Around the best estimates, where it matters whether the model exaggerates.
  if (num_candidates > 0) {
    std::vector<double> sorted = prior_;
    std::sort(sorted.begin(), sorted.end());
    const double centre = sorted[num_candidates / 10];
    for (double& log_us : prior_) log_us -= centre;
  }
  reset();
}

void Surrogate::reset() {
  mean_ = prior_;
  variance_.resize(prior_.size());
  for (std::size_t i = 0; i < prior_.size(); ++i) variance_[i] = covariance(i, i);
  explained_.clear();
}

double Surrogate::covariance(std::size_t a, std::size_t b) const {
  double out = kCommon + kExaggeration * prior_[a] * prior_[b];
  if (levels_.empty() || levels_[a].empty()) return out + (a == b ? kEffects + kInteractions : 0);
  double alike = 0;
  int distance = 0;
  for (std::size_t d = 0; d < levels_[a].size(); ++d) {
    const int apart = std::abs(levels_[a][d] - levels_[b][d]);
    alike += std::exp(-apart / kRange);
    distance += apart;
  }
  out += kEffects * alike / static_cast<double>(levels_[a].size());
  return out + kInteractions * std::exp(-distance / kSpread);
}

void Surrogate::update(std::size_t candidate, double log_us, double noise_variance) {
  const std::size_t n = prior_.size();
  std::vector<float> shared(n);
  for (std::size_t i = 0; i < n; ++i) {
    double c = covariance(i, candidate);
    for (const auto& earlier : explained_)
      c -= static_cast<double>(earlier[i]) * static_cast<double>(earlier[candidate]);
    shared[i] = static_cast<float>(c);
  }
  const double total = static_cast<double>(shared[candidate]) + noise_variance;
  const double surprise = log_us - mean_[candidate];
  const double scale = 1 / std::sqrt(total);
  for (std::size_t i = 0; i < n; ++i) {
    const double c = shared[i];
    mean_[i] += c / total * surprise;
    variance_[i] = std::max(0.0, variance_[i] - c * c / total);
    shared[i] = static_cast<float>(c * scale);
  }
  explained_.push_back(std::move(shared));
}

void Surrogate::observe(std::size_t candidate, double us, double deviation) {
  update(candidate, std::log(us), deviation * deviation);
}

void Surrogate::believe(std::size_t candidate) { update(candidate, mean_[candidate], 1e-4); }

std::size_t Surrogate::most_promising(std::span<const std::size_t> open, double optimism) const {
  const auto hope = [&](std::size_t i) { return mean_[i] - optimism * std::sqrt(variance_[i]); };
  std::size_t best = open.front();
  double least = hope(best);
  for (const std::size_t i : open)
    if (const double h = hope(i); h < least) least = h, best = i;
  return best;
}

}  // namespace quern
