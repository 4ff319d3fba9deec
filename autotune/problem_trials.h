#pragma once
#include <functional>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "autotune/compile_queue.h"
#include "autotune/trial_bench.h"
#include "cache/trial_log.h"

namespace quern {

/// The candidates of one problem, why some need not be tried, and the compiles of the others.
class Candidates {
 public:
  /// The default first, then what is recorded elsewhere for the same problem, then `known` if there
  /// are any: the fastest of a problem like this one (Family::like()); else a vendor's library's
  /// own favourite, where the family has one, and the rest of the family's ranked space. Throws
  /// InputError if the family cannot serve the problem here.
  Candidates(KernelCatalog& catalog, const KernelRequest& request,
             std::span<const Params> known = {});

  const Family& family() const { return family_; }
  const Params& problem() const { return problem_; }
  const std::vector<Params>& configs() const { return configs_; }
  const SearchSpace& space() const { return space_; }
  /// Whether they are few that are known to be good, of which none need be left out.
  bool known() const { return known_; }
  std::size_t num_points() const { return num_points_; }  // of the declared space, before pruning
  const std::vector<Pruned>& pruned() const { return pruned_; }
  /// A verdict of rejected or blocked, or nothing.
  const std::optional<Verdict>& refusal(std::size_t i) const { return refusals_[i]; }

  /// Begins the compiles of the oracle's kernel, if the oracle is one, and of the candidates that a
  /// search with these options begins with.
  void submit_ahead(const Arch& arch, const SearchOptions& options, CompileQueue& compiles);
  /// Begins the compiles of those that have not begun.
  void submit(const Arch& arch, std::span<const std::size_t> chosen, CompileQueue& compiles,
              int priority = 0);
  /// Of a kernel's compile; nothing for a library's routine.
  std::optional<std::size_t> ticket(std::size_t i) const { return tickets_[i]; }
  /// Waits for the oracle's kernel, if the oracle is one. Throws CompileError.
  void wait_for_reference(CompileQueue& compiles) const;

 private:
  const Family& family_;
  Params problem_;
  bool known_ = false;
  SearchSpace space_;
  std::size_t num_points_ = 0;
  std::vector<Pruned> pruned_;
  std::vector<Params> configs_;
  std::vector<std::optional<Verdict>> refusals_;
  std::vector<std::optional<std::size_t>> tickets_;
  std::optional<std::size_t> reference_ticket_;
  std::vector<bool> submitted_;
};

/// What the trials of several problems share, under one lock.
struct TrialStores {
  std::mutex mutex;
  KernelCatalog& catalog;
  TrialLog log;
  bool log_works = true;  // false once it could not be written
};

/// Where the time of a problem's trials went, in seconds.
struct TrialTimes {
  double open = 0;     // operands, and the oracle's answer
  double compile = 0;  // waiting for compilers, and loading
  double gate = 0;
  double measure = 0;
  double wait = 0;  // for the GPU, while other problems of the same tune had it
  TrialTimes& operator+=(const TrialTimes& other);
};

/// The search's view of one problem: compiles on the farm, trials on a bench, every finished trial
/// in the log. What the log knows of an equal image from a run that was killed is not tried again;
/// the final always is.
class ProblemTrials : public TrialRunner {
 public:
  /// `on_step` is called after every trial.
  ProblemTrials(TrialStores& stores, Candidates& candidates, CompileQueue& compiles,
                TrialBench& bench, std::function<void(const ProblemTrials&)> on_step);
  ~ProblemTrials() override;

  std::optional<std::string> reject_reason(std::size_t i) override;
  void announce(std::span<const std::size_t> chosen) override;
  Verdict compile(std::size_t i) override;
  Verdict gate(std::size_t i) override;
  Verdict measure(std::size_t i, int num_samples, std::vector<double>& samples_us) override;
  bool settle() override;

  /// Runs the default for the clocks to settle.
  void warm_up(double seconds);

  std::size_t num_tried() const { return num_tried_; }
  std::size_t num_resumed() const { return num_resumed_; }
  const TrialTimes& times() const { return times_; }
  double best_us() const { return best_us_; }        // 0 while unknown
  double default_us() const { return default_us_; }  // 0 while unknown

 private:
  struct State {
    std::string key;  // of the image
    bool compiled = false, resumed = false, logged = false;
    double error = 0;
    std::vector<double> samples_us;  // of the log
  };
  /// Keeps the trial in the log, and in the list of those that must not be tried again.
  void keep(std::size_t i, const Verdict& verdict, std::span<const double> samples_us);
  void note_time(std::size_t i, std::span<const double> samples_us);
  /// With the default.
  void keep_busy(double seconds);
  std::string family_name() const { return std::string(candidates_.family().name()); }

  TrialStores& stores_;
  Candidates& candidates_;
  CompileQueue& compiles_;
  TrialBench& bench_;
  std::function<void(const ProblemTrials&)> on_step_;
  std::vector<State> states_;
  std::size_t num_tried_ = 0, num_resumed_ = 0;
  TrialTimes times_;
  double best_us_ = 0, default_us_ = 0;
};

}  // namespace quern
