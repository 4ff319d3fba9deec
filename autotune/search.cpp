#include "autotune/search.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
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

/// The analytic model corrected by what has been timed, and what it makes the search try next.
class Preference {
 public:
  Preference(std::size_t num_candidates, const SearchSpace& space)
      : surrogate_(num_candidates, space), num_first_(space.num_first) {}

  /// The first wave, in ascending order of what is expected.
  std::vector<std::size_t> first(std::vector<std::size_t> open, std::size_t count) {
    std::vector<std::size_t> out;
    while (!open.empty() && open.front() < num_first_ && out.size() < count) {
      surrogate_.believe(open.front());
      out.push_back(open.front());
      open.erase(open.begin());
    }
    append_promising(std::move(open), count - out.size(), out);
    return out;
  }

  /// A further wave, given the times of those `timed`, the deviation of their logarithms, those
  /// that `failed`, and those that are `waiting` for their turn.
  std::vector<std::size_t> next(std::vector<std::size_t> open, std::size_t count,
                                std::span<const std::pair<std::size_t, double>> timed,
                                double deviation, std::span<const std::size_t> failed,
                                std::span<const std::size_t> waiting) {
    surrogate_.reset();
    double slowest = 0;
    for (const auto& [candidate, us] : timed) {
      surrogate_.observe(candidate, us, deviation);
      slowest = std::max(slowest, us);
    }
    // A failure says that its like may fail too: worth as much as being slow.
    if (slowest > 0)
      for (const std::size_t candidate : failed) surrogate_.observe(candidate, slowest, kDoubt);
    for (const std::size_t candidate : waiting) surrogate_.believe(candidate);
    std::vector<std::size_t> out;
    append_promising(std::move(open), count, out);
    return out;
  }

 private:
  static constexpr double kOptimism = 2.0;  // standard deviations
  static constexpr double kDoubt = 0.5;     // of the logarithm of a failure's time

  void append_promising(std::vector<std::size_t> open, std::size_t count,
                        std::vector<std::size_t>& out) {
    for (; count > 0 && !open.empty(); --count) {
      const std::size_t best = surrogate_.most_promising(open, kOptimism);
      surrogate_.believe(best);
      out.push_back(best);
      std::erase(open, best);
    }
  }

  Surrogate surrogate_;
  std::size_t num_first_;
};

constexpr int kSamplesARound = 2;  // of the final: the first replay after another kernel is not timed
constexpr std::size_t kFirstShare = 2;  // the first wave is this part of what is allowed
constexpr std::size_t kFurtherWaves = 3;

bool learns(const SearchOptions& options, const SearchSpace& space) {
  return options.strategy == SearchStrategy::ranked && !space.tells_nothing();
}

/// The search in progress: one Trial and one list of samples for every candidate.
class Search {
 public:
  Search(std::size_t num_candidates, TrialRunner& runner, const SearchOptions& options,
         const SearchSpace& space)
      : runner_(runner), options_(options), space_(space), samples_(num_candidates) {
    result_.trials.resize(num_candidates);
    for (std::size_t i = 0; i < num_candidates; ++i) result_.trials[i].candidate = i;
  }

