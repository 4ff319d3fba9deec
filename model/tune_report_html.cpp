#include "model/tune_report_html.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "autotune/trial_order.h"
#include "model/html.h"
#include "model/tune_chart.h"

namespace quern {
namespace {

constexpr std::size_t kMostReasons = 20;  // of one kind of failure
constexpr std::size_t kFastest = 10;      // candidates listed under a chart
constexpr std::size_t kLongestReason = 600;

constexpr const char* kStyle = R"(:root {
  color-scheme: light dark;
  --paper: #fdfdfb; --ink: #1c2024; --soft: #626a73; --rule: #e3e5e2; --shade: #f3f4f0;
  --trial: #3d6fb4; --winner: #b2480f; --roof: #2c7a51; --default: #7d4fa3; --failure: #b3261e;
}
@media (prefers-color-scheme: dark) { :root {
  --paper: #16191c; --ink: #e4e6e7; --soft: #9aa3ab; --rule: #2c3136; --shade: #1f2327;
  --trial: #7fabea; --winner: #f0935a; --roof: #67c191; --default: #c39ce4; --failure: #f2867e;
} }
@media print { :root {
  color-scheme: light;
  --paper: #fff; --ink: #000; --soft: #444; --rule: #ccc; --shade: #fff;
  --trial: #2a5a9e; --winner: #a03c08; --roof: #1c6a40; --default: #693c90; --failure: #a01810;
} }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 84rem; padding: 2rem 1.5rem 4rem; background: var(--paper);
  color: var(--ink); font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.7rem; margin: 0; line-height: 1.25; }
h2 { font-size: 1.2rem; margin: 2.6rem 0 .6rem; }
h3 { font-size: 1rem; margin: 0 0 .2rem; overflow-wrap: anywhere; }
p { margin: .3rem 0; }
a { color: inherit; text-decoration-color: var(--soft); }
code { font: 12.5px/1.45 ui-monospace, "SF Mono", Menlo, Consolas, monospace; overflow-wrap: anywhere; }
.soft { color: var(--soft); }
dl.facts { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1.2rem; margin: 1rem 0; }
dl.facts dt { color: var(--soft); } dl.facts dd { margin: 0; }
ul.totals { list-style: none; display: flex; flex-wrap: wrap; gap: .7rem; padding: 0; margin: 1.4rem 0; }
ul.totals li { background: var(--shade); border: 1px solid var(--rule); border-radius: 8px;
  padding: .5rem .9rem; min-width: 7rem; }
ul.totals b { display: block; font-size: 1.35rem; line-height: 1.3; font-variant-numeric: tabular-nums; }
ul.totals span { color: var(--soft); font-size: .85rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th { text-align: left; font-weight: 600; color: var(--soft); white-space: nowrap; vertical-align: bottom; }
th, td { padding: .38rem .6rem; border-bottom: 1px solid var(--rule); }
td { vertical-align: top; } tbody th { white-space: normal; vertical-align: top; color: inherit; font-weight: 400; }
.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.bar { display: block; height: 5px; min-width: 5.5rem; margin-top: .25rem; background: var(--rule);
  border-radius: 3px; overflow: hidden; }
.bar i { display: block; height: 100%; background: var(--roof); }
.bar.gain i { background: var(--winner); }
.bad { color: var(--failure); }
section.problem { border-top: 1px solid var(--rule); padding: 1.1rem 0 .8rem; break-inside: avoid; }
details { margin: .4rem 0; } summary { cursor: pointer; color: var(--soft); }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.4rem; font-size: .85rem; color: var(--soft); }
.legend svg { width: 18px; height: 14px; vertical-align: -2px; margin-right: .35rem; }
@media print { body { max-width: none; padding: 0; font-size: 11px; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
)";

constexpr const char* kLegend = R"(<p class="legend">
<span><svg viewBox="0 0 18 14" aria-hidden="true"><circle class="trial" cx="9" cy="7" r="4"/></svg>candidate</span>
<span><svg viewBox="0 0 18 14" aria-hidden="true"><path class="best" d="M0 3H9V11H18"/></svg>best so far</span>
<span><svg viewBox="0 0 18 14" aria-hidden="true"><path class="winner-mark" d="M9 0L11 5L16 5L12 8L13.500 13L9 10L4.500 13L6 8L2 5L7 5z"/></svg>winner, as timed in the final</span>
<span><svg viewBox="0 0 18 14" aria-hidden="true"><path class="default-mark" d="M9 1l6 6l-6 6l-6 -6z"/></svg>default</span>
<span><svg viewBox="0 0 18 14" aria-hidden="true"><path class="roof-line" d="M0 7H18"/></svg>roof: no kernel with cold operands can be faster</span>
<span><svg viewBox="0 0 18 14" aria-hidden="true"><path class="failure" d="M5 3l8 8m0 -8l-8 8"/></svg>failed</span>
</p>
)";

