#pragma once
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "autotune/kernel_library.h"
#include "autotune/search.h"

namespace quern {

/// What became of one problem.
struct ProblemReport {
  enum class Outcome {
    tuned,        // `record` is new and on disk
    recorded,     // it had a valid record already
    failed,       // no config works here; `reason` says why
    out_of_time,  // the budget came first; the default will run
  };
  std::string family;
  Params problem;  // dynamic fields rounded up
  Outcome outcome = Outcome::out_of_time;
  std::string reason;
  TuningRecord record;          // if tuned or recorded
  std::vector<Params> configs;  // the candidates, the default first
  std::size_t num_points = 0;   // of the declared space, before pruning; 0 if it was not looked at
  std::vector<Pruned> pruned;   // what static pruning took away
  SearchResult search;          // if tuned or failed; trials in order of `configs`
  double seconds = 0;
};
/// "tuned", "recorded", "failed", "out_of_time".
std::string_view name(ProblemReport::Outcome outcome);

struct TuneProgress {
  std::size_t done = 0, total = 0;  // problems
  const ProblemReport& latest;
};

struct TuneOptions {
  bool force = false;          // measure again what has a record
  double budget_seconds = 0;   // 0 = no limit; time that a problem leaves unused goes to the others
  SearchOptions search;        // its deadline is set from the budget
  double warm_up_seconds = 1;  // of load before the first timing, for the clocks to settle
  /// Called after every problem, on the calling thread.
  std::function<void(const TuneProgress&)> progress;
};

struct TuneReport {
  std::vector<ProblemReport> problems;  // every distinct problem, in the order asked for
  std::size_t compiled = 0;             // images that NVRTC built
  std::size_t measured = 0, rejected = 0, failed = 0;  // candidates
  double seconds = 0;
};
/// For `quern tune --json`: problems (count), compiled, measured, rejected, failed, seconds,
/// records[], each with its space: points, candidates, pruned[] with reason and count.
ordered_json to_json(const TuneReport& report);

/// Tunes every distinct problem (dynamic fields rounded up to powers of two) that has no valid
/// record. Candidates are the family's whole space, pruned and ranked by its model
/// (Family::ranked_space): the default first, then what is recorded elsewhere for the same problem,
/// then the rest; they compile on the farm, the next problems' too, while the GPU
/// measures. Each must pass the gate (autotune/gate.h) before it is timed (autotune/meter.h) and
/// compared (autotune/search.h). A problem's record is on disk before the next one starts, so that
/// a killed run resumes where it stopped.
///
/// A problem that cannot be tuned is reported as failed and the rest goes on. Throws CudaError if a
/// candidate takes the GPU down with it, InputError if the cache cannot be written.
TuneReport tune(KernelLibrary& library, std::span<const KernelRequest> problems,
                const TuneOptions& options);

}  // namespace quern
