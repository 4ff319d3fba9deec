#include "autotune/tuner.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <ctime>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "autotune/gate.h"
#include "autotune/meter.h"
#include "runtime/base/error.h"

namespace quern {
namespace {

using Clock = std::chrono::steady_clock;
using Outcome = ProblemReport::Outcome;

constexpr std::size_t kLookAhead = 2;  // problems whose compiles run before their turn

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

std::string utc_now() {
  return fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(std::time(nullptr)));
}

/// The outcomes of a farm by ticket.
class Compiles {
 public:
  explicit Compiles(KernelLibrary& library) : library_(library), farm_(library.make_farm()) {}
  ~Compiles() { farm_.cancel(); }
  Compiles(const Compiles&) = delete;
  Compiles& operator=(const Compiles&) = delete;

  std::size_t submit(CompileRequest request) { return farm_.submit(std::move(request)); }
  /// Waits. The outcome is handed over once.
  CompileOutcome take(std::size_t ticket) {
    while (!outcomes_.contains(ticket)) {
      auto outcome = farm_.next();
      if (!outcome) throw Error("a compile was lost");
      if (outcome->kernel) library_.count(*outcome->kernel);
      const std::size_t key = outcome->ticket;
      outcomes_.emplace(key, *std::move(outcome));
    }
    return std::move(outcomes_.extract(ticket).mapped());
  }
  /// Drops what has not begun and counts what has been compiled for nobody.
  void finish() {
    farm_.cancel();
    while (auto outcome = farm_.next())
      if (outcome->kernel) library_.count(*outcome->kernel);
  }

 private:
  KernelLibrary& library_;
  CompileFarm farm_;
  std::map<std::size_t, CompileOutcome> outcomes_;
};

/// One problem with its candidates and, once submitted, their compiles.
class Candidates {
 public:
  Candidates(KernelLibrary& library, const KernelRequest& request)
      : family_(library.families().at(request.family)), problem_(request.problem) {
    const Arch& arch = library.arch();
    configs_.push_back(library.default_config(family_, problem_));
    for (Params& config : library.seeds(family_, problem_))
      if (std::find(configs_.begin(), configs_.end(), config) == configs_.end())
        configs_.push_back(std::move(config));
    std::vector<double> estimates_us;
    for (const Params& config : configs_)
      estimates_us.push_back(family_.estimate_us(problem_, config, arch));
    const auto num_first = static_cast<std::ptrdiff_t>(configs_.size());
    RankedSpace ranked = family_.ranked_space(problem_, arch);  // each of its configs once
    for (std::size_t i = 0; i < ranked.configs.size(); ++i) {
      const auto first_end = configs_.begin() + num_first;
      if (std::find(configs_.begin(), first_end, ranked.configs[i]) != first_end) continue;
      configs_.push_back(std::move(ranked.configs[i]));
      estimates_us.push_back(ranked.estimates_us[i]);
    }
    num_points_ = ranked.num_points;
    pruned_ = std::move(ranked.pruned);
    space_ = search_space(configs_, std::move(estimates_us));
    space_.num_first = static_cast<std::size_t>(num_first);
    for (const Params& config : configs_)
      refusals_.push_back(library.refusal(family_, problem_, config));
    submitted_.resize(configs_.size());
    tickets_.resize(configs_.size());
  }
  Candidates(Candidates&&) = default;

  const Family& family() const { return family_; }
  const Params& problem() const { return problem_; }
  const std::vector<Params>& configs() const { return configs_; }
  const SearchSpace& space() const { return space_; }
  std::size_t num_points() const { return num_points_; }
  const std::vector<Pruned>& pruned() const { return pruned_; }
  const std::optional<std::string>& refusal(std::size_t i) const { return refusals_[i]; }

