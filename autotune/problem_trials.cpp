#include "autotune/problem_trials.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "runtime/base/error.h"
#include "runtime/base/log.h"

namespace quern {
namespace {

/// In the log, of a vendor library's routine: it has no image.
constexpr const char* kNoImage = "00000000000000000000000000000000";

/// Adds the time of a scope, the bench's waits for its turn apart.
class Stopwatch {
 public:
  Stopwatch(double& seconds, double& wait, const TrialBench& bench)
      : seconds_(seconds), wait_(wait), bench_(bench), waited_(bench.seconds_waited()) {}
  ~Stopwatch() {
    const double waited = bench_.seconds_waited() - waited_;
    wait_ += waited;
    seconds_ +=
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count() - waited;
  }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;

 private:
  double &seconds_, &wait_;
  const TrialBench& bench_;
  double waited_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

/// A candidate that spills more is not worth the GPU's time; the default runs whatever it does.
constexpr int kSpillBytes = 32;

bool takes_a_process_down(TrialStatus status) {
  return status == TrialStatus::faulted || status == TrialStatus::timed_out ||
         status == TrialStatus::launch_failed;
}

}  // namespace

TrialTimes& TrialTimes::operator+=(const TrialTimes& other) {
  open += other.open;
  compile += other.compile;
  gate += other.gate;
  measure += other.measure;
  wait += other.wait;
  return *this;
}

Candidates::Candidates(KernelCatalog& catalog, const KernelRequest& request,
                       std::span<const Params> known)
    : family_(catalog.families().at(request.family)),
      problem_(request.problem),
      known_(!known.empty()) {
  const Arch& arch = catalog.arch();
  const auto add = [&](Params config) {
    if (std::find(configs_.begin(), configs_.end(), config) == configs_.end())
      configs_.push_back(std::move(config));
  };
  add(catalog.default_config(family_, problem_));
  for (Params& config : catalog.seeds(family_, problem_)) add(std::move(config));
  for (const Params& config : known) add(config);
  RankedSpace ranked;  // each of its configs once
  if (known.empty()) ranked = family_.ranked_space(problem_, arch);
  // What a vendor's library would take by itself is in the race whatever the model thinks of it.
  const auto vendors =
      std::find_if(ranked.configs.begin(), ranked.configs.end(),
                   [&](const Params& config) { return family_.is_library(config); });
  if (vendors != ranked.configs.end()) add(*vendors);
  std::vector<double> estimates_us;
  for (const Params& config : configs_)
    estimates_us.push_back(family_.estimate_us(problem_, config, arch));
  const auto num_first = static_cast<std::ptrdiff_t>(configs_.size());
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
  for (const Params& config : configs_) {
    std::optional<Verdict>& refusal = refusals_.emplace_back();
    // Whether a vendor's library has this routine is the bench's to say: it has the device.
    if (auto reason = quern::refusal(family_, problem_, config, arch))
      refusal = {TrialStatus::rejected, *std::move(reason), 0};
    else if (auto before = catalog.blocked(family_, problem_, config))
      refusal = {TrialStatus::blocked, *std::move(before), 0};
  }
  submitted_.resize(configs_.size());
  tickets_.resize(configs_.size());
}

void Candidates::submit_ahead(const Arch& arch, const SearchOptions& options,
                              CompileQueue& compiles) {
  if (const Params reference = family_.reference_config(problem_); !reference.is_null())
    reference_ticket_ = compiles.submit(compile_request(family_, problem_, reference, arch));
  std::vector<std::size_t> eligible;
  for (std::size_t i = 0; i < configs_.size(); ++i)
    if (!refusals_[i]) eligible.push_back(i);
  submit(arch, choose_candidates(std::move(eligible), options, space_), compiles);
}

void Candidates::submit(const Arch& arch, std::span<const std::size_t> chosen,
                        CompileQueue& compiles, int priority) {
  for (const std::size_t i : chosen) {
    if (submitted_[i]) continue;
    submitted_[i] = true;
    if (!family_.is_library(configs_[i]))
      tickets_[i] =
          compiles.submit(compile_request(family_, problem_, configs_[i], arch), priority);
  }
}

void Candidates::wait_for_reference(CompileQueue& compiles) const {
  if (!reference_ticket_) return;
  const CompileOutcome outcome = compiles.take(*reference_ticket_);
  if (!outcome.kernel) throw CompileError(outcome.error, outcome.log);
}

ProblemTrials::ProblemTrials(TrialStores& stores, Candidates& candidates, CompileQueue& compiles,
                             TrialBench& bench,
                             std::function<void(const ProblemTrials&)> on_step)
    : stores_(stores),
      candidates_(candidates),
      compiles_(compiles),
      bench_(bench),
      on_step_(std::move(on_step)),
      states_(candidates.configs().size()) {
  const Stopwatch watch(times_.open, times_.wait, bench_);
  bench_.open(family_name(), candidates_.problem(), candidates_.configs());
}

ProblemTrials::~ProblemTrials() {
  try {
    bench_.close();
  } catch (const std::exception& error) {
    log(LogLevel::warning, error.what());
  }
}

std::optional<std::string> ProblemTrials::reject_reason(std::size_t i) {
  const auto& refusal = candidates_.refusal(i);
  if (!refusal) return std::nullopt;
  return refusal->reason;
}

void ProblemTrials::announce(std::span<const std::size_t> chosen) {
  constexpr int kNow = 1;  // before what compiles for problems whose turn is still to come
  candidates_.submit(stores_.catalog.arch(), chosen, compiles_, kNow);
}

Verdict ProblemTrials::compile(std::size_t i) {
  const Stopwatch watch(times_.compile, times_.wait, bench_);
  State& state = states_[i];
  if (std::exchange(state.compiled, true)) return {};
  std::optional<CompileOutcome> outcome;
  state.key = kNoImage;
  if (const auto ticket = candidates_.ticket(i)) {
    outcome = compiles_.take(*ticket);
    if (!outcome->kernel) return {TrialStatus::compile_failed, outcome->error, 0};
    state.key = outcome->kernel->key;
    if (const int spilled = outcome->kernel->image.report.spill_store_bytes;
        i != 0 && spilled > kSpillBytes)
      return {TrialStatus::rejected, fmt::format("{} bytes of registers are spilled", spilled), 0};
  }
  {
    const std::lock_guard lock(stores_.mutex);
    const TrialEntry* before = stores_.log.find(family_name(), candidates_.problem(),
                                                candidates_.configs()[i], state.key);
    const auto status = before ? parse_trial_status(before->status) : std::nullopt;
    if (status && (*status != TrialStatus::ok || !before->samples_us.empty())) {
      state.resumed = state.logged = true;
      state.error = before->error;
      state.samples_us = before->samples_us;
      ++num_resumed_;
      if (*status != TrialStatus::ok) return {*status, before->reason, before->error};
    }
  }
  const Verdict verdict = bench_.load(i, outcome ? &*outcome->kernel : nullptr);
  if (verdict.status != TrialStatus::ok) keep(i, verdict, {});
  return verdict;
}

Verdict ProblemTrials::gate(std::size_t i) {
  State& state = states_[i];
  if (state.resumed) return {TrialStatus::ok, "", state.error};
  const Stopwatch watch(times_.gate, times_.wait, bench_);
  const Verdict verdict = bench_.gate(i);
  state.error = verdict.error;
  if (verdict.status != TrialStatus::ok) keep(i, verdict, {});
  return verdict;
}

Verdict ProblemTrials::measure(std::size_t i, int num_samples, std::vector<double>& samples_us) {
  State& state = states_[i];
  if (state.resumed && !state.samples_us.empty()) {  // once: later samples are taken afresh
    samples_us.insert(samples_us.end(), state.samples_us.begin(), state.samples_us.end());
    note_time(i, state.samples_us);
    state.samples_us.clear();
    return {TrialStatus::ok, "", state.error};
  }
  const Stopwatch watch(times_.measure, times_.wait, bench_);
  const std::size_t before = samples_us.size();
  Verdict verdict = bench_.measure(i, num_samples, samples_us);
  const std::span<const double> fresh = std::span(samples_us).subspan(before);
  if (verdict.status == TrialStatus::ok) verdict.error = state.error;
  if (verdict.status != TrialStatus::ok || !state.logged) keep(i, verdict, fresh);
  if (verdict.status == TrialStatus::ok) note_time(i, fresh);
  return verdict;
}

void ProblemTrials::note_time(std::size_t i, std::span<const double> samples_us) {
  const double us = summarize({samples_us.begin(), samples_us.end()}).median_us;
  if (i == 0) default_us_ = us;
  best_us_ = best_us_ == 0 ? us : std::min(best_us_, us);
  if (on_step_) on_step_(*this);
}

void ProblemTrials::keep(std::size_t i, const Verdict& verdict,
                         std::span<const double> samples_us) {
  State& state = states_[i];
  state.logged = true;
  ++num_tried_;
  if (on_step_) on_step_(*this);
  const Params& config = candidates_.configs()[i];
  try {
    const std::lock_guard lock(stores_.mutex);
    if (!stores_.log_works) return;
    stores_.log.append({family_name(), candidates_.problem(), config, state.key,
                        std::string(name(verdict.status)), verdict.reason, verdict.error,
                        {samples_us.begin(), samples_us.end()}});
    if (takes_a_process_down(verdict.status))
      stores_.catalog.block({family_name(), candidates_.problem(), config,
                             stores_.catalog.template_hash_of(candidates_.family(),
                                                              candidates_.problem(), config),
                             std::string(name(verdict.status)), verdict.reason, ""});
  } catch (const InputError& error) {
    const std::lock_guard lock(stores_.mutex);
    stores_.log_works = false;  // one warning will do: it costs the next run time, no more
    log(LogLevel::warning, error.what());
  }
}

void ProblemTrials::warm_up(double seconds) {
  if (candidates_.refusal(0)) return;
  const std::size_t only_default = 0;
  announce({&only_default, 1});
  if (compile(0).status == TrialStatus::ok && gate(0).status == TrialStatus::ok) keep_busy(seconds);
}

void ProblemTrials::keep_busy(double seconds) {
  using Clock = std::chrono::steady_clock;
  const Stopwatch watch(times_.measure, times_.wait, bench_);
  const auto end = Clock::now() + std::chrono::duration<double>(seconds);
  for (std::vector<double> ignored; Clock::now() < end;)
    if (bench_.measure(0, 8, ignored).status != TrialStatus::ok) return;
}

bool ProblemTrials::settle() {
  // Tensor cores at work draw more than the board may, so that clocks fall within some 10 ms; a
  // config that is fastest in a short burst may then lose to one that reads less.
  constexpr double kIntensity = 100;  // operations a byte, half of what a Hopper balances
  constexpr double kSeconds = 0.08;
  const Cost cost = candidates_.family().cost(candidates_.problem());
  if (default_us_ == 0 || cost.flops <= kIntensity * cost.bytes) return false;
  keep_busy(kSeconds);
  return true;
}

}  // namespace quern
