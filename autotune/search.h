#pragma once
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "autotune/surrogate.h"

namespace quern {

/// How a candidate fared. After KTT's result statuses (KTT:Source/Api/Output/ResultStatus.h).
enum class TrialStatus {
  ok,
  rejected,  // the family says that this config cannot run this problem
  compile_failed,
  launch_failed,    // the driver refused or reported an error
  wrong_result,     // an output off by more than the tolerance, NaN, or a write out of bounds
  unstable_result,  // two runs on equal inputs differ: a race
  faulted,          // it took its process down: illegal address, trap, a crash
  timed_out,        // it did not end
  blocked,          // not tried, since it failed here before
  skipped,          // the deadline or the limit of compiles came first
};
/// "wrong_result", ...: the spelling of reports.
std::string_view name(TrialStatus status);
std::optional<TrialStatus> parse_trial_status(std::string_view text);

/// A status with its reason; `error` is the worst error of an output as a fraction of the
/// tolerance.
struct Verdict {
  TrialStatus status = TrialStatus::ok;
  std::string reason;
  double error = 0;
};

/// Median and half of the interquartile range of some timings, in microseconds.
struct Timing {
  double median_us = 0;
  double spread_us = 0;
  int num_samples = 0;
};
Timing summarize(std::vector<double> samples_us);

/// What the search needs from the world, candidates being numbered in order of preference with the
/// default as number 0. An implementation may live in this process, in a child, or in a test.
class TrialRunner {
 public:
  virtual ~TrialRunner() = default;
  /// Why this candidate need not be compiled, or nothing.
  virtual std::optional<std::string> reject_reason(std::size_t candidate) = 0;
  /// Told which candidates will be asked for next, in order, so that compiles can run ahead: first
  /// of all what choose_candidates() says, then of each further wave before the last one is
  /// through.
  virtual void announce(std::span<const std::size_t> candidates) = 0;
  virtual Verdict compile(std::size_t candidate) = 0;
  /// Checks the outputs against the oracle.
  virtual Verdict gate(std::size_t candidate) = 0;
  /// `num_samples` timings of one launch each in microseconds (or fewer, where one is worth more),
  /// appended to `samples_us`.
  virtual Verdict measure(std::size_t candidate, int num_samples,
                          std::vector<double>& samples_us) = 0;
  /// Keeps the device at work until its clocks are those of sustained work, where the problem is one
  /// that draws all its power. Asked for before candidates are compared closely. True if it is such
  /// a problem: timings are then compared only with those of the same round.
  virtual bool settle() { return false; }
};

/// Which of the candidates are compiled and timed. The other two are there to judge `ranked`: what
/// it misses of the whole space, and what the model behind it is worth.
enum class SearchStrategy {
  ranked,      // as many as allowed_candidates(): the model's favourites, then in waves what the
               // model, corrected by their times, prefers
  exhaustive,  // all of them
  random,      // the default and a sample of the others, as many as allowed_candidates()
};
/// "ranked", ...: the spelling of the command line.
std::string_view name(SearchStrategy strategy);
std::optional<SearchStrategy> parse_search_strategy(std::string_view);

struct SearchOptions {
  SearchStrategy strategy = SearchStrategy::ranked;
  std::uint32_t seed = 1;         // of the random strategy
  std::size_t max_compiled = 28;  // candidates that get as far as the compiler
  double max_share = 0.2;         // of the candidates that do, if there are many
  std::size_t min_compiled = 8;   // where that share is less
  int quick_samples = 3;          // of every candidate that passes the gate
  /// A candidate whose first sample is slower than the best so far by more gets no second one.
  double hopeless = 1.6;
  std::size_t finalists = 4;             // besides the default
  int min_rounds = 8, max_rounds = 31;   // of the interleaved final, two samples each
  /// The final ends early when the 95% band of every finalist's ratio to the leader is narrower.
  double band_target = 0.01;
  /// A gain below this fraction is no reason to leave the default or an earlier candidate.
  double min_gain = 0.005;
  /// After it nothing new is begun; the default is tried in any case.
  std::chrono::steady_clock::time_point deadline = std::chrono::steady_clock::time_point::max();
};

/// How many of so many eligible candidates a search with these options compiles.
std::size_t allowed_candidates(std::size_t num_eligible, const SearchOptions& options);

/// Those of `eligible` (ascending) that a search with these options asks for first, in this order,
/// the default first if it is eligible; all that it will ask for, unless the strategy is `ranked`
/// and `space` tells it anything. The same for the same arguments, so that compiles can begin
/// before the search does.
std::vector<std::size_t> choose_candidates(std::vector<std::size_t> eligible,
                                           const SearchOptions& options,
                                           const SearchSpace& space = {});

struct Trial {
  std::size_t candidate = 0;
  Verdict verdict;
  Timing timing;  // num_samples is 0 if it was not measured
};

struct SearchResult {
  std::optional<std::size_t> winner;  // nothing if every candidate failed
  Timing timing;                      // the winner's, in the final
  double default_us = 0;              // the default's in the same race; 0 if it failed
  double error = 0;                   // the winner's at the gate
  std::vector<Trial> trials;          // one for every candidate, in order
  std::size_t num_compiled = 0, num_measured = 0, num_rejected = 0, num_failed = 0,
              num_blocked = 0;
};

/// Finds the fastest of `num_candidates`:
///
///  1. Candidates that are not rejected are built, gated against the oracle and timed a few times
///     each: first those that choose_candidates() picks, which are the analytic model's favourites,
///     no two much alike, and the default. What the model got wrong is learned from their times
///     (autotune/surrogate.h), and what it then expects most of comes next, in waves, each
///     announced before the last one is through.
///  2. Successive halving (Jamieson and Talwalkar, 2016): the faster half is timed twice as often
///     as before, until the finalists are left. The default always stays in. Where the clocks fall
///     under the load, nothing of step 1 is believed: everybody runs once a round, as in step 3.
///  3. In the final everybody runs once a round, the order of a round being the last one's
///     reversed, so that drifting clocks touch all alike; the last places drop out once that is
///     certain.
///  4. The winner is not simply the least median. Every finalist whose ratio to the leader cannot
///     be told from 1 (95% band of the median of the rounds' ratios), or gains less than min_gain,
///     is a tie, and ties go to the default first, then to the earlier candidate: two tunes of the
///     same GPU then agree, and the default is left only for a real gain.
///
/// Deterministic given what `runner` answers. Exceptions of `runner` travel on.
SearchResult search(std::size_t num_candidates, TrialRunner& runner, const SearchOptions& options,
                    const SearchSpace& space = {});

}  // namespace quern