  /// Begins the compiles of the oracle's kernel, if the oracle is one, and of the candidates that
  /// the search will ask for first.
  void submit_ahead(const Arch& arch, const SearchOptions& options, Compiles& compiles) {
    if (const Params reference = family_.reference_config(problem_); !reference.is_null())
      reference_ticket_ = compiles.submit(compile_request(family_, problem_, reference, arch));
    std::vector<std::size_t> eligible;
    for (std::size_t i = 0; i < configs_.size(); ++i)
      if (!refusals_[i]) eligible.push_back(i);
    submit(arch, choose_candidates(std::move(eligible), options, space_), compiles);
  }
  /// Begins the compiles of those that have not begun.
  void submit(const Arch& arch, std::span<const std::size_t> chosen, Compiles& compiles) {
    for (const std::size_t i : chosen) {
      if (submitted_[i]) continue;
      submitted_[i] = true;
      if (!family_.is_library(configs_[i]))
        tickets_[i] = compiles.submit(compile_request(family_, problem_, configs_[i], arch));
    }
  }
  std::optional<std::size_t> ticket(std::size_t i) const { return tickets_[i]; }
  /// Waits for the oracle's kernel, if the oracle is one, and loads it. Throws CompileError.
  void load_reference(KernelLibrary& library, Compiles& compiles) const {
    if (!reference_ticket_) return;
    const CompileOutcome outcome = compiles.take(*reference_ticket_);
    if (!outcome.kernel) throw CompileError(outcome.error, outcome.log);
    library.load(family_, problem_, family_.reference_config(problem_), *outcome.kernel);
  }

 private:
  const Family& family_;
  Params problem_;
  SearchSpace space_;
  std::size_t num_points_ = 0;
  std::vector<Pruned> pruned_;
  std::vector<Params> configs_;
  std::vector<std::optional<std::string>> refusals_;
  std::vector<std::optional<std::size_t>> tickets_;
  std::optional<std::size_t> reference_ticket_;
  std::vector<bool> submitted_;
};

/// Trials of one problem on this process's GPU.
class DeviceRunner : public TrialRunner {
 public:
  DeviceRunner(KernelLibrary& library, Candidates& candidates, Compiles& compiles)
      : library_(library),
        candidates_(candidates),
        compiles_(compiles),
        gates_(library, candidates.family(), candidates.problem(), stream_),
        meter_(library.context(), gates_.main(), stream_),
        kernels_(candidates.configs().size()) {}

  std::optional<std::string> reject_reason(std::size_t i) override {
    return candidates_.refusal(i);
  }

  /// The first wave has begun by then, as the problem came into sight.
  void announce(std::span<const std::size_t> chosen) override {
    candidates_.submit(library_.arch(), chosen, compiles_);
  }

  Verdict compile(std::size_t i) override {
    if (kernels_[i]) return {};
    const Params& config = candidates_.configs()[i];
    try {
      if (const auto ticket = candidates_.ticket(i)) {
        const CompileOutcome outcome = compiles_.take(*ticket);
        if (!outcome.kernel) return {TrialStatus::compile_failed, outcome.error, 0};
        kernels_[i] =
            library_.load(candidates_.family(), candidates_.problem(), config, *outcome.kernel);
      } else {
        kernels_[i] = library_.load(candidates_.family(), candidates_.problem(), config);
      }
    } catch (const CudaError& error) {
      return {TrialStatus::launch_failed, error.what(), 0};
    }
    return {};
  }

  Verdict gate(std::size_t i) override { return gates_.check(*kernels_[i]); }

  Verdict measure(std::size_t i, int num_samples, std::vector<double>& samples_us) override {
    try {
      meter_.measure(i, *kernels_[i], num_samples, samples_us);
    } catch (const CudaError& error) {
      library_.context().synchronize();  // throws if the GPU is lost: nothing can go on then
      return {TrialStatus::launch_failed, error.what(), 0};
    }
    return {};
  }

