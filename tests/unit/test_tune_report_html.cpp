#include "model/tune_report_html.h"

#include <algorithm>
#include <chrono>

#include "model/html.h"
#include "model/tune_chart.h"
#include "tests/support/markup.h"
#include "tests/support/support.h"
#include "tests/support/tune_samples.h"

using namespace quern;
using namespace quern::test;

namespace {

const TunePageHeader kHeader{
    "tiny on NVIDIA H200", "2026-01-31 12:00 UTC", {{"driver", "580.95.05"}}};

std::size_t count(const std::string& page, std::string_view what) {
  std::size_t found = 0;
  for (auto at = page.find(what); at != page.npos; at = page.find(what, at + 1)) ++found;
  return found;
}

}  // namespace

TEST_CASE("the checker of markup sees what is wrong") {
  CHECK_EQ(markup_problem("<p class=\"a\">x &amp; y<br/></p>"), "");
  for (const char* bad :
       {"<p>", "</p>", "<p><b></p></b>", "<p>a & b</p>", "<p>a > b</p>", "<p x=1/>", "<p x=\"<\"/>",
        "<p a=\"1\" a=\"2\"/>", "<p", "<p id=\"a\"/><p id=\"a\"/>", "<p>\x01</p>"}) {
    CAPTURE(bad);
    CHECK_NE(markup_problem(bad), "");
  }
}

TEST_CASE("text is escaped for elements and attributes") {
  CHECK_EQ(html_text("a<b>&\"'"), "a&lt;b&gt;&amp;&quot;&#39;");
  CHECK_EQ(html_text("\xff\x01 \xc3\xa4"), "\uFFFD\uFFFD \u00e4");
}

TEST_CASE("a page shows every problem with its search") {
  TuneSample sample = tune_sample(3, 20);
  const std::string page = tune_report_html(kHeader, sample.report, sample.facts);
  CHECK_EQ(markup_problem(page), "");
  CHECK_EQ(count(page, "<svg class=\"chart\""), 3);
  CHECK_EQ(count(page, "class=\"failure\" d="), 3 * 2 + 1);  // and one in the legend
  CHECK_EQ(count(page, "class=\"winner-mark\" d="), 3 + 1);
  CHECK_EQ(count(page, "<line class=\"roof-line\""), 3);
  CHECK_EQ(count(page, "<line class=\"default-line\""), 3);
  CHECK_EQ(count(page, "class=\"trial\" cx="),
           3 * (20 - 2 - 2) + 1);  // less failures, default, winner
  CHECK_NE(page.find("wrong_result"), page.npos);
  CHECK_NE(page.find("tiny on NVIDIA H200"), page.npos);
  for (const char* elsewhere : {"<script", "http", "@import", "url(", "<link", "<img"})
    CHECK_EQ(page.find(elsewhere), page.npos);
  CHECK_EQ(page.find("mJ"), page.npos);
  sample.report.problems[1].energy_mj = 12.34;
  CHECK_NE(tune_report_html(kHeader, sample.report, sample.facts).find("12.3<br/>"), page.npos);
}

TEST_CASE("hostile text stays text") {
  const std::string evil = "</title><script>alert('x')</script>\"&\x01\xff--><!--";
  TuneSample sample = tune_sample(1, 8);
  ProblemReport& problem = sample.report.problems[0];
  problem.family = evil;
  problem.problem[evil] = evil;
  problem.search.trials[6].verdict.reason = evil;
  for (Params& config : problem.configs) config[evil] = evil;
  problem.record.config[evil] = evil;
  ProblemReport failed;
  failed.family = evil;
  failed.problem = Params::object();
  failed.outcome = ProblemReport::Outcome::failed;
  failed.reason = evil;
  add(sample, failed, 0);
  const TunePageHeader header{evil, evil, {{evil, evil}}};
  const std::string page = tune_report_html(header, sample.report, sample.facts);
  CHECK_EQ(markup_problem(page), "");
  CHECK_EQ(page.find("<script"), page.npos);
  CHECK_NE(page.find("&lt;script&gt;"), page.npos);
}

TEST_CASE("an empty tune is a page too") {
  const std::string page = tune_report_html(kHeader, {}, {});
  CHECK_EQ(markup_problem(page), "");
  CHECK_NE(page.find("nothing to tune"), page.npos);
}

TEST_CASE("problems without a winner say why") {
  TuneSample sample;
  ProblemReport failed = tuned_product(1, 64, 3);
  failed.outcome = ProblemReport::Outcome::failed;
  failed.reason = "the oracle gave no numbers";
  failed.record = {};
  for (Trial& trial : failed.search.trials) {
    trial.timing = {};
    trial.verdict = {TrialStatus::compile_failed, "no such kernel", 0};
  }
  add(sample, failed, 0);
  ProblemReport late;
  late.family = "row";
  late.problem = {{"rows", 1}};
  add(sample, late, 1);
  ProblemReport recorded = late;
  recorded.outcome = ProblemReport::Outcome::recorded;
  recorded.record.median_us = 2;
  recorded.record.config = {{"threads", 128}};
  add(sample, recorded, 1);
  const std::string page = tune_report_html(kHeader, sample.report, sample.facts);
  CHECK_EQ(markup_problem(page), "");
  CHECK_NE(page.find("the oracle gave no numbers"), page.npos);
  CHECK_NE(page.find("out of time"), page.npos);
  CHECK_NE(page.find("Tuned before"), page.npos);
  CHECK_EQ(count(page, "<svg class=\"chart\""), 1);  // nothing was tried for the others
  CHECK_EQ(count(page, "class=\"failure\" d="), 3 + 1);
}

TEST_CASE("charts bear extreme times") {
  for (const double scale : {1e-3, 1.0, 1e9})
    for (const double roof : {0.0, 1e-9, 1.0, 1e12}) {
      ProblemReport problem = tuned_product(1, 64, 30);
      for (Trial& trial : problem.search.trials) trial.timing.median_us *= scale;
      problem.record.median_us *= scale;
      problem.record.default_us *= scale;
      const std::string chart = tune_chart(problem, {roof, problem.configs[0]}, 7);
      CHECK_EQ(markup_problem(chart), "");
      CHECK_EQ(chart.find("nan"), chart.npos);
      CHECK_EQ(chart.find("inf"), chart.npos);
    }
  ProblemReport equal = tuned_product(1, 64, 5);
  for (Trial& trial : equal.search.trials) trial.timing.median_us = 5;
  equal.record.median_us = equal.record.default_us = 5;
  CHECK_EQ(markup_problem(tune_chart(equal, {}, 0)), "");
  ProblemReport zero = equal;
  for (Trial& trial : zero.search.trials) trial.timing.median_us = 0;
  CHECK_EQ(markup_problem(tune_chart(zero, {}, 0)), "");
}

TEST_CASE("a large tune is written quickly and stays small") {
  const TuneSample sample = tune_sample(50, 120);
  const auto start = std::chrono::steady_clock::now();
  const std::string page = tune_report_html(kHeader, sample.report, sample.facts);
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  CHECK_LT(took.count(), 1.0);
  CHECK_LT(page.size(), 2 << 20);
  CHECK_EQ(count(page, "<svg class=\"chart\""), 50);
}
