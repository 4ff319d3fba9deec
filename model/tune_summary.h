#pragma once
#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "autotune/roof.h"
#include "autotune/tuner.h"

namespace quern {

/// What a report says of a problem besides its ProblemReport.
struct ProblemFacts {
  double roof_us = 0;     // Roofs::least_us(); 0 = unknown
  Params default_config;  // null if there is none
};
/// One for each problem of the report, in order.
std::vector<ProblemFacts> facts_of(KernelLibrary& library, const TuneReport& report,
                                   const Roofs& roofs);

/// True if a record stands behind the problem, new or old.
bool has_record(const ProblemReport& problem);
/// Share of the roof that the recorded config reaches, in percent; 0 if unknown.
double percent_of_roof(const ProblemReport& problem, const ProblemFacts& facts);
/// The default's time over the recorded config's; 0 if unknown.
double speed_up(const ProblemReport& problem);

/// "gemm m=1 n=4096": for each problem its family and what tells it from the report's others of the
/// family (row kernels: of the kernel); everything where there is no other.
std::vector<std::string> short_problems(const TuneReport& report);

/// The tunables in which `config` differs from the default, "default" if in none, all where there
/// is no default to compare with. Where it is another kernel than the default's, those that this
/// kernel does not use, being 0, are left out.
std::string config_difference(const Params& config, const Params& default_config);

/// "3.21", "12.1", "145", "12,345": microseconds to three figures or more.
std::string us_text(double us);
/// "0.004", "0.12", "3.21": two figures or more, for spreads.
std::string spread_text(double us);

/// True for a candidate that was tried and is out: neither timed, nor refused beforehand, nor
/// skipped.
bool has_failed(const Trial& trial);

/// Failures of one kind in a whole tune.
struct FailureKind {
  std::string kind;  // name(TrialStatus)
  std::size_t count = 0;
  struct Reason {
    std::string text;
    std::size_t count = 0;
    std::string example;  // problem and config of the first
  };
  std::vector<Reason> reasons;  // the most frequent first
};
/// In order of frequency.
std::vector<FailureKind> failures_of(const TuneReport& report);

/// Problems of a tune by what became of them, and how far the winners are ahead.
struct TuneTotals {
  std::size_t tuned = 0, recorded = 0, failed = 0, out_of_time = 0;
  std::size_t tried = 0;        // candidates that were timed or failed
  double geomean_speed_up = 0;  // over the defaults, of the problems with a record; 0 = unknown
};
TuneTotals totals_of(const TuneReport& report);

}  // namespace quern
