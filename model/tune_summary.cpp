#include "model/tune_summary.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "runtime/base/error.h"

namespace quern {

using Outcome = ProblemReport::Outcome;

std::vector<ProblemFacts> facts_of(KernelLibrary& library, const TuneReport& report,
                                   const Roofs& roofs) {
  std::vector<ProblemFacts> all;
  for (const ProblemReport& problem : report.problems) {
    ProblemFacts facts;
    try {
      const Family& family = library.families().at(problem.family);
      facts.roof_us = roofs.least_us(family, problem.problem);
      facts.default_config = library.default_config(family, problem.problem);
    } catch (const InputError&) {
      // An unsupported problem: its report says so.
    }
    all.push_back(std::move(facts));
  }
  return all;
}

bool has_record(const ProblemReport& problem) {
  return problem.outcome == Outcome::tuned || problem.outcome == Outcome::recorded;
}

double percent_of_roof(const ProblemReport& problem, const ProblemFacts& facts) {
  const double us = problem.record.median_us;
  return has_record(problem) && us > 0 ? 100 * facts.roof_us / us : 0;
}

double speed_up(const ProblemReport& problem) {
  const TuningRecord& record = problem.record;
  return has_record(problem) && record.median_us > 0 ? record.default_us / record.median_us : 0;
}

std::vector<std::string> short_problems(const TuneReport& report) {
  const auto group_of = [](const ProblemReport& problem) {
    const auto kernel = problem.problem.find("kernel");
    return kernel == problem.problem.end() ? problem.family
                                           : problem.family + " " + to_text({{"kernel", *kernel}});
  };
  std::map<std::string, std::vector<const ProblemReport*>> groups;
  for (const ProblemReport& problem : report.problems)
    groups[group_of(problem)].push_back(&problem);
  std::vector<std::string> texts;
  for (const ProblemReport& problem : report.problems) {
    const std::string group_name = group_of(problem);
    const auto& group = groups.at(group_name);
    Params telling = Params::object();
    for (const auto& [key, value] : problem.problem.items())
      if (group.size() == 1 || std::any_of(group.begin(), group.end(), [&](const auto* other) {
            const auto theirs = other->problem.find(key);
            return theirs == other->problem.end() || *theirs != value;
          }))
        telling[key] = value;
    if (group_name != problem.family) telling.erase("kernel");  // the group has it
    texts.push_back(group_name + (telling.empty() ? "" : " ") + to_text(telling));
  }
  return texts;
}

std::string config_difference(const Params& config, const Params& default_config) {
  if (!config.is_object() || !default_config.is_object()) return to_text(config);
  const auto differs = [&](const auto& item) {
    const auto usual = default_config.find(item.key());
    return usual == default_config.end() || *usual != item.value();
  };
  const auto kernel = config.find("kernel");
  const bool other_kernel = kernel != config.end() && differs(kernel);
  Params changed = Params::object();
  for (auto item = config.begin(); item != config.end(); ++item)
    if (differs(item) && !(other_kernel && item.value() == 0)) changed[item.key()] = item.value();
  return changed.empty() ? "default" : to_text(changed);
}

std::string us_text(double us) {
  if (us < 10) return fmt::format("{:.2f}", us);
  if (us < 100) return fmt::format("{:.1f}", us);
  std::string text = fmt::format("{:.0f}", us);
  for (std::size_t i = text.size(); i > 3; i -= 3) text.insert(i - 3, ",");
  return text;
}

std::string spread_text(double us) {
  return us > 0 && us < 1 ? fmt::format("{:.2g}", us) : us_text(us);
}

bool has_failed(const Trial& trial) {
  const TrialStatus status = trial.verdict.status;
  return status != TrialStatus::ok && status != TrialStatus::rejected &&
         status != TrialStatus::skipped;
}

std::vector<FailureKind> failures_of(const TuneReport& report) {
  std::map<std::string, std::map<std::string, FailureKind::Reason>> by_kind;
  for (const ProblemReport& problem : report.problems)
    for (const Trial& trial : problem.search.trials) {
      if (!has_failed(trial)) continue;
      FailureKind::Reason& reason =
          by_kind[std::string(name(trial.verdict.status))][trial.verdict.reason];
      if (reason.count++ > 0) continue;
      reason.text = trial.verdict.reason;
      reason.example = fmt::format("{} {} | {}", problem.family, to_text(problem.problem),
                                   to_text(problem.configs.at(trial.candidate)));
    }
  const auto more_frequent = [](const auto& a, const auto& b) { return a.count > b.count; };
  std::vector<FailureKind> kinds;
  for (auto& [kind, reasons] : by_kind) {
    FailureKind all{kind, 0, {}};
    for (auto& [text, reason] : reasons) {
      all.count += reason.count;
      all.reasons.push_back(std::move(reason));
    }
    std::stable_sort(all.reasons.begin(), all.reasons.end(), more_frequent);
    kinds.push_back(std::move(all));
  }
  std::stable_sort(kinds.begin(), kinds.end(), more_frequent);
  return kinds;
}

TuneTotals totals_of(const TuneReport& report) {
  TuneTotals totals;
  double sum_of_logs = 0;
  std::size_t compared = 0;
  for (const ProblemReport& problem : report.problems) {
    totals.tuned += problem.outcome == Outcome::tuned;
    totals.recorded += problem.outcome == Outcome::recorded;
    totals.failed += problem.outcome == Outcome::failed;
    totals.out_of_time += problem.outcome == Outcome::out_of_time;
    if (const double gain = speed_up(problem); gain > 0) {
      sum_of_logs += std::log(gain);
      ++compared;
    }
  }
  totals.tried = report.measured + report.failed;
  if (compared > 0) totals.geomean_speed_up = std::exp(sum_of_logs / static_cast<double>(compared));
  return totals;
}

}  // namespace quern
