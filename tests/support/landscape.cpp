#include "tests/support/landscape.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <random>

#include "tests/support/synthetic_gpu.h"

namespace quern::test {
namespace {

using Levels = std::vector<std::vector<int>>;

std::vector<double> ranks(const std::vector<double>& values) {
  std::vector<std::size_t> order(values.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return values[a] < values[b]; });
  std::vector<double> out(values.size());
  for (std::size_t rank = 0; rank < order.size(); ++rank)
    out[order[rank]] = static_cast<double>(rank);
  return out;
}

double spearman(const std::vector<double>& a, const std::vector<double>& b) {
  const std::vector<double> x = ranks(a), y = ranks(b);
  double sum = 0;
  for (std::size_t i = 0; i < x.size(); ++i) sum += (x[i] - y[i]) * (x[i] - y[i]);
  const auto n = static_cast<double>(x.size());
  return n > 1 ? 1 - 6 * sum / (n * (n * n - 1)) : 1;
}

/// Random numbers that are the same with every standard library.
class Random {
 public:
  explicit Random(unsigned seed) : bits_(seed) {}
  std::size_t below(std::size_t n) { return bits_() % n; }
  double uniform() { return (static_cast<double>(bits_()) + 0.5) / 4294967296.0; }
  double normal() {
    return std::sqrt(-2 * std::log(uniform())) * std::cos(6.283185307179586 * uniform());
  }

 private:
  std::mt19937 bits_;
};

/// The logarithm of a time, as a function of levels.
std::vector<double> terrain(const Levels& points, const std::vector<int>& num_levels, double cliff,
                            Random& random) {
  constexpr double kEffect = 0.25, kInteraction = 0.04;
  const std::size_t dims = num_levels.size();
  std::vector<double> out(points.size(), 0.0);
  for (std::size_t d = 0; d < dims; ++d) {
    const double last = num_levels[d] - 1, optimum = random.uniform() * last;
    const double slope = 2 * std::fabs(random.normal()) * kEffect / last;
    std::vector<double> effect;
    for (int level = 0; level < num_levels[d]; ++level)
      effect.push_back(slope * std::fabs(level - optimum) + 0.15 * kEffect * random.normal());
    for (std::size_t i = 0; i < points.size(); ++i)
      out[i] += effect[static_cast<std::size_t>(points[i][d])];
  }
  for (std::size_t pair = 0; pair < dims; ++pair) {
    const std::size_t a = random.below(dims), b = random.below(dims);
    std::map<std::pair<int, int>, double> effect;
    for (int x = 0; x < num_levels[a]; ++x)
      for (int y = 0; y < num_levels[b]; ++y) effect[{x, y}] = kInteraction * random.normal();
    if (a == b) continue;
    for (std::size_t i = 0; i < points.size(); ++i) out[i] += effect[{points[i][a], points[i][b]}];
  }
  const std::size_t a = random.below(dims), b = random.below(dims);
  for (std::size_t i = 0; i < points.size(); ++i)
    if (points[i][a] == num_levels[a] - 1 && points[i][b] == num_levels[b] - 1) out[i] += cliff;
  return out;
}

}  // namespace

double Landscape::best_us() const {
  double best = std::numeric_limits<double>::infinity();
  for (std::size_t i = 0; i < size(); ++i)
    if (!fails[i]) best = std::min(best, true_us[i]);
  return best;
}

double Landscape::rank_correlation() const {
  std::vector<double> estimates, times;
  for (std::size_t i = 0; i < size(); ++i)
    if (!fails[i]) {
      estimates.push_back(space.estimates_us[i]);
      times.push_back(true_us[i]);
    }
  return spearman(estimates, times);
}

Landscape synthetic_landscape(unsigned seed, double correlation) {
  constexpr std::size_t kLeast = 100, kMost = 1000;
  constexpr double kOwn = 0.015, kCliff = 0.7, kScaleUs = 20;
  Random random(seed);
  std::vector<int> num_levels;
  std::size_t size;
  do {
    num_levels.clear();
    size = 1;
    for (std::size_t dims = 4 + random.below(4); dims > 0; --dims) {
      num_levels.push_back(2 + static_cast<int>(random.below(4)));
      size *= static_cast<std::size_t>(num_levels.back());
    }
  } while (size < kLeast * 3 / 2 || size > kMost);
  const std::size_t dims = num_levels.size();
  const std::size_t pruned_a = random.below(dims), pruned_b = random.below(dims);
  Levels points;
  for (std::size_t i = 0; i < size; ++i) {
    std::vector<int> point;
    std::size_t rest = i;
    for (const int levels : num_levels) {
      point.push_back(static_cast<int>(rest % static_cast<std::size_t>(levels)));
      rest /= static_cast<std::size_t>(levels);
    }
    if (pruned_a == pruned_b || point[pruned_a] != 0 || point[pruned_b] != 0)
      points.push_back(std::move(point));
  }
  std::vector<double> truth = terrain(points, num_levels, kCliff, random);
  for (double& log_us : truth) log_us += kOwn * random.normal();
  std::vector<double> error;
  do error = terrain(points, num_levels, kCliff / 2, random);
  while (spearman(error, truth) > correlation - 0.1);
  std::vector<double> estimate(points.size());
  double low = 0, high = 8;
  for (int step = 0; step < 20; ++step) {
    const double weight = (low + high) / 2;
    for (std::size_t i = 0; i < points.size(); ++i) estimate[i] = truth[i] + weight * error[i];
    (spearman(estimate, truth) > correlation ? low : high) = weight;
  }

  std::vector<std::size_t> order(points.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return estimate[a] < estimate[b]; });
  const auto usual = static_cast<std::ptrdiff_t>(random.below(points.size() / 4));
  std::rotate(order.begin(), order.begin() + usual, order.begin() + usual + 1);
  const std::size_t bad_a = random.below(dims), bad_b = random.below(dims);
  Landscape out;
  out.name = "synthetic";
  for (const std::size_t i : order) {
    out.true_us.push_back(kScaleUs * std::exp(truth[i]));
    out.space.estimates_us.push_back(kScaleUs * std::exp(estimate[i]));
    out.fails.push_back(out.size() > 1 && bad_a != bad_b && points[i][bad_a] == 1 &&
                        points[i][bad_b] == 1);
    out.space.levels.push_back(points[i]);
  }
  return out;
}

Outcome search_landscape(const Landscape& landscape, double noise, unsigned seed,
                         const SearchOptions& options) {
  SyntheticGpu gpu(landscape.true_us, noise, seed);
  for (std::size_t i = 0; i < landscape.size(); ++i)
    if (landscape.fails[i]) gpu.compile_faults[i] = {TrialStatus::compile_failed, "it cannot", 0};
  const SearchResult result = search(landscape.size(), gpu, options, landscape.space);
  REQUIRE(result.winner.has_value());
  CHECK_FALSE(landscape.fails[*result.winner]);
  return {landscape.true_us[*result.winner] / landscape.best_us() - 1, *result.winner,
          static_cast<double>(gpu.compiled.size()) / static_cast<double>(landscape.size()),
          gpu.num_waves};
}

}  // namespace quern::test
