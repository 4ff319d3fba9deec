#include <fmt/chrono.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <ctime>
#include <filesystem>

#include "autotune/device_worker.h"
#include "autotune/energy.h"
#include "autotune/tuner.h"
#include "compiler/compile_farm.h"
#include "model/cli.h"
#include "model/cli_tune.h"
#include "model/forward.h"
#include "model/gpu_session.h"
#include "model/tune_progress_text.h"
#include "model/tune_report_html.h"
#include "model/tune_table.h"
#include "runtime/base/error.h"
#include "runtime/base/file.h"

namespace quern::cli {

std::vector<KernelRequest> requests_of(const ModelConfig& config, const ModelAddresses& layout,
                                       const std::vector<int>& batches,
                                       const std::vector<int>& prompts) {
  std::vector<KernelRequest> requests;
  for (const ModelProblem& p : model_problems(config, gpu_dtype(config), layout, batches, prompts))
    requests.push_back({p.family, p.problem, static_cast<double>(p.count)});
  return requests;
}

ModelAddresses layout_of(const std::filesystem::path& folder, const ModelConfig& config) {
  const bool has_weights = std::filesystem::exists(folder / "model.safetensors") ||
                           std::filesystem::exists(folder / "model.safetensors.index.json");
  if (!config.quantization || !config.quantization->act_order || !has_weights)
    return weight_layout(config);
  const ModelWeights weights = load_weights(folder, config);
  return weight_layout(config, &weights);
}

TuneReport tune_with_progress(const Common& common, KernelLibrary& library,
                              const std::vector<KernelRequest>& requests, TuneOptions options,
                              int max_gpus) {
  ProgressLine line(common);
  options.progress = [&](const TuneProgress& progress) {
    if (common.terminal) line.update(progress_text(progress, ProgressLine::width()));
    if (!progress.finished) return;
    if (!common.terminal) note("{}\n", finished_text(progress));
    if (!common.verbose) return;
    line.clear();
    const ProblemReport& problem = *progress.finished;
    if (problem.num_points > 0) {
      std::string pruned;
      for (const Pruned& reason : problem.pruned)
        pruned += fmt::format("{} {}: {}", pruned.empty() ? ", less" : ",", reason.count,
                              reason.reason);
      note("  {} points{}\n", problem.num_points, pruned);
    }
    for (const Trial& trial : problem.search.trials) {
      if (trial.verdict.status == TrialStatus::skipped) continue;
      note("  {:<12} {:>10} {}{}\n", name(trial.verdict.status),
           trial.timing.num_samples > 0 ? fmt::format("{:.2f} us", trial.timing.median_us) : "",
           to_text(problem.configs[trial.candidate]),
           trial.verdict.reason.empty() ? "" : ": " + trial.verdict.reason);
    }
  };
  const auto benches = device_benches(library, max_gpus);
  std::vector<TrialBench*> pointers;
  for (const auto& bench : benches) pointers.push_back(bench.get());
  return tune(library, pointers, requests, options);
}

void add_search_option(CLI::App& command, std::string& strategy, const std::string& description) {
  command.add_option("--search", strategy, description)
      ->check(CLI::IsMember({"ranked", "exhaustive", "random"}))
      ->capture_default_str();
}

std::vector<Refinement> refine_with_progress(const Common& common, GpuSession& session,
                                             GpuModel& model, const ModelConfig& config,
                                             TuneReport& report, const std::vector<int>& batches,
                                             double budget_seconds) {
  std::vector<Refinement> changes;
  if (std::none_of(report.problems.begin(), report.problems.end(), [](const ProblemReport& p) {
        return p.outcome == ProblemReport::Outcome::tuned;
      }))
    return changes;
  ProgressLine line(common);
  RefineOptions options;
  options.context = std::min(512, model.max_context() / 2);
  if (budget_seconds > 0)
    options.deadline = std::chrono::steady_clock::now() +
                       std::chrono::duration_cast<std::chrono::steady_clock::duration>(
                           std::chrono::duration<double>(budget_seconds));
  options.progress = [&](const std::string& text) { line.update(text); };
  for (const int batch : batches)
    for (Refinement& change : refine_decode(session, model, config, report, batch, options))
      changes.push_back(std::move(change));
  line.clear();
  if (common.verbose)
    for (const Refinement& c : changes)
      note("in the step: {} {} | {} -> {} | {:.1f} -> {:.1f} us\n", c.family, to_text(c.problem),
           to_text(c.from), to_text(c.to), c.step_us_before, c.step_us_after);
  return changes;
}

ordered_json fusion_json(KernelLibrary& library, const ModelConfig& config,
                         const ModelAddresses& layout, const std::vector<int>& batches,
                         const std::vector<int>& prompts) {
  ordered_json out = ordered_json::array();
  const auto add = [&](const char* kind, int count, const StepShape& shape) {
    const FusionChoice choice = choose_fusion(library, config, gpu_dtype(config), layout, shape);
    out.push_back({{kind, count},
                   {"fused", to_text(choice.fusion)},
                   {"saved_us", choice.saved_us},
                   {"measured", choice.measured}});
  };
  for (const int batch : batches) add("batch", batch, decode_shape(batch));
  for (const int prompt : prompts) add("prompt", prompt, prefill_shape(prompt));
  return out;
}

std::string fusion_text(const ordered_json& fused) {
  std::string out;
  for (const auto& step : fused) {
    const char* const kind = step.contains("batch") ? "batch" : "prompt";
    out += fmt::format(
        "fused, {} {}: {}{}\n", kind, step.at(kind).get<int>(), step.at("fused").get<std::string>(),
        saving_text(step.at("saved_us").get<double>(), step.at("measured").get<bool>()));
  }
  return out;
}

Roofs roofs_of(GpuSession& session) {
  return {session.read_roof(), session.context().device().peak_tensor_flops_per_s()};
}

std::string tune_text(const Common& common, GpuSession& session, const TuneReport& report,
                      bool energy) {
  const auto facts = facts_of(session.kernels(), report, roofs_of(session));
  return tune_table(report, facts, {common.verbose, energy});
}

namespace {

struct Options {
  std::string model;
  double budget = 0;
  std::vector<int> batches = {1, 16};
  std::vector<int> prompts = {512};
  bool force = false;
  int gpus = 0;
  std::string search{name(SearchStrategy::ranked)};
  std::string report_file;
  bool energy = false;
};

/// Refuses a place that cannot take a file, before minutes are spent on what goes there.
void check_report_place(const std::string& file) {
  const std::filesystem::path path(file);
  const auto folder = path.has_parent_path() ? path.parent_path() : std::filesystem::path(".");
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored))
    throw InputError(fmt::format("cannot write the report: {} is a folder", file));
  if (!std::filesystem::is_directory(folder, ignored) || access(folder.c_str(), W_OK) != 0)
    throw InputError(
        fmt::format("cannot write the report: {} is no folder that takes files", folder.string()));
}

