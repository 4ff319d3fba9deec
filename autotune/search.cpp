#include "autotune/search.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <utility>

namespace quern {
namespace {

/// The q-quantile of sorted values, linear between neighbours.
double quantile(const std::vector<double>& sorted, double q) {
  const double at = q * static_cast<double>(sorted.size() - 1);
  const auto low = static_cast<std::size_t>(at);
  const std::size_t high = std::min(low + 1, sorted.size() - 1);
  return sorted[low] + (at - static_cast<double>(low)) * (sorted[high] - sorted[low]);
}

/// Median of log(a / b) over rounds and the half width of its 95% band.
struct Ratio {
  double log_median = 0;
  double half_band = 0;
};

Ratio compare(std::span<const double> a, std::span<const double> b) {
  std::vector<double> logs;
  for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i)
    logs.push_back(std::log(a[i] / b[i]));
  const Timing t = summarize(logs);
  // Of a normal distribution the half IQR is 0.6745 sigma and the median's standard error
  // 1.2533 sigma / sqrt(n).
  const double standard_error =
      1.2533 * t.spread_us / 0.6745 / std::sqrt(static_cast<double>(t.num_samples));
  // So few rounds (the deadline came early) say nothing of their own spread: 5% then.
  return {t.median_us, t.num_samples < 8 ? 0.05 : 1.96 * standard_error};
}

/// The search in progress: one Trial and one list of samples for every candidate.
class Search {
 public:
  Search(std::size_t num_candidates, TrialRunner& runner, const SearchOptions& options)
      : runner_(runner), options_(options), samples_(num_candidates) {
    result_.trials.resize(num_candidates);
    for (std::size_t i = 0; i < num_candidates; ++i) result_.trials[i].candidate = i;
  }

  SearchResult run() {
    std::vector<std::size_t> alive = qualify();
    alive = halve(std::move(alive));
    if (!alive.empty()) race(std::move(alive));
    for (Trial& trial : result_.trials) {
      if (const auto& samples = samples_[trial.candidate]; !samples.empty())
        trial.timing = summarize(samples);
      count(trial);
    }
    return std::move(result_);
  }

 private:
  bool late() const { return std::chrono::steady_clock::now() >= options_.deadline; }
  Trial& trial(std::size_t candidate) { return result_.trials[candidate]; }

  double median(std::size_t candidate) const { return summarize(samples_[candidate]).median_us; }

  void sort_by_time(std::vector<std::size_t>& candidates) const {
    std::vector<std::pair<double, std::size_t>> order;
    for (const std::size_t c : candidates) order.emplace_back(median(c), c);
    std::sort(order.begin(), order.end());  // equal times: the earlier candidate
    std::transform(order.begin(), order.end(), candidates.begin(),
                   [](const auto& entry) { return entry.second; });
  }

  /// False, with the verdict noted, if the candidate failed.
  bool measure(std::size_t candidate, int num_samples) {
    Verdict verdict = runner_.measure(candidate, num_samples, samples_[candidate]);
    if (verdict.status == TrialStatus::ok) {
      const auto& times = samples_[candidate];
      if (std::all_of(times.begin(), times.end(),
                      [](double us) { return us > 0 && std::isfinite(us); }))
        return true;
      verdict = {TrialStatus::launch_failed, "it took no time at all", 0};
    }
    trial(candidate).verdict = std::move(verdict);
    samples_[candidate].clear();
    return false;
  }

  bool build_and_gate(std::size_t candidate) {
    Verdict& verdict = trial(candidate).verdict;
    verdict = runner_.compile(candidate);
    if (verdict.status != TrialStatus::ok) return false;
    ++result_.num_compiled;
    verdict = runner_.gate(candidate);
    return verdict.status == TrialStatus::ok;
  }

