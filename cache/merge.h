#pragma once
#include <vector>

#include "cache/record_store.h"

namespace quern {

/// Which of two records of the same problem on the same GPU counts: that of the newer NVRTC (an
/// unknown version is the oldest), then that of the tighter spread relative to its median, then the
/// faster. What is equal in all that is ordered by its text, so that the answer does not depend on
/// who is asked about first. For records made elsewhere: one's own measurements come before any.
bool is_better(const TuningRecord& a, const TuningRecord& b);

/// One record for every problem and GPU, the best of each, in order of GPU, family and problem.
std::vector<TuningRecord> merge_records(std::vector<TuningRecord> records);

}  // namespace quern
