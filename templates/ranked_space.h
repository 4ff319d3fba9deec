#pragma once
#include <algorithm>
#include <cstddef>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "templates/params.h"

namespace quern {

/// Points of a space that were ruled out for the same reason. Sentences that differ in their
/// numbers alone count as one reason, and the first stands for all.
struct Pruned {
  std::string reason;
  std::size_t count = 0;
};

/// A family's space for one problem and architecture: what static pruning left of it, in order of
/// the analytic model, and what it took away.
struct RankedSpace {
  std::vector<Params> configs;       // the default, then ascending by estimate
  std::vector<double> estimates_us;  // of `configs`
  std::size_t num_points = 0;        // before pruning
  std::vector<Pruned> pruned;        // most frequent first
};

/// What is left of a space without the configs that `refuse` gives a reason for.
RankedSpace narrowed(RankedSpace all,
                     const std::function<std::optional<std::string>(const Params&)>& refuse);

/// Counts the reasons of a pruning.
class PruneCount {
 public:
  void add(std::string reason);
  /// Most frequent first.
  std::vector<Pruned> take();

 private:
  std::map<std::string, Pruned> by_wording_;  // by the sentence without its numbers
};

/// Ranks those of `points` for which reject(point) gives no sentence by estimate(point), in
/// microseconds; equal estimates keep their order. `usual`, which is legal, leads whether it is
/// among the points or not. Points are distinct.
template <class Config, class Reject, class Estimate>
RankedSpace rank_points(const Config& usual, const std::vector<Config>& points,
                        const Reject& reject, const Estimate& estimate) {
  RankedSpace out;
  out.num_points = points.size();
  PruneCount pruned;
  bool found = false;
  std::vector<std::pair<double, const Config*>> kept;
  for (const Config& point : points) {
    if (point == usual) {
      found = true;
    } else if (std::optional<std::string> reason = reject(point)) {
      pruned.add(*std::move(reason));
    } else {
      kept.emplace_back(estimate(point), &point);
    }
  }
  if (!found) ++out.num_points;
  std::stable_sort(kept.begin(), kept.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
  kept.emplace(kept.begin(), estimate(usual), &usual);
  for (const auto& [us, config] : kept) {
    out.configs.push_back(to_params(*config));
    out.estimates_us.push_back(us);
  }
  out.pruned = pruned.take();
  return out;
}

}  // namespace quern