void write_report(const Common& common, const Options& options, GpuSession& session,
                  const TuneReport& report) {
  const DeviceInfo& device = session.context().device();
  const Roofs roofs = roofs_of(session);
  TunePageHeader header;
  header.title =
      fmt::format("{} on {}", model_folder(common, options.model).filename().string(), device.name);
  header.date = fmt::format("{:%Y-%m-%d %H:%M} UTC", fmt::gmtime(std::time(nullptr)));
  header.facts = {
      {"device",
       fmt::format("{} ({}), {} SMs, {} MB L2, power limit {} W", device.name, device.arch().name(),
                   device.num_sms, device.l2_bytes >> 20, device.power_limit_w)},
      {"driver", device.fingerprint().at("driver").get<std::string>()},
      {"compiler", "NVRTC " + session.kernels().nvrtc().version()},
      {"roofs", fmt::format("{:.0f} GB/s as a kernel that only reads reached, {:.0f} TFLOP/s of "
                            "the tensor cores on paper (dense, 16-bit inputs, highest clock)",
                            roofs.bytes_per_s / 1e9, roofs.flops_per_s / 1e12)},
      {"tuned for",
       fmt::format("batch {}; prompts of {} tokens; {} search", fmt::join(options.batches, ", "),
                   fmt::join(options.prompts, ", "), options.search)}};
  const auto facts = facts_of(session.kernels(), report, roofs);
  write_file_atomically(options.report_file, tune_report_html(header, report, facts));
}

/// The columns of millijoules, with a sentence where there is nothing to fill them with.
void measure_energy(const Common& common, GpuSession& session, TuneReport& report) {
  ProgressLine line(common);
  const bool counted =
      add_energy(session.kernels(), report, [&](std::size_t done, std::size_t total) {
        line.update(fmt::format("measuring energy {}/{}", done, total));
      });
  line.clear();
  if (!counted) note("this GPU does not count its energy, so that none is reported\n");
}

