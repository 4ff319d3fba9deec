#include "model/tune_table.h"

#include <fmt/format.h>

#include <vector>

#include "model/table.h"

namespace quern {
namespace {

constexpr std::size_t kMostReasons = 5;  // of one kind of failure
constexpr std::size_t kLongestProblem = 64;
constexpr std::size_t kLongestConfig = 72;  // characters
constexpr std::size_t kLongestReason = 160;

std::string shortened(std::string text, std::size_t most) {
  if (const auto line_end = text.find('\n'); line_end != text.npos) text.resize(line_end);
  if (text.size() > most) text = text.substr(0, most - 3) + "...";
  return text;
}

std::string number_or_dash(double value, const char* format) {
  return value > 0 ? fmt::format(fmt::runtime(format), value) : "-";
}

std::string energy_text(const std::optional<double>& mj) {
  return mj ? fmt::format("{:.3g}", *mj) : "-";
}

std::string config_text(const ProblemReport& problem, const ProblemFacts& facts,
                        const TuneTableOptions& options) {
  if (!has_record(problem))
    return fmt::format("{}{}{}", name(problem.outcome), problem.reason.empty() ? "" : ": ",
                       shortened(problem.reason, kLongestReason));
  if (options.full_names) return to_text(problem.record.config);
  return shortened(config_difference(problem.record.config, facts.default_config), kLongestConfig);
}

std::string totals_text(const TuneReport& report) {
  const TuneTotals totals = totals_of(report);
  std::string text = fmt::format("{} problems: {} tuned", report.problems.size(), totals.tuned);
  if (totals.recorded > 0) text += fmt::format(", {} tuned before", totals.recorded);
  if (totals.failed > 0) text += fmt::format(", {} failed", totals.failed);
  if (totals.out_of_time > 0) text += fmt::format(", {} out of time", totals.out_of_time);
  if (totals.geomean_speed_up > 0)
    text += fmt::format("; {:.2f}x the defaults in the geometric mean", totals.geomean_speed_up);
  text += fmt::format(
      "\n{} kernels compiled, {} candidates measured, {} rejected, {} failed, in {:.1f} s\n",
      report.compiled, report.measured, report.rejected, report.failed, report.seconds);
  return text;
}

std::string failures_text(const TuneReport& report) {
  std::string text;
  for (const FailureKind& kind : failures_of(report)) {
    text += fmt::format("{}: {}\n", kind.kind, kind.count);
    for (std::size_t i = 0; i < kind.reasons.size(); ++i) {
      if (i == kMostReasons) {
        text += fmt::format("  and {} other reasons\n", kind.reasons.size() - i);
        break;
      }
      const FailureKind::Reason& reason = kind.reasons[i];
      text += fmt::format("  {}x {} ({})\n", reason.count, shortened(reason.text, kLongestReason),
                          shortened(reason.example, kLongestReason));
    }
  }
  return text;
}

}  // namespace

std::string tune_table(const TuneReport& report, std::span<const ProblemFacts> facts,
                       const TuneTableOptions& options) {
  std::vector<std::string> header{"problem", "us", "+-", "% of roof", "default us", "speed-up"};
  if (options.energy) header.insert(header.end(), {"mJ", "default mJ"});
  header.insert(header.end(), {"tried/rejected/failed", "config"});
  const std::vector<std::string> problems = short_problems(report);
  Table table(std::move(header), /*prose=*/true);
  for (std::size_t i = 0; i < report.problems.size(); ++i) {
    const ProblemReport& p = report.problems[i];
    const bool known = has_record(p);
    std::vector<std::string> row{
        options.full_names ? p.family + " " + to_text(p.problem)
                           : shortened(problems[i], kLongestProblem),
        known ? us_text(p.record.median_us) : "-",
        known ? spread_text(p.record.spread_us) : "-",
        number_or_dash(percent_of_roof(p, facts[i]), "{:.0f}"),
        known && p.record.default_us > 0 ? us_text(p.record.default_us) : "-",
        number_or_dash(speed_up(p), "{:.2f}")};
    if (options.energy)
      row.insert(row.end(), {energy_text(p.energy_mj), energy_text(p.default_energy_mj)});
    row.insert(row.end(), {fmt::format("{}/{}/{}", p.search.num_measured + p.search.num_failed,
                                       p.search.num_rejected, p.search.num_failed),
                           config_text(p, facts[i], options)});
    table.add(std::move(row));
  }
  return table.text() + totals_text(report) + failures_text(report);
}

}  // namespace quern