std::string shortened(const std::string& text) {
  return text.size() <= kLongestReason ? text : text.substr(0, kLongestReason) + "...";
}

class Page {
 public:
  Page(const TunePageHeader& header, const TuneReport& report, std::span<const ProblemFacts> facts)
      : header_(header), report_(report), facts_(facts), problems_(short_problems(report)) {
    for (const ProblemReport& p : report.problems) {
      has_energy_ = has_energy_ || p.energy_mj || p.default_energy_mj;
      most_gain_ = std::max(most_gain_, speed_up(p) - 1);
    }
  }

  std::string text() {
    add("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n"
        "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n"
        "<title>{}</title>\n<style>\n{}{}</style>\n</head>\n<body>\n",
        html_text(header_.title), kStyle, chart_style());
    head();
    if (report_.problems.empty()) {
      add("<p>There was nothing to tune.</p>\n");
    } else {
      table();
      failures();
      searches();
    }
    add("</body>\n</html>\n");
    return std::move(out_);
  }

 private:
  template <class... Args>
  void add(fmt::format_string<Args...> format, Args&&... args) {
    fmt::format_to(std::back_inserter(out_), format, std::forward<Args>(args)...);
  }

  void head() {
    add("<header>\n<p class=\"soft\">Quern tune{}{}</p>\n<h1>{}</h1>\n",
        header_.date.empty() ? "" : " · ", html_text(header_.date), html_text(header_.title));
    if (!header_.facts.empty()) {
      add("<dl class=\"facts\">\n");
      for (const auto& [label, value] : header_.facts)
        add("<dt>{}</dt><dd>{}</dd>\n", html_text(label), html_text(value));
      add("</dl>\n");
    }
    const TuneTotals totals = totals_of(report_);
    add("<ul class=\"totals\">\n");
    total(std::to_string(report_.problems.size()), "problems");
    total(std::to_string(totals.tuned), "tuned now");
    if (totals.recorded > 0) total(std::to_string(totals.recorded), "tuned before");
    if (totals.failed > 0) total(std::to_string(totals.failed), "failed");
    if (totals.out_of_time > 0) total(std::to_string(totals.out_of_time), "out of time");
    if (totals.geomean_speed_up > 0)
      total(fmt::format("{:.2f}×", totals.geomean_speed_up), "the defaults, geometric mean");
    total(std::to_string(report_.compiled), "kernels compiled");
    total(std::to_string(report_.measured), "candidates measured");
    total(std::to_string(report_.rejected), "rejected unbuilt");
    total(std::to_string(report_.failed), "candidates failed");
    total(fmt::format("{:.1f} s", report_.seconds), "in all");
    add("</ul>\n</header>\n");
  }

  void total(const std::string& value, const char* label) {
    add("<li><b>{}</b><span>{}</span></li>\n", value, label);
  }

  void table() {
    add("<h2>Problems</h2>\n<div class=\"scroll\"><table>\n<thead><tr><th>problem</th>"
        "<th>config, where it differs from the default</th><th class=\"n\">time, us</th>"
        "<th>of the roof</th><th class=\"n\">default, us</th><th>gain</th>{}"
        "<th class=\"n\">candidates</th></tr></thead>\n<tbody>\n",
        has_energy_ ? "<th class=\"n\">energy, mJ</th>" : "");
    for (std::size_t i = 0; i < report_.problems.size(); ++i) row(i);
    add("</tbody></table></div>\n");
    if (has_energy_)
      add("<p class=\"soft\">Energy is that of the whole board per launch, idle power "
          "included.</p>\n");
  }

  void row(std::size_t i) {
    const ProblemReport& p = report_.problems[i];
    const ProblemFacts& facts = facts_[i];
    add("<tr><th scope=\"row\"><a href=\"#p{}\">{}</a></th>", i, html_text(problems_[i]));
    if (has_record(p)) {
      add("<td><code>{}</code></td><td class=\"n\">{}<br/><span class=\"soft\">± {}</span></td>",
          html_text(config_difference(p.record.config, facts.default_config)),
          us_text(p.record.median_us), spread_text(p.record.spread_us));
      const double share = percent_of_roof(p, facts), gain = speed_up(p);
      if (share > 0)
        bar("", share, fmt::format("{:.0f}%", share));
      else
        add("<td>-</td>");
      add("<td class=\"n\">{}</td>",
          p.record.default_us > 0 ? us_text(p.record.default_us) : std::string("-"));
      // The longest bar is the greatest gain, but no small gain looks like a great one.
      if (gain > 0)
        bar(" gain", 100 * (gain - 1) / std::max(most_gain_, 0.25), fmt::format("{:.2f}×", gain));
      else
        add("<td>-</td>");
    } else {
      add("<td colspan=\"5\"{}>{}{}</td>",
          p.outcome == ProblemReport::Outcome::failed ? " class=\"bad\"" : "",
          p.outcome == ProblemReport::Outcome::failed ? "failed" : "out of time",
          p.reason.empty() ? "" : ": " + html_text(shortened(p.reason)));
    }
    if (has_energy_)
      add("<td class=\"n\">{}<br/><span class=\"soft\">default {}</span></td>", energy(p.energy_mj),
          energy(p.default_energy_mj));
    add("<td class=\"n\">{} tried<br/><span class=\"soft\">{} rejected, {} "
        "failed</span></td></tr>\n",
        p.search.num_measured + p.search.num_failed, p.search.num_rejected, p.search.num_failed);
  }

