#include "autotune/trial_order.h"

#include <algorithm>

namespace quern {

std::vector<const Trial*> fastest_trials(const SearchResult& search) {
  std::vector<const Trial*> out;
  for (const Trial& trial : search.trials)
    if (trial.verdict.status == TrialStatus::ok && trial.timing.num_samples > 0)
      out.push_back(&trial);
  std::ranges::stable_sort(out, {}, [](const Trial* trial) { return trial->timing.median_us; });
  return out;
}

}  // namespace quern
