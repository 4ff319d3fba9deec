#pragma once
#include <cstddef>
#include <string>

#include "autotune/tune_progress.h"

namespace quern {

/// "45 s", "3 min 20 s", "2 h 5 min".
std::string duration_text(double seconds);

/// The state of a tune in at most `width` columns, for a line that is redrawn: problems, the one
/// under way, candidates, compile queue, best so far, time left. Where there is too little room,
/// what matters least goes first.
std::string progress_text(const TuneProgress& progress, std::size_t width);

/// The same for a log, said once when a problem has ended: what became of it and in how much time.
/// `progress.finished` must be set.
std::string finished_text(const TuneProgress& progress);

}  // namespace quern
