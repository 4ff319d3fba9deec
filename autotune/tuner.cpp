#include "autotune/tuner.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <exception>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <thread>
#include <utility>

#include "autotune/device_bench.h"
#include "autotune/problem_trials.h"
#include "autotune/trial_order.h"
#include "cache/timestamp.h"
#include "runtime/base/error.h"

namespace quern {
namespace {

using Clock = std::chrono::steady_clock;
using Outcome = ProblemReport::Outcome;

constexpr std::size_t kLookAhead = 12;  // problems whose compiles run before their turn
constexpr std::size_t kKnown = 12;     // configs taken over from a problem like the one at hand

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// Microseconds that a step spends on a problem at best, roughly: what share of a budget it is
/// worth.
double weight_of(const Family& family, const KernelRequest& request) {
  constexpr double kBytesPerUs = 3e6, kFlopsPerUs = 5e8, kLaunchUs = 1;
  const Cost cost = family.cost(request.problem);
  return std::max(request.launches, 1e-3) *
         (kLaunchUs + std::max(cost.bytes / kBytesPerUs, cost.flops / kFlopsPerUs));
}

ordered_json to_json(const TrialTimes& times) {
  const auto rounded = [](double seconds) { return std::round(seconds * 1e3) / 1e3; };
  return {{"open", rounded(times.open)},
          {"compile", rounded(times.compile)},
          {"gate", rounded(times.gate)},
          {"measure", rounded(times.measure)},
          {"wait", rounded(times.wait)}};
}

/// One tune() in progress. Each bench has a thread that takes one open problem after another, the
/// weightiest first; the first bench's is the caller's own.
class Tuner {
 public:
  Tuner(KernelCatalog& catalog, std::span<TrialBench* const> benches, const TuneOptions& options)
      : options_(options),
        benches_(benches.begin(), benches.end()),
        stores_{{}, catalog, TrialLog(catalog.images().root(), catalog.fingerprint())},
        compiles_(catalog) {
    if (options_.budget_seconds > 0)
      end_ = start_ + std::chrono::duration_cast<Clock::duration>(
                          std::chrono::duration<double>(std::min(options_.budget_seconds, 1e8)));
  }

  TuneReport run(std::span<const KernelRequest> requests) {
    const std::size_t compiled_before = catalog().counts().compiled;
    collect(requests);
    std::vector<std::thread> others;
    for (std::size_t i = 1; i < std::min(benches_.size(), open_.size()); ++i)
      others.emplace_back([this, i] { work(*benches_[i]); });
    work(*benches_.front());
    for (std::thread& thread : others) thread.join();
    if (failure_) std::rethrow_exception(failure_);
    compiles_.finish();
    report_.compiled = catalog().counts().compiled - compiled_before;
    report_.seconds = seconds_since(start_);
    return std::move(report_);
  }

 private:
  struct Open {
    std::size_t index = 0;  // of the report
    double weight = 0;
    bool follows = false;  // a problem like it is open, and comes first
  };

  KernelCatalog& catalog() { return stores_.catalog; }

  /// The distinct problems, and which of them have to be tuned.
  void collect(std::span<const KernelRequest> requests) {
    std::map<std::string, std::size_t> known;  // place among the open ones, or beyond
    for (const KernelRequest& request : requests) {
      const Family& family = catalog().families().at(request.family);
      ProblemReport problem;
      problem.family = request.family;
      problem.problem = bucketed(family, request.problem);
      const double weight = weight_of(family, {request.family, problem.problem, request.launches});
      const auto [place, is_new] =
          known.emplace(request.family + " " + to_key(problem.problem), open_.size());
      if (!is_new) {
        if (place->second < open_.size()) open_[place->second].weight += weight;
        continue;
      }
      if (auto record = catalog().valid_record(family, problem.problem);
          record && !options_.force) {
        problem.outcome = Outcome::recorded;
        problem.record = *std::move(record);
        place->second = requests.size();
      } else {
        open_.push_back({report_.problems.size(), weight});
      }
      report_.problems.push_back(std::move(problem));
    }
    for (std::size_t i = 0; i < open_.size(); ++i) find_leader(i, known);
    std::stable_sort(open_.begin(), open_.end(), [](const Open& a, const Open& b) {
      return a.follows != b.follows ? b.follows : a.weight > b.weight;
    });
    for (const Open& open : open_) weight_left_ += open.weight;
  }

  /// Whether a problem like the open one at `place` is tuned in the same run. `known`: places among
  /// the open ones by problem.
  void find_leader(std::size_t place, const std::map<std::string, std::size_t>& known) {
    const ProblemReport& problem = report_.problems[open_[place].index];
    const Family& family = catalog().families().at(problem.family);
    std::optional<FamilyProblem> like;
    try {
      like = family.like(problem.problem);
      if (like) like->problem = bucketed(catalog().families().at(like->family), like->problem);
    } catch (const InputError&) {  // a problem that nothing serves is reported in its turn
      return;
    }
    if (!like) return;
    const auto found = known.find(like->family + " " + to_key(like->problem));
    if (found == known.end() || found->second >= open_.size()) return;
    open_[place].follows = true;
    leaders_[open_[place].index] = open_[found->second].index;
  }

