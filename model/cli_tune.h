#pragma once
#include <string>
#include <vector>

#include "autotune/tuner.h"
#include "model/cli.h"
#include "model/gpu_session.h"

namespace quern::cli {

/// What decode steps of these batch sizes and prompts of these lengths ask of the tuner.
std::vector<KernelRequest> requests_of(const ModelConfig& config, const std::vector<int>& batches,
                                       const std::vector<int>& prompts);
/// tune() with a progress line on stderr.
TuneReport tune_with_progress(const Common& common, GpuSession& session,
                              const std::vector<KernelRequest>& requests, TuneOptions options);
/// One row a problem: config, time, default's time, percent of the roof, candidates.
std::string tune_table(GpuSession& session, const TuneReport& report);

}  // namespace quern::cli