  /// Step 1: the candidates that work, each timed a few times.
  std::vector<std::size_t> qualify() {
    std::vector<std::size_t> eligible;
    for (Trial& t : result_.trials) {
      if (auto reason = runner_.reject_reason(t.candidate)) {
        t.verdict = {TrialStatus::rejected, *std::move(reason), 0};
      } else {
        t.verdict = {TrialStatus::skipped,
                     fmt::format("only {} are compiled", options_.max_compiled), 0};
        eligible.push_back(t.candidate);
      }
    }
    const std::vector<std::size_t> chosen = choose_candidates(std::move(eligible), options_);
    for (const std::size_t c : chosen) trial(c).verdict = {};
    runner_.announce(chosen);
    std::vector<std::size_t> alive;
    for (const std::size_t c : chosen) {
      if (c != chosen.front() && !alive.empty() && late()) {
        trial(c).verdict = {TrialStatus::skipped, "the time was up", 0};
        continue;
      }
      if (build_and_gate(c) && measure(c, options_.quick_samples)) alive.push_back(c);
    }
    return alive;
  }

  /// Step 2: down to the finalists, the default among them.
  std::vector<std::size_t> halve(std::vector<std::size_t> alive) {
    const bool has_default = !alive.empty() && alive.front() == 0;
    const std::size_t target = options_.finalists + (has_default ? 1 : 0);
    int num_samples = options_.quick_samples;
    while (alive.size() > target) {
      sort_by_time(alive);
      const std::size_t keep = std::max(target, (alive.size() + 1) / 2);
      const bool dropped_default =
          has_default && std::find(alive.begin(), alive.begin() + static_cast<long>(keep), 0u) ==
                             alive.begin() + static_cast<long>(keep);
      alive.resize(keep);
      if (dropped_default) alive.back() = 0;
      if (late()) {
        alive.resize(std::min(alive.size(), target));
        if (has_default && std::find(alive.begin(), alive.end(), 0u) == alive.end())
          alive.back() = 0;
        break;
      }
      if (alive.size() == target) break;
      num_samples *= 2;
      std::erase_if(alive, [&](std::size_t c) { return !measure(c, num_samples); });
    }
    std::sort(alive.begin(), alive.end());
    return alive;
  }

  /// Steps 3 and 4.
  void race(std::vector<std::size_t> finalists) {
    const std::vector<std::vector<double>> before =
        std::exchange(samples_, std::vector<std::vector<double>>(samples_.size()));
    std::vector<std::size_t> running = finalists;
    for (int round = 1; round <= options_.max_rounds && !running.empty(); ++round) {
      std::vector<std::size_t> order = running;
      if (round % 2 == 0) std::reverse(order.begin(), order.end());
      for (const std::size_t c : order)
        if (!measure(c, 1)) {
          std::erase(running, c);
          std::erase(finalists, c);
        }
      if (late() || (round >= options_.min_rounds && settled(running))) break;
    }
    decide(finalists);
    // Those who did not reach the final keep their earlier samples for the report.
    for (std::size_t c = 0; c < samples_.size(); ++c)
      if (samples_[c].empty() && trial(c).verdict.status == TrialStatus::ok)
        samples_[c] = before[c];
  }

  std::size_t leader(const std::vector<std::size_t>& candidates) const {
    return *std::min_element(candidates.begin(), candidates.end(),
                             [&](std::size_t a, std::size_t b) { return median(a) < median(b); });
  }

  /// Sends those home that are certain to have lost; true once no further round could change much.
  bool settled(std::vector<std::size_t>& running) const {
    if (running.size() < 2) return true;
    const std::size_t best = leader(running);
    bool narrow = true;
    std::erase_if(running, [&](std::size_t c) {
      if (c == best) return false;
      const Ratio ratio = compare(samples_[c], samples_[best]);
      // Twice the band: this is asked once a round, and a wrong answer cannot be taken back.
      if (c != 0 && ratio.log_median - 2 * ratio.half_band > options_.min_gain) return true;
      // The default runs on for its time in the record, but nothing hangs on it once it has lost.
      const bool lost = ratio.log_median - 2 * ratio.half_band > options_.min_gain;
      narrow = narrow && (lost || ratio.half_band < options_.band_target);
      return false;
    });
    return narrow;
  }