  /// Whether a problem like this one is still to be tuned, which will tell what to try here. Call
  /// with the mutex held.
  bool waits(std::size_t index) const {
    const auto leader = leaders_.find(index);
    return leader != leaders_.end() && !finished_.contains(leader->second);
  }

  /// The fastest configs of the problem that this one is like, once that is tuned; else nothing.
  /// Call with the mutex held.
  std::vector<Params> known_configs(std::size_t index) const {
    const auto leader = leaders_.find(index);
    if (leader == leaders_.end() || waits(index) ||
        options_.search.strategy != SearchStrategy::ranked)
      return {};
    const ProblemReport& problem = report_.problems[leader->second];
    const Family& family = stores_.catalog.families().at(report_.problems[index].family);
    std::vector<Params> out;
    for (const Trial* trial : fastest_trials(problem.search)) {
      const Params& config = problem.configs[trial->candidate];
      if (out.size() < kKnown &&
          !refusal(family, report_.problems[index].problem, config, stores_.catalog.arch()))
        out.push_back(config);
    }
    return out;
  }

  void work(TrialBench& bench) {
    bool warm = false;
    while (const auto turn = next_turn()) {
      const std::size_t index = open_[*turn].index;
      const auto start = Clock::now();
      try {
        if (*turn == 0 || !end_ || start < *end_)
          tune_one(index, bench, deadline_of(*turn), std::exchange(warm, true));
      } catch (...) {
        const std::lock_guard lock(mutex_);
        if (!failure_) failure_ = std::current_exception();
        return;
      }
      ProblemReport& problem = report_.problems[index];
      problem.seconds = seconds_since(start);
      const std::lock_guard lock(mutex_);
      weight_left_ -= open_[*turn].weight;
      candidates_.erase(index);
      finished_.insert(index);
      ++done_;
      if (options_.progress) options_.progress(progress_after(problem));
    }
  }

  /// The place of the next open problem, the compiles of those after it being under way.
  std::optional<std::size_t> next_turn() {
    const std::lock_guard lock(mutex_);
    if (next_ >= open_.size() || failure_) return std::nullopt;
    for (std::size_t i = next_; i < std::min(next_ + 1 + kLookAhead, open_.size()); ++i)
      if (i == next_ || !waits(open_[i].index)) look_ahead(open_[i].index);
    return next_++;
  }

  /// The problem's share of what is left of the budget, by weight.
  Clock::time_point deadline_of(std::size_t turn) {
    if (!end_) return Clock::time_point::max();
    const std::lock_guard lock(mutex_);
    const auto left = std::chrono::duration<double>(*end_ - Clock::now());
    const double share =
        std::min(1.0, open_[turn].weight * static_cast<double>(benches_.size()) / weight_left_);
    return Clock::now() + std::chrono::duration_cast<Clock::duration>(left * share);
  }

  /// Call with the mutex held.
  void look_ahead(std::size_t index) {
    if (candidates_.contains(index)) return;
    ProblemReport& problem = report_.problems[index];
    try {
      const std::lock_guard lock(stores_.mutex);
      Candidates& candidates =
          candidates_
              .try_emplace(index, catalog(), KernelRequest{problem.family, problem.problem},
                           known_configs(index))
              .first->second;
      candidates.submit_ahead(catalog().arch(), options_of(candidates), compiles_);
    } catch (const InputError& error) {
      problem.reason = error.what();
    }
  }

  SearchOptions options_of(const Candidates& candidates) const {
    SearchOptions out = options_.search;
    if (candidates.known()) out.strategy = SearchStrategy::exhaustive;
    return out;
  }

  Candidates* candidates_of(std::size_t index) {
    const std::lock_guard lock(mutex_);
    const auto found = candidates_.find(index);
    return found == candidates_.end() ? nullptr : &found->second;
  }

  void tune_one(std::size_t index, TrialBench& bench, Clock::time_point deadline, bool warm) {
    ProblemReport& problem = report_.problems[index];
    problem.outcome = Outcome::failed;
    Candidates* const candidates = candidates_of(index);
    if (!candidates) return;
    problem.configs = candidates->configs();
    problem.num_points = candidates->num_points();
    problem.pruned = candidates->pruned();
    try {
      bench.start();
      candidates->wait_for_reference(compiles_);
      ProblemTrials trials(stores_, *candidates, compiles_, bench,
                           [&](const ProblemTrials& now) { report_step(problem, now); });
      if (!warm) trials.warm_up(options_.warm_up_seconds);
      SearchOptions search_options = options_of(*candidates);
      search_options.deadline = deadline;
      problem.search =
          search(candidates->configs().size(), trials, search_options, candidates->space());
      problem.num_resumed = trials.num_resumed();
      problem.times = trials.times();
      tell_blocked(*candidates, problem.search);
    } catch (const OutOfMemoryError& error) {
      problem.reason = error.what();
      return;
    } catch (const CudaError&) {
      throw;
    } catch (const Error& error) {  // the oracle did not compile or gave no numbers
      problem.reason = error.what();
      return;
    }
    const std::lock_guard lock(mutex_);
    report_.times += problem.times;
    report_.measured += problem.search.num_measured;
    report_.rejected += problem.search.num_rejected;
    report_.failed += problem.search.num_failed;
    report_.blocked += problem.search.num_blocked;
    if (problem.search.winner)
      keep(*candidates, problem);
    else
      problem.reason = problem.search.trials.front().verdict.reason;
  }

