#include <fmt/format.h>

#include <algorithm>

#include "autotune/build_ahead.h"
#include "autotune/tuner.h"
#include "model/cli.h"
#include "model/cli_tune.h"
#include "model/forward.h"
#include "model/gpu_session.h"
#include "model/table.h"
#include "runtime/base/error.h"
#include "templates/embedded.h"

namespace quern::cli {

std::vector<KernelRequest> requests_of(const ModelConfig& config, const std::vector<int>& batches,
                                       const std::vector<int>& prompts) {
  std::vector<KernelRequest> requests;
  for (const ModelProblem& p : model_problems(config, gpu_dtype(config), batches, prompts))
    requests.push_back({p.family, p.problem});
  return requests;
}

TuneReport tune_with_progress(const Common& common, KernelLibrary& library,
                              const std::vector<KernelRequest>& requests, TuneOptions options) {
  ProgressLine line(common);
  options.progress = [&](const TuneProgress& progress) {
    const ProblemReport& latest = progress.latest;
    std::string text = fmt::format("tuning {}/{}  {} {}", progress.done, progress.total,
                                   latest.family, to_text(latest.problem));
    if (latest.outcome == ProblemReport::Outcome::tuned)
      text += fmt::format(
          "  {:.1f} us ({:.2f}x the default)", latest.record.median_us,
          latest.record.median_us > 0 ? latest.record.default_us / latest.record.median_us : 0.0);
    line.update(text);
    if (!common.verbose) return;
    if (latest.num_points > 0) {
      std::string pruned;
      for (const Pruned& reason : latest.pruned)
        pruned +=
            fmt::format("{} {}: {}", pruned.empty() ? ", less" : ",", reason.count, reason.reason);
      note("  {} points{}\n", latest.num_points, pruned);
    }
    for (const Trial& trial : latest.search.trials)
      if (trial.verdict.status != TrialStatus::skipped)
        note("  {:<12} {:>10} {}{}\n", name(trial.verdict.status),
             trial.timing.num_samples > 0 ? fmt::format("{:.2f} us", trial.timing.median_us) : "",
             to_text(latest.configs[trial.candidate]),
             trial.verdict.reason.empty() ? "" : ": " + trial.verdict.reason);
  };
  return tune(library, requests, options);
}

std::vector<Refinement> refine_with_progress(const Common& common, GpuSession& session,
                                             GpuModel& model, const ModelConfig& config,
                                             TuneReport& report, const std::vector<int>& batches) {
  std::vector<Refinement> changes;
  if (std::none_of(report.problems.begin(), report.problems.end(), [](const ProblemReport& p) {
        return p.outcome == ProblemReport::Outcome::tuned;
      }))
    return changes;
  ProgressLine line(common);
  RefineOptions options;
  options.context = std::min(512, model.max_context() / 2);
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

std::string tune_table(GpuSession& session, const TuneReport& report) {
  Table table(
      {"problem", "config", "us", "+-", "default us", "% of roof", "tried", "rejected", "failed"});
  const double roof = session.read_roof();
  for (const ProblemReport& p : report.problems) {
    const bool known =
        p.outcome == ProblemReport::Outcome::tuned || p.outcome == ProblemReport::Outcome::recorded;
    const Cost cost = session.kernels().families().at(p.family).cost(p.problem);
    table.add({p.family + " " + to_text(p.problem),
               known ? to_text(p.record.config) : fmt::format("{}: {}", name(p.outcome), p.reason),
               known ? fmt::format("{:.1f}", p.record.median_us) : "-",
               known ? fmt::format("{:.1f}", p.record.spread_us) : "-",
               known ? fmt::format("{:.1f}", p.record.default_us) : "-",
               known && p.record.median_us > 0
                   ? fmt::format("{:.0f}", 100 * cost.bytes / (p.record.median_us * 1e-6) / roof)
                   : "-",
               std::to_string(p.search.num_measured), std::to_string(p.search.num_rejected),
               std::to_string(p.search.num_failed)});
  }
  return table.text();
}

namespace {

struct Options {
  std::string model;
  double budget = 0;
  std::vector<int> batches = {1, 16};
  std::vector<int> prompts = {512};
  bool force = false;
  std::string search{name(SearchStrategy::ranked)};
  std::vector<std::string> archs;
};

void run_tune(const Common& common, const Options& options) {
  const auto ordinal = gpu_ordinal(common.device);
  if (!ordinal && common.device == "auto") throw DeviceError(driver_problem());
  if (!ordinal) throw InputError("there is nothing to tune on the CPU: name a GPU with --device");
  const ModelConfig config = load_config(model_folder(common, options.model));
  GpuSession session({*ordinal, cache_root(common), common.library_dirs, templates_of(common)});
  TuneOptions tuning;
  tuning.force = options.force;
  tuning.budget_seconds = options.budget;
  tuning.search.strategy = parse_search_strategy(options.search).value();
  TuneReport report = tune_with_progress(
      common, session.kernels(), requests_of(config, options.batches, options.prompts), tuning);
  std::vector<Refinement> refined;
  if (options.budget == 0 || report.seconds < options.budget) {
    GpuModelOptions room;
    room.max_batch = *std::max_element(options.batches.begin(), options.batches.end());
    room.max_context =
        static_cast<int>(std::min<std::int64_t>(config.max_position_embeddings, 1024));
    try {  // weights make no difference to speed, so that none need be loaded
      const auto model = session.open_random(config, gpu_dtype(config), room);
      refined = refine_with_progress(common, session, *model, config, report, options.batches);
    } catch (const OutOfMemoryError& error) {
      note("the tuned kernels were not raced inside the whole step: {}\n", error.what());
    }
  }
  if (common.json) {
    ordered_json document = to_json(report);
    document["refined"] = refined.size();
    print_json(document);
    return;
  }
  fmt::print("{}", tune_table(session, report));
  fmt::print(
      "{} problems, {} kernels compiled, {} candidates measured, {} rejected, {} failed, "
      "{} changed in the step, {:.1f} s; records are in {}\n",
      report.problems.size(), report.compiled, report.measured, report.rejected, report.failed,
      refined.size(), report.seconds, cache_root(common).string());
}

/// Builds the images that a model's defaults and records need, for GPUs that need not be here.
void run_compile(const Common& common, const Options& options) {
  std::vector<Arch> archs;  // all of them known before the first is compiled for
  for (const std::string& name : options.archs) archs.push_back(parse_arch(name));
  const ModelConfig config = load_config(model_folder(common, options.model));
  const FamilyRegistry families = FamilyRegistry::shipped(template_files(templates_of(common)));
  const Nvrtc nvrtc(common.library_dirs);
  ImageStore images(cache_root(common));
  const auto requests = requests_of(config, options.batches, options.prompts);
  ProgressLine line(common);
  BuildReport all;
  for (const Arch& arch : archs) {
    const BuildReport one =
        build_ahead(families, nvrtc, images, requests, arch, false, 0,
                    [&](std::size_t done, std::size_t total) {
                      line.update(fmt::format("compiling for {}: {}/{}", arch.name(), done, total));
                    });
    if (one.unsupported > 0) throw InputError(one.failed.front());
    all.images += one.images;
    all.compiled += one.compiled;
    all.failed.insert(all.failed.end(), one.failed.begin(), one.failed.end());
  }
  line.clear();
  if (common.json)
    print_json({{"images", all.images},
                {"compiled", all.compiled},
                {"failed", all.failed.size()},
                {"failures", all.failed}});
  else
    fmt::print("{} images ready ({} compiled now), {} failed\n", all.images, all.compiled,
               all.failed.size());
  if (!all.failed.empty()) throw Error(all.failed.front());
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
  command
      ->add_option("--search", options->search,
                   "the candidates to try: the preferred, all, or a random sample")
      ->check(CLI::IsMember({"ranked", "exhaustive", "random"}))
      ->capture_default_str();
  command->callback([&common, options] { run_tune(common, *options); });
}

void add_compile(CLI::App& app, Common& common) {
  const auto options = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("compile", "compile a model's kernels for GPUs that need not be here");
  command->add_option("MODEL", options->model, "model folder (default: the bundled model)");
  command->add_option("--arch", options->archs, "sm_80,sm_90a,...")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->required();
  command->add_option("--batch", options->batches)
      ->delimiter(',')
      ->allow_extra_args(false)
      ->check(CLI::Range(1, 1024));
  command->add_option("--prompt", options->prompts)
      ->delimiter(',')
      ->allow_extra_args(false)
      ->check(CLI::Range(1, 1 << 20));
  command->callback([&common, options] { run_compile(common, *options); });
}

}  // namespace quern::cli
