#pragma once
#include <chrono>
#include <functional>
#include <string>
#include <vector>

#include "autotune/tuner.h"
#include "model/gpu_session.h"

namespace quern {

/// One change that the whole step decided against the trial of a kernel by itself.
struct Refinement {
  std::string family;
  Params problem, from, to;
  double step_us_before = 0, step_us_after = 0;  // of the decode step
};

struct RefineOptions {
  int context = 512;          // tokens in each sequence's cache, and an eighth of it
  double near_tie = 0.08;     // configs within this fraction of the winner's own time are tried
  std::size_t max_rivals = 4;  // a problem
  int rounds = 9;             // replays of each, in turn
  double min_gain = 0.004;    // of the step
  /// No race begins after it.
  std::chrono::steady_clock::time_point deadline = std::chrono::steady_clock::time_point::max();
  std::function<void(const std::string&)> progress;
};

/// Races the near-ties of a tune again where they will run: in the captured decode step of `batch`
/// sequences, one problem after another, those with the largest share of the step first. A kernel
/// that wins by itself can lose there, because with programmatic launch its neighbours overlap it:
/// how much shared memory it leaves them, and how early it lets them begin, is no property of the
/// kernel alone. Winners are recorded, in `report` too.
std::vector<Refinement> refine_decode(GpuSession& session, GpuModel& model,
                                      const ModelConfig& config, TuneReport& report, int batch,
                                      const RefineOptions& options = {});

}  // namespace quern
