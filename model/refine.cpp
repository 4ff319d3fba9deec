#include "model/refine.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "autotune/problem.h"
#include "autotune/trial_order.h"
#include "model/forward.h"

namespace quern {
namespace {

// After so many rounds a rival that does not at least draw level, to within the noise, is sent home.
constexpr int kQualifyingRounds = 3;
constexpr double kBehind = 0.002;  // of the step

/// Decode steps of one batch size, timed by events; every config set is captured as a graph of its
/// own, so that the rivals can take turns.
class StepRace {
 public:
  StepRace(GpuModel& model, int batch, int context)
      : model_(model), batch_(batch), context_(context), tokens_(static_cast<std::size_t>(batch), 1) {
    model_.reset();
    for (int s = 0; s < batch; ++s) model_.reserve(s, context + 1);
  }

  /// Captures the step with the kernels that the library serves now.
  GraphExec capture() { return model_.capture_decode(batch_); }

  /// A step with a short and one with a long past, averaged: one config serves both.
  double time_us(const GraphExec& graph) {
    double sum = 0;
    for (const int context : {context_ / 8, context_}) {
      // Every replay starts from the same lengths.
      model_.set_next(tokens_, context);
      const Event start, end;
      start.record(model_.stream());
      graph.launch(model_.stream());
      end.record(model_.stream());
      end.synchronize();
      sum += static_cast<double>(end.us_since(start));
    }
    return sum / 2;
  }

 private:
  GpuModel& model_;
  int batch_, context_;
  std::vector<std::int32_t> tokens_;
};

struct Contest {
  ProblemReport* report;
  double share_us;                // of the step
  std::vector<std::size_t> rivals;  // candidates other than the winner, fastest first
};

std::vector<Contest> contests(const ModelConfig& config, GpuModel& model, TuneReport& report,
                              int batch, const RefineOptions& options) {
  std::map<std::string, int> counts;
  for (const ModelProblem& p :
       step_problems(config, model.dtype(), model.weights().addresses(), decode_shape(batch),
                     model.fusion(decode_shape(batch)).fusion))
    counts[p.family + to_key(p.problem)] = p.count;
  std::vector<Contest> out;
  for (ProblemReport& p : report.problems) {
    const auto count = counts.find(p.family + to_key(p.problem));
    if (count == counts.end() || p.outcome != ProblemReport::Outcome::tuned) continue;
    Contest contest{&p, count->second * p.record.median_us, {}};
    for (const Trial* t : fastest_trials(p.search))
      if (contest.rivals.size() < options.max_rivals &&
          p.configs[t->candidate] != p.record.config &&
          t->timing.median_us < p.record.median_us * (1 + options.near_tie))
        contest.rivals.push_back(t->candidate);
    if (!contest.rivals.empty()) out.push_back(std::move(contest));
  }
  std::stable_sort(out.begin(), out.end(), [](const Contest& a, const Contest& b) {
    return a.share_us > b.share_us;
  });
  return out;
}

}  // namespace

std::vector<Refinement> refine_decode(GpuSession& session, GpuModel& model,
                                      const ModelConfig& config, TuneReport& report, int batch,
                                      const RefineOptions& options) {
  KernelLibrary& kernels = session.kernels();
  model.forget_graphs();  // the step is what records make it now
  StepRace race(model, batch, options.context);
  GraphExec best = race.capture();
  for (int i = 0; i < 20; ++i) race.time_us(best);  // clocks settle
  std::vector<Refinement> changes;
  for (const Contest& contest : contests(config, model, report, batch, options)) {
    if (std::chrono::steady_clock::now() >= options.deadline) break;
    ProblemReport& p = *contest.report;
    const Family& family = kernels.families().at(p.family);
    if (options.progress)
      options.progress(fmt::format("re-ranking {} {} in the step of batch {}", p.family,
                                   to_text(p.problem), batch));
    std::vector<GraphExec> graphs;
    for (const std::size_t rival : contest.rivals) {
      kernels.serve(family, p.problem, p.configs[rival]);
      graphs.push_back(race.capture());
    }
    std::vector<std::vector<double>> samples(graphs.size() + 1);
    std::vector<bool> running(graphs.size(), true);
    for (int round = 0; round < options.rounds; ++round) {
      if (round == kQualifyingRounds) {
        const double limit_us = summarize(samples[0]).median_us * (1 + kBehind);
        for (std::size_t i = 0; i < graphs.size(); ++i)
          running[i] = summarize(samples[i + 1]).median_us < limit_us;
        if (std::find(running.begin(), running.end(), true) == running.end()) break;
      }
      samples[0].push_back(race.time_us(best));
      for (std::size_t i = 0; i < graphs.size(); ++i)
        if (running[i]) samples[i + 1].push_back(race.time_us(graphs[i]));
    }
    std::size_t winner = 0;
    double winner_us = summarize(samples[0]).median_us * (1 - options.min_gain);
    for (std::size_t i = 1; i < samples.size(); ++i)
      if (const double us = summarize(samples[i]).median_us; running[i - 1] && us < winner_us) {
        winner = i;
        winner_us = us;
      }
    TuningRecord record = p.record;
    if (winner > 0) {
      const std::size_t rival = contest.rivals[winner - 1];
      changes.push_back({p.family, p.problem, p.record.config, p.configs[rival],
                         summarize(samples[0]).median_us, winner_us});
      record.config = p.configs[rival];
      record.template_hash = kernels.template_hash_of(family, p.problem, record.config);
      const Trial& trial = p.search.trials[rival];
      record.median_us = trial.timing.median_us;
      record.spread_us = trial.timing.spread_us;
      record.num_samples = trial.timing.num_samples;
      record.error = std::min(1.0, trial.verdict.error);
      best = std::move(graphs[winner - 1]);
      kernels.record(record);  // get() serves it from now on
      p.record = std::move(record);
    } else {
      kernels.forget(family, p.problem);  // the record counts again
    }
  }
  model.forget_graphs();
  model.reset();
  return changes;
}

}  // namespace quern
