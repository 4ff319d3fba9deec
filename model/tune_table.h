#pragma once
#include <span>
#include <string>

#include "model/tune_summary.h"

namespace quern {

struct TuneTableOptions {
  /// Every field and tunable, not only those that tell problems apart and winners from defaults.
  bool full_names = false;
  bool energy = false;  // columns of millijoules
};

/// A table with a line for each problem: time, spread, share of the roof, the default's time,
/// candidates, config. Under it the totals, and the failures by kind with their most frequent
/// reasons. `facts` as facts_of() gives them.
std::string tune_table(const TuneReport& report, std::span<const ProblemFacts> facts,
                       const TuneTableOptions& options = {});

}  // namespace quern