  void bar(const char* style, double percent, const std::string& label) {
    add("<td>{}<span class=\"bar{}\"><i style=\"width:{:.1f}%\"></i></span></td>", label, style,
        std::clamp(percent, 0.0, 100.0));
  }

  static std::string energy(const std::optional<double>& mj) {
    return mj ? fmt::format("{:.3g}", *mj) : "-";
  }

  void failures() {
    const auto kinds = failures_of(report_);
    if (kinds.empty()) return;
    add("<h2>Failures</h2>\n");
    for (const FailureKind& kind : kinds) {
      add("<details open=\"open\"><summary>{}: {}</summary>\n<ul>\n", html_text(kind.kind), kind.count);
      for (std::size_t i = 0; i < kind.reasons.size(); ++i) {
        if (i == kMostReasons) {
          add("<li>and {} other reasons</li>\n", kind.reasons.size() - i);
          break;
        }
        const FailureKind::Reason& reason = kind.reasons[i];
        add("<li>{} × {}<br/><code class=\"soft\">{}</code></li>\n", reason.count,
            html_text(shortened(reason.text)), html_text(shortened(reason.example)));
      }
      add("</ul></details>\n");
    }
  }

  void searches() {
    add("<h2>Searches</h2>\n{}", kLegend);
    for (std::size_t i = 0; i < report_.problems.size(); ++i) {
      const ProblemReport& p = report_.problems[i];
      add("<section class=\"problem\" id=\"p{}\">\n<h3>{}</h3>\n<p><code "
          "class=\"soft\">{}</code></p>\n<p "
          "class=\"soft\">{}"
          "</p>\n",
          i, html_text(problems_[i]), html_text(to_text(p.problem)), html_text(sentence(i)));
      out_ += tune_chart(p, facts_[i], i);
      fastest(p);
      add("</section>\n");
    }
  }

  std::string sentence(std::size_t i) const {
    const ProblemReport& p = report_.problems[i];
    switch (p.outcome) {
      case ProblemReport::Outcome::recorded:
        return fmt::format("Tuned before, on {}: {} us with {}.", p.record.measured_at,
                           us_text(p.record.median_us),
                           config_difference(p.record.config, facts_[i].default_config));
      case ProblemReport::Outcome::failed:
        return "No config works here" + (p.reason.empty() ? "." : ": " + shortened(p.reason));
      case ProblemReport::Outcome::out_of_time:
        return "The time was up before its turn; the default will run.";
      case ProblemReport::Outcome::tuned:
        break;
    }
    std::string text = fmt::format("{} us", us_text(p.record.median_us));
    if (const double share = percent_of_roof(p, facts_[i]); share > 0)
      text += fmt::format(", {:.0f}% of the roof", share);
    if (const double gain = speed_up(p); gain > 0)
      text += fmt::format(", {:.2f}× the default", gain);
    return text + fmt::format("; {} candidates tried in {:.1f} s.",
                              p.search.num_measured + p.search.num_failed, p.seconds);
  }

  /// The chart's best in words, for those who do not see it or want to copy a config.
  void fastest(const ProblemReport& p) {
    std::vector<const Trial*> timed = fastest_trials(p.search);
    if (timed.empty()) return;
    if (timed.size() > kFastest) timed.resize(kFastest);
    add("<details><summary>The fastest {}</summary><div class=\"scroll\"><table>\n<tbody>\n",
        timed.size());
    for (const Trial* trial : timed)
      add("<tr><td class=\"n\">{} ± {} us</td><td><code>{}</code></td></tr>\n",
          us_text(trial->timing.median_us), spread_text(trial->timing.spread_us),
          html_text(to_text(p.configs.at(trial->candidate))));
    add("</tbody></table></div></details>\n");
  }

  const TunePageHeader& header_;
  const TuneReport& report_;
  std::span<const ProblemFacts> facts_;
  std::vector<std::string> problems_;  // short
  bool has_energy_ = false;
  double most_gain_ = 0;
  std::string out_;
};

}  // namespace

std::string tune_report_html(const TunePageHeader& header, const TuneReport& report,
                             std::span<const ProblemFacts> facts) {
  return Page(header, report, facts).text();
}

}  // namespace quern
