#pragma once
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "autotune/kernel_library.h"
#include "autotune/problem_trials.h"
#include "autotune/search.h"
#include "autotune/trial_bench.h"
#include "autotune/tune_progress.h"

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
  std::size_t num_resumed = 0;  // of the trials those that a killed run had made
  TrialTimes times;
  double seconds = 0;
  /// Of one launch of the recorded config and of the default, in millijoules; only where asked for
  /// (autotune/energy.h) and the GPU counts energy.
  std::optional<double> energy_mj, default_energy_mj;
};
/// "tuned", "recorded", "failed", "out_of_time".
std::string_view name(ProblemReport::Outcome outcome);

struct TuneOptions {
  bool force = false;          // measure again what has a record
  /// 0 = no limit. A problem gets its share by its weight in a step (KernelRequest::launches and the
  /// family's cost); what it leaves unused goes to the others.
  double budget_seconds = 0;
  SearchOptions search;        // its deadline is set from the budget
  double warm_up_seconds = 0.5;  // of load before the first timing, for the clocks to settle
  /// Both are called by one thread at a time, which is the caller's where there is one bench.
  std::function<void(const TuneProgress&)> progress;
  std::function<void(const TuningRecord&)> on_record;  // once it is on disk
};

struct TuneReport {
  std::vector<ProblemReport> problems;  // every distinct problem, in the order asked for
  std::size_t compiled = 0;             // images that NVRTC built
  std::size_t measured = 0, rejected = 0, failed = 0, blocked = 0;  // candidates
  TrialTimes times;  // of all benches together
  double seconds = 0;
};
/// For `quern tune --json`: problems (count), compiled, measured, rejected, failed, seconds,
/// seconds_by_phase (open, compile, gate, measure, wait: of all benches together), records[],
/// each with its own seconds_by_phase and space: points,
/// candidates, pruned[] with reason and count.
ordered_json to_json(const TuneReport& report);

/// Tunes every distinct problem (dynamic fields rounded up to powers of two) that has no valid
/// record, those with the largest share of a step first. Candidates are the family's whole space,
/// pruned and ranked by its model (Family::ranked_space): the default first, then what is recorded
/// elsewhere for the same problem, then the rest; they compile on the farm, the next problems' too,
/// while the GPU measures. Problems like others of the same run (Family::like()) come after those and
/// try the fastest configs of these alone. Each must pass the gate (autotune/gate.h) before it is timed
/// (autotune/meter.h) and compared (autotune/search.h). Problems are shared out among the benches,
/// which stand for equal GPUs.
///
/// Every finished trial is on disk before the next begins, so that a killed run resumes where it
/// stopped, and so is a problem's record, which counts at once. What took a process down is put on
/// the block list of this GPU and not tried again.
///
/// A problem that cannot be tuned is reported as failed and the rest goes on. Throws InputError if
/// the cache cannot be written.
TuneReport tune(KernelCatalog& catalog, std::span<TrialBench* const> benches,
                std::span<const KernelRequest> problems, const TuneOptions& options);

/// The same on the GPU of this process. Throws CudaError if a candidate takes the GPU down with it.
TuneReport tune(KernelLibrary& library, std::span<const KernelRequest> problems,
                const TuneOptions& options);

}  // namespace quern
