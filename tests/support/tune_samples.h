#pragma once
#include <cstddef>
#include <string>
#include <vector>

#include "autotune/tuner.h"
#include "model/tune_summary.h"

namespace quern::test {

/// A problem of a product that was tuned over `num_candidates` configs: the first is the default,
/// every seventh fails, the fastest wins.
ProblemReport tuned_product(int m, int n, std::size_t num_candidates);
/// A report of such problems and the facts that go with it.
struct TuneSample {
  TuneReport report;
  std::vector<ProblemFacts> facts;
};
TuneSample tune_sample(std::size_t num_problems, std::size_t num_candidates);
void add(TuneSample& sample, ProblemReport problem, double roof_us);

}  // namespace quern::test