  /// The search knows refusals of one kind only.
  static void tell_blocked(const Candidates& candidates, SearchResult& result) {
    for (Trial& trial : result.trials) {
      const auto& refusal = candidates.refusal(trial.candidate);
      if (!refusal || refusal->status != TrialStatus::blocked) continue;
      trial.verdict = *refusal;
      --result.num_rejected;
      ++result.num_blocked;
    }
  }

  void keep(const Candidates& candidates, ProblemReport& problem) {
    const SearchResult& result = problem.search;
    TuningRecord& record = problem.record;
    record.family = problem.family;
    record.problem = problem.problem;
    record.config = problem.configs[*result.winner];
    record.template_hash =
        catalog().template_hash_of(candidates.family(), record.problem, record.config);
    record.fingerprint = catalog().fingerprint();
    record.median_us = result.timing.median_us;
    record.spread_us = result.timing.spread_us;
    record.num_samples = result.timing.num_samples;
    record.default_us = result.default_us;
    record.error = std::min(result.error, 1.0);
    record.measured_at = timestamp(wall_clock());
    record.nvrtc = catalog().nvrtc().version();
    const std::lock_guard lock(stores_.mutex);
    catalog().record(record);
    stores_.log.forget(record.family, record.problem);
    problem.outcome = Outcome::tuned;
    if (options_.on_record) options_.on_record(record);
  }

  void report_step(const ProblemReport& problem, const ProblemTrials& trials) {
    if (!options_.progress) return;
    const std::lock_guard lock(mutex_);
    TuneProgress progress = progress_of(problem);
    progress.tried = trials.num_tried();
    progress.best_us = trials.best_us();
    progress.default_us = trials.default_us();
    options_.progress(progress);
  }

  /// Call with the mutex held.
  TuneProgress progress_of(const ProblemReport& problem) const {
    TuneProgress progress;
    progress.done = done_;
    progress.total = open_.size();
    progress.family = problem.family;
    progress.problem = problem.problem;
    progress.candidates = problem.configs.size();
    progress.compile_queue = compiles_.num_waiting();
    if (end_)
      progress.seconds_left =
          std::max(0.0, std::chrono::duration<double>(*end_ - Clock::now()).count());
    else if (done_ > 0)
      progress.seconds_left = seconds_since(start_) * static_cast<double>(open_.size() - done_) /
                              static_cast<double>(done_);
    return progress;
  }

  /// Call with the mutex held.
  TuneProgress progress_after(const ProblemReport& problem) const {
    TuneProgress progress = progress_of(problem);
    progress.tried = problem.search.num_measured + problem.search.num_failed;
    progress.best_us = problem.record.median_us;
    progress.default_us = problem.record.default_us;
    progress.finished = &problem;
    return progress;
  }

  const TuneOptions& options_;
  std::vector<TrialBench*> benches_;
  const Clock::time_point start_ = Clock::now();
  std::optional<Clock::time_point> end_;
  TrialStores stores_;
  CompileQueue compiles_;
  std::mutex mutex_;  // of what follows; taken before that of the stores
  TuneReport report_;
  std::vector<Open> open_;                      // problems to tune, the weightiest first
  std::map<std::size_t, std::size_t> leaders_;  // of open problems, by index of the report
  std::set<std::size_t> finished_;              // by index of the report
  std::size_t next_ = 0, done_ = 0;
  double weight_left_ = 0;
  std::map<std::size_t, Candidates> candidates_;  // of those that are next, by index of the report
  std::exception_ptr failure_;
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
      if (problem.energy_mj) entry["energy_mj"] = *problem.energy_mj;
      if (problem.default_energy_mj) entry["default_energy_mj"] = *problem.default_energy_mj;
    } else if (!problem.reason.empty()) {
      entry["reason"] = problem.reason;
    }
    if (problem.outcome != Outcome::recorded) entry["seconds_by_phase"] = to_json(problem.times);
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
          {"blocked", report.blocked},
          {"seconds", report.seconds},
          {"seconds_by_phase", to_json(report.times)},
          {"records", std::move(records)}};
}

TuneReport tune(KernelCatalog& catalog, std::span<TrialBench* const> benches,
                std::span<const KernelRequest> problems, const TuneOptions& options) {
  if (benches.empty()) throw Error("there is nothing to measure on");
  return Tuner(catalog, benches, options).run(problems);
}

TuneReport tune(KernelLibrary& library, std::span<const KernelRequest> problems,
                const TuneOptions& options) {
  DeviceBench bench(library);
  TrialBench* const benches[] = {&bench};
  return tune(library, benches, problems, options);
}

}  // namespace quern