  /// Keeps the GPU busy with the default for the clocks to settle.
  void warm_up(double seconds) {
    if (candidates_.refusal(0) || compile(0).status != TrialStatus::ok) return;
    if (gate(0).status != TrialStatus::ok) return;
    const auto start = Clock::now();
    for (std::vector<double> ignored; seconds_since(start) < seconds;)
      if (measure(0, 8, ignored).status != TrialStatus::ok) return;
  }

 private:
  KernelLibrary& library_;
  Candidates& candidates_;
  Compiles& compiles_;
  Stream stream_;
  Gates gates_;
  Meter meter_;
  std::vector<std::optional<ReadyKernel>> kernels_;
};

/// One tune() in progress.
class Tuner {
 public:
  Tuner(KernelLibrary& library, const TuneOptions& options)
      : library_(library), options_(options), compiles_(library) {
    if (options_.budget_seconds > 0)
      end_ = start_ + std::chrono::duration_cast<Clock::duration>(
                          std::chrono::duration<double>(std::min(options_.budget_seconds, 1e8)));
  }

  TuneReport run(std::span<const KernelRequest> requests) {
    const std::size_t compiled_before = library_.counts().compiled;
    collect(requests);
    for (std::size_t turn = 0; turn < open_.size(); ++turn) {
      ProblemReport& problem = report_.problems[open_[turn]];
      const auto start = Clock::now();
      if (turn == 0 || !end_ || start < *end_) {
        for (std::size_t i = turn; i < std::min(turn + 1 + kLookAhead, open_.size()); ++i)
          look_ahead(open_[i]);
        tune_one(open_[turn], deadline(open_.size() - turn));
      }
      problem.seconds = seconds_since(start);
      candidates_.erase(open_[turn]);
      if (options_.progress) options_.progress({turn + 1, open_.size(), problem});
    }
    compiles_.finish();
    report_.compiled = library_.counts().compiled - compiled_before;
    report_.seconds = seconds_since(start_);
    return std::move(report_);
  }

 private:
  /// The distinct problems, and which of them have to be tuned.
  void collect(std::span<const KernelRequest> requests) {
    std::set<std::string> known;
    for (const KernelRequest& request : requests) {
      const Family& family = library_.families().at(request.family);
      ProblemReport problem;
      problem.family = request.family;
      problem.problem = bucketed(family, request.problem);
      if (!known.insert(request.family + " " + to_key(problem.problem)).second) continue;
      if (auto record = library_.valid_record(family, problem.problem); record && !options_.force) {
        problem.outcome = Outcome::recorded;
        problem.record = *std::move(record);
      } else {
        open_.push_back(report_.problems.size());
      }
      report_.problems.push_back(std::move(problem));
    }
  }

  /// An equal share of what is left of the budget for each problem that is left.
  Clock::time_point deadline(std::size_t num_left) const {
    if (!end_) return Clock::time_point::max();
    return Clock::now() + (*end_ - Clock::now()) / static_cast<long>(num_left);
  }

  void look_ahead(std::size_t index) {
    if (candidates_.contains(index)) return;
    ProblemReport& problem = report_.problems[index];
    try {
      Candidates& candidates =
          candidates_.emplace(index, Candidates(library_, {problem.family, problem.problem}))
              .first->second;
      candidates.submit_ahead(library_.arch(), options_.search, compiles_);
    } catch (const InputError& error) {
      problem.reason = error.what();
    }
  }

