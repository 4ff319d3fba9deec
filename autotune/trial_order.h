#pragma once
#include <vector>

#include "autotune/search.h"

namespace quern {

/// The trials of candidates that work and were timed, the fastest first; equal times keep their
/// order.
std::vector<const Trial*> fastest_trials(const SearchResult& search);

}  // namespace quern