  SearchResult run() {
    std::vector<std::size_t> alive = qualify();
    if (alive.size() > 1 && runner_.settle())
      alive = halve_by_rounds(std::move(alive));
    else
      alive = halve(std::move(alive));
    if (alive.size() > 1) runner_.settle();
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

  /// Step 1: the candidates that work, each timed a few times unless it is beaten at once.
  std::vector<std::size_t> qualify() {
    std::vector<std::size_t> eligible;
    for (Trial& t : result_.trials)
      if (auto reason = runner_.reject_reason(t.candidate))
        t.verdict = {TrialStatus::rejected, *std::move(reason), 0};
      else
        eligible.push_back(t.candidate);
    const std::size_t allowed = allowed_candidates(eligible.size(), options_);
    for (const std::size_t c : eligible)
      trial(c).verdict = {TrialStatus::skipped, fmt::format("only {} are compiled", allowed), 0};
    std::vector<std::size_t> queue = choose_candidates(eligible, options_, space_);
    for (const std::size_t c : queue) std::erase(eligible, c);
    runner_.announce(queue);
    std::optional<Preference> preference;
    if (learns(options_, space_) && queue.size() < allowed)
      preference.emplace(samples_.size(), space_);
    const std::size_t wave =
        std::max<std::size_t>(1, (allowed - std::min(allowed, queue.size())) / kFurtherWaves);

    std::vector<std::size_t> alive, failed;
    double best_us = std::numeric_limits<double>::infinity();
    for (std::size_t turn = 0; turn < queue.size(); ++turn) {
      const std::size_t c = queue[turn];
      if (turn > 0 && !alive.empty() && late()) {
        for (; turn < queue.size(); ++turn)
          trial(queue[turn]).verdict = {TrialStatus::skipped, "the time was up", 0};
        break;
      }
      trial(c).verdict = {};
      if (!build_and_gate(c) || !measure(c, 1)) {
        failed.push_back(c);
      } else if (c == 0 || samples_[c].front() < options_.hopeless * best_us) {
        if (options_.quick_samples < 2 || measure(c, options_.quick_samples - 1)) {
          alive.push_back(c);
          best_us = std::min(best_us, median(c));
        } else {
          failed.push_back(c);
        }
      }
      // The next wave compiles while the rest of this one is measured.
      if (!preference || queue.size() >= allowed || queue.size() - turn - 1 > wave / 2) continue;
      const auto waiting = std::span(queue).subspan(turn + 1);
      const std::vector<std::size_t> more =
          preference->next(eligible, std::min(wave, allowed - queue.size()), timed(),
                           deviation(alive), failed, waiting);
      if (more.empty()) continue;
      for (const std::size_t chosen : more) std::erase(eligible, chosen);
      runner_.announce(more);
      queue.insert(queue.end(), more.begin(), more.end());
    }
    return alive;
  }

  /// Median times so far.
  std::vector<std::pair<std::size_t, double>> timed() const {
    std::vector<std::pair<std::size_t, double>> out;
    for (std::size_t c = 0; c < samples_.size(); ++c)
      if (!samples_[c].empty()) out.emplace_back(c, median(c));
    return out;
  }

  /// Standard deviation of the logarithm of a quick median: the typical one of the candidates.
  double deviation(const std::vector<std::size_t>& candidates) const {
    std::vector<double> relative;
    for (const std::size_t c : candidates) {
      const Timing t = summarize(samples_[c]);
      if (t.num_samples >= 3) relative.push_back(t.spread_us / t.median_us);
    }
    constexpr double kLeast = 0.01, kMost = 0.2, kUsual = 0.03, kHalfIqr = 0.6745;
    if (relative.empty()) return kUsual;
    const double each = summarize(relative).median_us / kHalfIqr;
    return std::clamp(each / std::sqrt(options_.quick_samples), kLeast, kMost);
  }

  /// Step 2: down to the finalists, the default among them.
  std::vector<std::size_t> halve(std::vector<std::size_t> alive) {
    const std::size_t target = num_finalists(alive);
    int num_samples = options_.quick_samples;
    while (alive.size() > target) {
      sort_by_time(alive);
      alive = better_half(std::move(alive), target);
      if (alive.size() == target) break;
      num_samples *= 2;
      std::erase_if(alive, [&](std::size_t c) { return !measure(c, num_samples); });
    }
    std::sort(alive.begin(), alive.end());
    return alive;
  }

  /// Step 2 where clocks fall: times are compared within a round, and what was timed before, at
  /// other clocks, counts no longer.
  std::vector<std::size_t> halve_by_rounds(std::vector<std::size_t> alive) {
    const std::size_t target = num_finalists(alive);
    int num_rounds = options_.quick_samples;
    while (alive.size() > target && !late()) {
      for (const std::size_t c : alive) samples_[c].clear();
      for (int round = 0; round < num_rounds; ++round) run_round(alive, round % 2 != 0);
      if (alive.empty()) break;
      // Of a round only the ratios count. Their median over the rounds is the place.
      std::vector<std::pair<double, std::size_t>> order;
      for (const std::size_t c : alive)
        order.emplace_back(compare(samples_[c], samples_[alive.front()]).log_median, c);
      std::sort(order.begin(), order.end());
      std::transform(order.begin(), order.end(), alive.begin(),
                     [](const auto& entry) { return entry.second; });
      alive = better_half(std::move(alive), target);
      std::sort(alive.begin(), alive.end());
      num_rounds *= 2;
    }
    if (alive.size() > target) {
      sort_by_time(alive);
      alive = better_half(std::move(alive), target);
    }
    std::sort(alive.begin(), alive.end());
    return alive;
  }

  std::size_t num_finalists(const std::vector<std::size_t>& alive) const {
    return options_.finalists + (!alive.empty() && alive.front() == 0 ? 1 : 0);
  }

  /// The first half of `sorted`, or `target` of them if that is more or the time is up, with the
  /// default in the last place if it would go.
  std::vector<std::size_t> better_half(std::vector<std::size_t> sorted, std::size_t target) const {
    const bool has_default = std::find(sorted.begin(), sorted.end(), 0u) != sorted.end();
    const std::size_t half = std::max(target, (sorted.size() + 1) / 2);
    sorted.resize(std::min(sorted.size(), late() ? target : half));
    if (has_default && std::find(sorted.begin(), sorted.end(), 0u) == sorted.end())
      sorted.back() = 0;
    return sorted;
  }

  /// Everybody once, who fails being struck off.
  void run_round(std::vector<std::size_t>& running, bool backwards) {
    std::vector<std::size_t> order = running;
    if (backwards) std::reverse(order.begin(), order.end());
    for (const std::size_t c : order)
      if (!measure(c, kSamplesARound)) std::erase(running, c);
  }

  /// Steps 3 and 4.
  void race(std::vector<std::size_t> finalists) {
    const std::vector<std::vector<double>> before =
        std::exchange(samples_, std::vector<std::vector<double>>(samples_.size()));
    std::vector<std::size_t> running = finalists;
    for (int round = 1; round <= options_.max_rounds && !running.empty(); ++round) {
      run_round(running, round % 2 == 0);
      std::erase_if(finalists, [&](std::size_t c) { return samples_[c].empty(); });
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
  const SearchSpace& space_;
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

std::size_t allowed_candidates(std::size_t num_eligible, const SearchOptions& options) {
  if (options.strategy == SearchStrategy::exhaustive) return num_eligible;
  const auto share =
      static_cast<std::size_t>(options.max_share * static_cast<double>(num_eligible));
  return std::min({num_eligible, options.max_compiled, std::max(share, options.min_compiled)});
}

std::vector<std::size_t> choose_candidates(std::vector<std::size_t> eligible,
                                           const SearchOptions& options, const SearchSpace& space) {
  const std::size_t allowed = allowed_candidates(eligible.size(), options);
  if (allowed == eligible.size()) return eligible;
  if (learns(options, space)) {
    const std::size_t num_candidates = std::max(space.estimates_us.size(), space.levels.size());
    const std::size_t count = std::max<std::size_t>(1, (allowed + 1) / kFirstShare);
    return Preference(num_candidates, space).first(std::move(eligible), count);
  }
  if (options.strategy == SearchStrategy::random) {
    // A partial shuffle by hand: std::sample and std::shuffle differ between standard libraries.
    // The order drawn is kept, so that what a deadline leaves is a random sample too.
    std::mt19937 random(options.seed);
    for (std::size_t i = eligible.front() == 0 ? 1 : 0; i < allowed; ++i)
      std::swap(eligible[i], eligible[i + random() % (eligible.size() - i)]);
  }
  eligible.resize(allowed);
  return eligible;
}

Timing summarize(std::vector<double> samples) {
  if (samples.empty()) return {};
  std::sort(samples.begin(), samples.end());
  return {quantile(samples, 0.5), (quantile(samples, 0.75) - quantile(samples, 0.25)) / 2,
          static_cast<int>(samples.size())};
}

SearchResult search(std::size_t num_candidates, TrialRunner& runner, const SearchOptions& options,
                    const SearchSpace& space) {
  return Search(num_candidates, runner, options, space).run();
}

}  // namespace quern