  void tune_one(std::size_t index, Clock::time_point deadline) {
    ProblemReport& problem = report_.problems[index];
    problem.outcome = Outcome::failed;
    const auto found = candidates_.find(index);
    if (found == candidates_.end()) return;
    Candidates& candidates = found->second;
    problem.configs = candidates.configs();
    problem.num_points = candidates.num_points();
    problem.pruned = candidates.pruned();
    try {
      candidates.load_reference(library_, compiles_);
      DeviceRunner runner(library_, candidates, compiles_);
      if (!std::exchange(warm_, true)) runner.warm_up(options_.warm_up_seconds);
      SearchOptions search_options = options_.search;
      search_options.deadline = deadline;
      problem.search =
          search(candidates.configs().size(), runner, search_options, candidates.space());
    } catch (const OutOfMemoryError& error) {
      problem.reason = error.what();
      return;
    } catch (const CudaError&) {
      throw;
    } catch (const Error& error) {  // the oracle did not compile or gave no numbers
      problem.reason = error.what();
      return;
    }
    report_.measured += problem.search.num_measured;
    report_.rejected += problem.search.num_rejected;
    report_.failed += problem.search.num_failed;
    if (!problem.search.winner) {
      problem.reason = problem.search.trials.front().verdict.reason;
      return;
    }
    keep(candidates, problem);
  }

  void keep(const Candidates& candidates, ProblemReport& problem) {
    const SearchResult& result = problem.search;
    TuningRecord& record = problem.record;
    record.family = problem.family;
    record.problem = problem.problem;
    record.config = problem.configs[*result.winner];
    record.template_hash = template_hash(candidates.family(), record.problem, record.config,
                                         library_.arch(), library_.families().templates());
    record.fingerprint = library_.records().fingerprint();
    record.median_us = result.timing.median_us;
    record.spread_us = result.timing.spread_us;
    record.num_samples = result.timing.num_samples;
    record.default_us = result.default_us;
    record.error = std::min(result.error, 1.0);
    record.measured_at = utc_now();
    library_.record(record);
    problem.outcome = Outcome::tuned;
  }

  KernelLibrary& library_;
  const TuneOptions& options_;
  const Clock::time_point start_ = Clock::now();
  std::optional<Clock::time_point> end_;
  Compiles compiles_;
  TuneReport report_;
  std::vector<std::size_t> open_;                 // indices of problems to tune
  std::map<std::size_t, Candidates> candidates_;  // of those that are next, by index
  bool warm_ = false;
};

}  // namespace

std::string_view name(ProblemReport::Outcome outcome) {
  switch (outcome) {
    case Outcome::tuned:
      return "tuned";
    case Outcome::recorded:
      return "recorded";
    case Outcome::failed:
      return "failed";
    case Outcome::out_of_time:
      return "out_of_time";
  }
  return "unknown";
}

ordered_json to_json(const TuneReport& report) {
  ordered_json records = ordered_json::array();
  for (const ProblemReport& problem : report.problems) {
    ordered_json entry = {{"family", problem.family},
                          {"problem", problem.problem},
                          {"outcome", name(problem.outcome)}};
    if (problem.outcome == Outcome::tuned || problem.outcome == Outcome::recorded) {
      entry["config"] = problem.record.config;
      entry["median_us"] = problem.record.median_us;
      entry["spread_us"] = problem.record.spread_us;
      entry["default_us"] = problem.record.default_us;
      entry["error"] = problem.record.error;
    } else if (!problem.reason.empty()) {
      entry["reason"] = problem.reason;
    }
    if (problem.num_points > 0) {
      ordered_json pruned = ordered_json::array();
      for (const Pruned& reason : problem.pruned)
        pruned.push_back({{"reason", reason.reason}, {"count", reason.count}});
      entry["space"] = {{"points", problem.num_points},
                        {"candidates", problem.configs.size()},
                        {"pruned", std::move(pruned)}};
    }
    records.push_back(std::move(entry));
  }
  return {{"problems", report.problems.size()},
          {"compiled", report.compiled},
          {"measured", report.measured},
          {"rejected", report.rejected},
          {"failed", report.failed},
          {"seconds", report.seconds},
          {"records", std::move(records)}};
}

TuneReport tune(KernelLibrary& library, std::span<const KernelRequest> problems,
                const TuneOptions& options) {
  return Tuner(library, options).run(problems);
}

}  // namespace quern