  void decide(const std::vector<std::size_t>& finalists) {
    if (finalists.empty()) return;
    // Only those that ran to the end: a dropped candidate's samples are few and older.
    std::size_t most = 0;
    for (const std::size_t c : finalists) most = std::max(most, samples_[c].size());
    std::vector<std::size_t> last;
    for (const std::size_t c : finalists)
      if (samples_[c].size() == most) last.push_back(c);
    const std::size_t best = leader(last);
    std::size_t winner = best;
    for (const std::size_t c : last) {  // in order: the default, then the earlier
      const Ratio ratio = compare(samples_[c], samples_[best]);
      if (c == best || ratio.log_median < std::max(ratio.half_band, options_.min_gain)) {
        winner = c;
        break;
      }
    }
    result_.winner = winner;
    result_.timing = summarize(samples_[winner]);
    result_.error = trial(winner).verdict.error;
    if (finalists.front() == 0) result_.default_us = median(0);
  }

  void count(const Trial& t) {
    switch (t.verdict.status) {
      case TrialStatus::ok:
        ++result_.num_measured;
        break;
      case TrialStatus::rejected:
        ++result_.num_rejected;
        break;
      case TrialStatus::skipped:
        break;
      case TrialStatus::blocked:
        ++result_.num_blocked;
        break;
      default:
        ++result_.num_failed;
    }
  }

  TrialRunner& runner_;
  const SearchOptions& options_;
  std::vector<std::vector<double>> samples_;
  SearchResult result_;
};

}  // namespace

std::string_view name(TrialStatus status) {
  switch (status) {
    case TrialStatus::ok:
      return "ok";
    case TrialStatus::rejected:
      return "rejected";
    case TrialStatus::compile_failed:
      return "compile_failed";
    case TrialStatus::launch_failed:
      return "launch_failed";
    case TrialStatus::wrong_result:
      return "wrong_result";
    case TrialStatus::unstable_result:
      return "unstable_result";
    case TrialStatus::faulted:
      return "faulted";
    case TrialStatus::timed_out:
      return "timed_out";
    case TrialStatus::blocked:
      return "blocked";
    case TrialStatus::skipped:
      return "skipped";
  }
  return "unknown";
}

std::optional<TrialStatus> parse_trial_status(std::string_view text) {
  for (int i = 0; i <= static_cast<int>(TrialStatus::skipped); ++i)
    if (const auto status = static_cast<TrialStatus>(i); name(status) == text) return status;
  return std::nullopt;
}

std::string_view name(SearchStrategy strategy) {
  switch (strategy) {
    case SearchStrategy::ranked:
      return "ranked";
    case SearchStrategy::exhaustive:
      return "exhaustive";
    case SearchStrategy::random:
      return "random";
  }
  return "unknown";
}

std::optional<SearchStrategy> parse_search_strategy(std::string_view text) {
  for (const auto strategy :
       {SearchStrategy::ranked, SearchStrategy::exhaustive, SearchStrategy::random})
    if (text == name(strategy)) return strategy;
  return std::nullopt;
}

std::vector<std::size_t> choose_candidates(std::vector<std::size_t> eligible,
                                           const SearchOptions& options) {
  if (options.strategy == SearchStrategy::exhaustive || eligible.size() <= options.max_compiled)
    return eligible;
  if (options.strategy == SearchStrategy::random) {
    // A partial shuffle by hand: std::sample and std::shuffle differ between standard libraries.
    // The order drawn is kept, so that what a deadline leaves is a random sample too.
    std::mt19937 random(options.seed);
    for (std::size_t i = eligible.front() == 0 ? 1 : 0; i < options.max_compiled; ++i)
      std::swap(eligible[i], eligible[i + random() % (eligible.size() - i)]);
  }
  eligible.resize(options.max_compiled);
  return eligible;
}

Timing summarize(std::vector<double> samples) {
  if (samples.empty()) return {};
  std::sort(samples.begin(), samples.end());
  return {quantile(samples, 0.5), (quantile(samples, 0.75) - quantile(samples, 0.25)) / 2,
          static_cast<int>(samples.size())};
}

SearchResult search(std::size_t num_candidates, TrialRunner& runner, const SearchOptions& options) {
  return Search(num_candidates, runner, options).run();
}

}  // namespace quern
