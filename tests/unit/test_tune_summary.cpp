#include "model/tune_summary.h"

#include <cmath>

#include "model/log_axis.h"
#include "model/tune_table.h"
#include "tests/support/support.h"
#include "tests/support/tune_samples.h"

using namespace quern;
using namespace quern::test;

TEST_CASE("a config is told by what differs from the default") {
  const Params usual = {{"kernel", "mma"}, {"tile_m", 16}, {"stages", 4}, {"unroll", 0}};
  CHECK_EQ(config_difference(usual, usual), "default");
  CHECK_EQ(
      config_difference({{"kernel", "mma"}, {"tile_m", 16}, {"stages", 0}, {"unroll", 0}}, usual),
      "stages=0");
  CHECK_EQ(
      config_difference({{"kernel", "gemv"}, {"tile_m", 0}, {"stages", 2}, {"unroll", 4}}, usual),
      "kernel=gemv stages=2 unroll=4");
  CHECK_EQ(config_difference({{"stages", 2}}, Params()), "stages=2");
}

TEST_CASE("a problem is told by what the others of its family do not share") {
  TuneReport report;
  const auto add_problem = [&](const char* family, Params problem) {
    report.problems.emplace_back();
    report.problems.back().family = family;
    report.problems.back().problem = std::move(problem);
  };
  add_problem("gemm", {{"m", 1}, {"n", 64}, {"dtype", "bf16"}});
  add_problem("gemm", {{"m", 16}, {"n", 64}, {"dtype", "bf16"}});
  add_problem("row", {{"kernel", "silu"}, {"rows", 1}, {"cols", 64}});
  add_problem("row", {{"kernel", "silu"}, {"rows", 2}, {"cols", 64}});
  add_problem("row", {{"kernel", "cast"}, {"rows", 2}, {"cols", 64}});
  CHECK_EQ(short_problems(report),
           std::vector<std::string>{"gemm m=1", "gemm m=16", "row kernel=silu rows=1",
                                    "row kernel=silu rows=2", "row kernel=cast rows=2 cols=64"});
}

TEST_CASE("times have three figures") {
  CHECK_EQ(us_text(0.5), "0.50");
  CHECK_EQ(us_text(12.34), "12.3");
  CHECK_EQ(us_text(145.2), "145");
  CHECK_EQ(us_text(1234567.8), "1,234,568");
  CHECK_EQ(spread_text(0.0041), "0.0041");
  CHECK_EQ(spread_text(0), "0.00");
  CHECK_EQ(spread_text(3.21), "3.21");
}

TEST_CASE("failures are counted by kind and reason") {
  TuneSample sample = tune_sample(2, 30);  // four of them fail in each, wrong or refused in turn
  sample.report.problems[0].search.trials[6].verdict.reason = "another";
  const auto kinds = failures_of(sample.report);
  REQUIRE_EQ(kinds.size(), 2);
  CHECK_EQ(kinds[0].count + kinds[1].count, 8);
  CHECK_EQ(kinds[0].kind, "launch_failed");
  CHECK_EQ(kinds[1].kind, "wrong_result");
  REQUIRE_EQ(kinds[1].reasons.size(), 2);
  CHECK_EQ(kinds[1].reasons[0].count, 3);
  CHECK_EQ(kinds[1].reasons[1].text, "another");
  CHECK_NE(kinds[1].reasons[1].example.find("gemm m=1 n=4096"), std::string::npos);
}

TEST_CASE("the table of a tune names winners, totals and failures") {
  TuneSample sample = tune_sample(2, 8);
  ProblemReport failed;
  failed.family = "row";
  failed.problem = {{"rows", 1}};
  failed.outcome = ProblemReport::Outcome::failed;
  failed.reason = "no config works";
  add(sample, failed, 0);
  sample.report.problems[0].record.median_us = 8;
  sample.report.problems[0].record.default_us = 16;
  sample.report.problems[0].record.config = sample.facts[0].default_config;
  sample.report.problems[0].record.config["stages"] = 6;
  const std::string text = tune_table(sample.report, sample.facts);
  CAPTURE(text);
  CHECK_NE(text.find("gemm m=1 n=4096  8.00  0.05         50        16.0      2.00"), text.npos);
  CHECK_NE(text.find("8/0/1  stages=6\n"), text.npos);
  CHECK_NE(text.find("failed: no config works\n"), text.npos);
  CHECK_NE(text.find("3 problems: 2 tuned, 1 failed;"), text.npos);
  CHECK_NE(text.find("16 kernels compiled, 14 candidates measured, 0 rejected, 2 failed"),
           text.npos);
  CHECK_NE(text.find("wrong_result: 2\n  2x output y is 3.1 times off"), text.npos);
  CHECK_EQ(text.find("mJ"), text.npos);
  sample.report.problems[0].energy_mj = 4.5678;
  const std::string full = tune_table(sample.report, sample.facts, {true, true});
  CHECK_NE(full.find("4.57"), full.npos);
  CHECK_NE(full.find("dtype=bf16"), full.npos);
  CHECK_NE(full.find("tile_m=16 tile_n=32 stages=6 split_k=1\n"), full.npos);
}

TEST_CASE("a table of nothing has a total") {
  CHECK_NE(tune_table({}, {}).find("0 problems"), std::string::npos);
}

TEST_CASE("totals compare winners with defaults") {
  TuneSample sample = tune_sample(2, 8);
  sample.report.problems[0].record.median_us = 1;
  sample.report.problems[0].record.default_us = 4;
  sample.report.problems[1].record.median_us = 1;
  sample.report.problems[1].record.default_us = 1;
  CHECK_EQ(totals_of(sample.report).geomean_speed_up, doctest::Approx(2));
  CHECK_EQ(totals_of({}).geomean_speed_up, 0);
}

TEST_CASE("a logarithmic axis has round ticks in order") {
  for (const double low : {1e-3, 0.97, 11.9, 12345.0})
    for (const double ratio : {1.0, 1.001, 1.3, 3.9, 4.1, 30.0, 1e4, 1e9}) {
      const LogAxis axis(low, low * ratio, 200, 0);
      CAPTURE(low);
      CAPTURE(ratio);
      REQUIRE_GE(axis.ticks().size(), 2);
      CHECK_LE(axis.ticks().size(), 12);
      for (std::size_t i = 1; i < axis.ticks().size(); ++i) {
        CHECK_GT(axis.ticks()[i], axis.ticks()[i - 1]);
        CHECK_LT(axis.at(axis.ticks()[i]), axis.at(axis.ticks()[i - 1]));
      }
      CHECK_LT(axis.at(low), 200);
      CHECK_GT(axis.at(low * ratio), 0);
    }
  const LogAxis axis(1, 100, 0, 10);
  CHECK_EQ(axis.at(10), doctest::Approx(5));
  CHECK_EQ(axis.at(1e9), 10);
  CHECK_EQ(axis.at(0), 0);
}
