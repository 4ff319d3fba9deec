#include "model/tune_progress_text.h"

#include "autotune/tuner.h"
#include "tests/support/support.h"

using namespace quern;

namespace {

TuneProgress under_way() {
  TuneProgress progress;
  progress.done = 2;
  progress.total = 20;
  progress.family = "gemm";
  progress.problem = {{"m", 1}, {"n", 6144}, {"k", 4096}, {"dtype", "bf16"}, {"out_dtype", "f32"}};
  progress.tried = 12;
  progress.candidates = 40;
  progress.compile_queue = 5;
  progress.best_us = 12.06;
  progress.default_us = 12.59;
  progress.seconds_left = 95;
  return progress;
}

}  // namespace

TEST_CASE("a progress line says everything where there is room") {
  CHECK_EQ(progress_text(under_way(), 200),
           "tuning 2/20 | gemm m=1 n=6144 k=4096 dtype=bf16 out_dtype=f32 | 12/40 tried | 5 to "
           "compile | best 12.1 us, 1.04x the default | 1 min 35 s left");
  TuneProgress first;
  first.total = 3;
  first.family = "row";
  first.problem = {{"rows", 1}};
  CHECK_EQ(progress_text(first, 80), "tuning 0/3 | row rows=1");
}

TEST_CASE("a progress line fits every width and keeps the time left longest") {
  for (std::size_t width = 0; width < 200; ++width) {
    CAPTURE(width);
    const std::string text = progress_text(under_way(), width);
    CHECK_LE(text.size(), width);
    CHECK_EQ(text.find('\n'), text.npos);
  }
  CHECK_EQ(progress_text(under_way(), 60),
           "tuning 2/20 | gemm m=1 n=6144 k=4096 dt... | 1 min 35 s left");
  CHECK_EQ(progress_text(under_way(), 79),
           "tuning 2/20 | gemm m=1 n=6144 k=4096 dtype=b... | 12/40 tried | 1 min 35 s left");
}

TEST_CASE("durations read as people say them") {
  CHECK_EQ(duration_text(0.2), "0 s");
  CHECK_EQ(duration_text(59.4), "59 s");
  CHECK_EQ(duration_text(59.9), "1 min 0 s");
  CHECK_EQ(duration_text(7500), "2 h 5 min");
  CHECK_EQ(duration_text(-1), "0 s");
}

TEST_CASE("a log gets one line when a problem ends") {
  TuneProgress progress = under_way();
  ProblemReport problem;
  problem.family = progress.family;
  problem.problem = progress.problem;
  problem.seconds = 4.21;
  progress.finished = &problem;
  CHECK_EQ(finished_text(progress),
           "tuned 2/20: gemm m=1 n=6144 k=4096 dtype=bf16 out_dtype=f32: out of time, the default "
           "will run; 12 of 40 candidates tried; 4.2 s, 1 min 35 s left");
  problem.outcome = ProblemReport::Outcome::tuned;
  problem.record.median_us = 6;
  problem.record.default_us = 9;
  progress.done = 20;
  CHECK_EQ(finished_text(progress),
           "tuned 20/20: gemm m=1 n=6144 k=4096 dtype=bf16 out_dtype=f32: 6.00 us, 1.50x the "
           "default; 12 of 40 candidates tried; 4.2 s");
  problem.outcome = ProblemReport::Outcome::failed;
  problem.reason = "the oracle gave no numbers";
  CHECK_NE(finished_text(progress).find("failed: the oracle gave no numbers"), std::string::npos);
}
