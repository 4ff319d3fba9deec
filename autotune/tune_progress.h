#pragma once
#include <cstddef>
#include <optional>
#include <string>

#include "templates/params.h"

namespace quern {

struct ProblemReport;

/// How far a tune has come.
struct TuneProgress {
  std::size_t done = 0, total = 0;        // problems; the recorded ones are not among them
  std::string family;                     // of the problem under way, or just ended
  Params problem;                         // dynamic fields rounded up
  std::size_t tried = 0, candidates = 0;  // of this problem
  std::size_t compile_queue = 0;          // kernels that wait for a compiler
  double best_us = 0, default_us = 0;     // of this problem so far; 0 while unknown
  /// Until the budget ends, or an estimate where there is none.
  std::optional<double> seconds_left;
  /// Set when this problem has just ended; valid during the call.
  const ProblemReport* finished = nullptr;
};

}  // namespace quern
