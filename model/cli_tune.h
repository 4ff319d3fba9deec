#pragma once
#include <string>
#include <vector>

#include "autotune/roof.h"
#include "autotune/tuner.h"
#include "model/cli.h"
#include "model/gpu_session.h"
#include "model/refine.h"

namespace quern::cli {

/// What decode steps of these batch sizes and prompts of these lengths ask of the tuner, for weights
/// laid out like this.
std::vector<KernelRequest> requests_of(const ModelConfig& config, const ModelAddresses& layout,
                                       const std::vector<int>& batches,
                                       const std::vector<int>& prompts);
/// weight_layout() of a model folder. Reads the weights' order where act-order leaves the config
/// unsure; without weights in the folder the config has the word.
ModelAddresses layout_of(const std::filesystem::path& folder, const ModelConfig& config);
/// --search: which of the candidates a tune tries (SearchStrategy), by name.
void add_search_option(CLI::App& command, std::string& strategy, const std::string& description);
/// tune() with a progress line on stderr, on at most `max_gpus` GPUs that equal the library's (0 = all
/// of them), in worker processes where the library has a command for them.
TuneReport tune_with_progress(const Common& common, KernelLibrary& library,
                              const std::vector<KernelRequest>& requests, TuneOptions options,
                              int max_gpus = 1);
/// refine_decode() for each batch size that the model was opened for, with a progress line. Says
/// what changed on stderr if `verbose`. Does nothing if nothing was tuned just now. Begins nothing
/// after `budget_seconds`; 0 = no limit.
std::vector<Refinement> refine_with_progress(const Common& common, GpuSession& session,
                                             GpuModel& model, const ModelConfig& config,
                                             TuneReport& report,
                                             const std::vector<int>& batches,
                                             double budget_seconds = 0);
/// Which row kernels the products of each step compute, chosen by what is recorded now:
/// [{"batch": 1, "fused": "gate_up computes SwiGLU", "saved_us": 61.2, "measured": true}, ...].
ordered_json fusion_json(KernelLibrary& library, const ModelConfig& config,
                         const ModelAddresses& layout, const std::vector<int>& batches,
                         const std::vector<int>& prompts);
/// The same, a line for each step.
std::string fusion_text(const ordered_json& fused);
/// The roofs of the session's GPU; the first call measures.
Roofs roofs_of(GpuSession& session);
/// The table of what was found (model/tune_table.h), every field and config in full with -v;
/// `energy`: with the columns of millijoules.
std::string tune_text(const Common& common, GpuSession& session, const TuneReport& report,
                      bool energy = false);

}  // namespace quern::cli