ordered_json tune_json(GpuSession& session, const TuneReport& report, std::size_t refined,
                       double step_seconds) {
  ordered_json document = to_json(report);
  document["seconds_in_step"] = step_seconds;
  document["refined"] = refined;
  const auto facts = facts_of(session.kernels(), report, roofs_of(session));
  for (std::size_t i = 0; i < facts.size(); ++i)
    if (facts[i].roof_us > 0) document["records"][i]["roof_us"] = facts[i].roof_us;
  return document;
}

void run_tune(const Common& common, const Options& options) {
  if (!options.report_file.empty()) check_report_place(options.report_file);
  const int ordinal = gpu_to_use(
      common, "there is nothing to tune on the CPU: name a GPU with --device");
  const auto folder = model_folder(common, options.model);
  const ModelConfig config = load_config(folder);
  const ModelAddresses layout = layout_of(folder, config);
  GpuSession session({ordinal, cache_root(common), common.library_dirs, templates_of(common),
                      common.worker_command, common.system_cache});
  TuneOptions tuning;
  tuning.force = options.force;
  tuning.budget_seconds = options.budget;
  tuning.search.strategy = parse_search_strategy(options.search).value();
  TuneReport report = tune_with_progress(
      common, session.kernels(), requests_of(config, layout, options.batches, options.prompts),
      tuning, options.gpus);
  std::vector<Refinement> refined;
  const auto step_start = std::chrono::steady_clock::now();
  if (options.budget == 0 || report.seconds < options.budget) {
    GpuModelOptions room;
    room.max_batch = *std::max_element(options.batches.begin(), options.batches.end());
    room.max_context =
        static_cast<int>(std::min<std::int64_t>(config.max_position_embeddings, 1024));
    // Weights make no difference to speed, so that none need be loaded; nor do more layers than fill
    // the caches, since all are alike.
    constexpr std::int64_t kRefineLayers = 6;
    ModelConfig few_layers = config;
    few_layers.num_layers = std::min(few_layers.num_layers, kRefineLayers);
    const double left = options.budget == 0 ? 0 : options.budget - report.seconds;
    try {
      const auto model = session.open_random(few_layers, gpu_dtype(config), room);
      refined =
          refine_with_progress(common, session, *model, few_layers, report, options.batches, left);
    } catch (const OutOfMemoryError& error) {
      note("the tuned kernels were not raced inside the whole step: {}\n", error.what());
    }
  }
  const double step_seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - step_start).count();
  if (options.energy) measure_energy(common, session, report);
  if (!options.report_file.empty()) write_report(common, options, session, report);
  const ordered_json fused =
      fusion_json(session.kernels(), config, layout, options.batches, options.prompts);
  if (common.json) {
    ordered_json document = tune_json(session, report, refined.size(), step_seconds);
    document["fused"] = fused;
    print_json(document);
    return;
  }
  fmt::print("{}", tune_text(common, session, report, options.energy));
  fmt::print("{}", fusion_text(fused));
  fmt::print("{} changed in the step; records are in {}\n", refined.size(),
             cache_root(common).string());
  if (!options.report_file.empty()) fmt::print("the report is in {}\n", options.report_file);
}

}  // namespace

void add_tune(CLI::App& app, Common& common) {
  const auto options = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("tune", "find the fastest kernels for a model on this GPU");
  command->add_option("MODEL", options->model, "model folder (default: the bundled model)");
  command->add_option("--budget", options->budget, "seconds; 0 = until done")
      ->check(number_between(0, 1e6));
  command->add_option("--batch", options->batches, "batch sizes to tune decode for")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  command->add_option("--prompt", options->prompts, "prompt lengths to tune prefill for")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command->add_flag("--force", options->force, "measure again what has been measured");
  add_search_option(*command, options->search,
                    "the candidates to try: the preferred, all, or a random sample");
  command
      ->add_option("--gpus", options->gpus, "equal GPUs to share the work among; 0 = all there are")
      ->check(CLI::Range(0, 64));
  command->add_option("--report", options->report_file,
                      "also write the searches as one HTML page to this file");
  command->add_flag("--energy", options->energy,
                    "also measure the energy of a launch, about two seconds a problem");
  command->callback([&common, options] { run_tune(common, *options); });
}

}  // namespace quern::cli
