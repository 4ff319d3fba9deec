#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "model/bench.h"
#include "model/cli.h"
#include "model/cli_tune.h"
#include "model/table.h"
#include "model/weights.h"
#include "runtime/base/error.h"

namespace quern::cli {
namespace {

struct Options {
  std::string model, random_config;
  std::vector<int> prompts = {512, 2048};
  std::vector<int> batches = {1, 16};
  int steps = 128, context = 512, repeats = 5;
  bool tune = false, unfused = false;
};

/// The CPU runs one sequence at a time and has no roof worth naming: speed alone.
void bench_cpu(const Common& common, const Options& options) {
  if (!options.random_config.empty() && common.device == "auto")
    throw DeviceError(driver_problem());
  if (!options.random_config.empty())
    throw InputError("random weights are made on a GPU: name one with --device");
  Engine engine(engine_options(common, options.model));
  ProgressLine line(common);
  ordered_json rows = ordered_json::array();
  Table table({"phase", "tokens", "context", "ms", "+-", "tokens/s"});
  const auto add = [&](const BenchResult& r) {
    rows.push_back({{"phase", r.phase},
                    {"batch", r.batch},
                    {"tokens", r.tokens},
                    {"context", r.context},
                    {"ms", r.ms},
                    {"spread_ms", r.spread_ms},
                    {"tokens_per_second", r.tokens_per_second}});
    table.add({r.phase, std::to_string(r.tokens), std::to_string(r.context),
               fmt::format("{:.3f}", r.ms), fmt::format("{:.3f}", r.spread_ms),
               fmt::format("{:.1f}", r.tokens_per_second)});
  };
  for (const int tokens : options.prompts) {
    line.update(fmt::format("prefill of {} tokens", tokens));
    add(bench_prefill(engine.backend(), tokens, options.repeats));
  }
  line.update("decode");
  add(bench_decode(engine.backend(), options.context, options.steps));
  line.clear();
  if (common.json)
    print_json({{"device", engine.device_name()},
                {"model", model_folder(common, options.model).filename().string()},
                {"results", rows}});
  else
    fmt::print("{}, one sequence\n{}", engine.device_name(), table.text());
}

void bench_gpu(const Common& common, const Options& options, int ordinal) {
  const bool random = !options.random_config.empty();
  const auto folder =
      random ? std::filesystem::path(options.random_config) : model_folder(common, options.model);
  const ModelConfig config = load_config(folder);
  const DType dtype = gpu_dtype(config);
  const EngineOptions engine = engine_options(common, random ? "" : options.model);
  GpuSession session({ordinal, engine.cache, engine.library_dirs, engine.templates,
                      engine.worker_command, engine.system_cache});
  double tune_seconds = 0;
  TuneReport tuning;
  if (options.tune) {
    tuning = tune_with_progress(
        common, session.kernels(),
        requests_of(config, random ? weight_layout(config) : layout_of(folder, config),
                    options.batches, options.prompts),
        {});
    tune_seconds = tuning.seconds;
  }
  const double roof = session.read_roof();
  GpuModelOptions model_options;
  const int longest = static_cast<int>(config.max_position_embeddings);
  const int prompt = options.prompts.empty()
                         ? 0
                         : *std::max_element(options.prompts.begin(), options.prompts.end());
  const int decode = options.context + options.steps + std::max(3, options.steps / 10) + 2;
  model_options.max_context =
      common.context > 0 ? common.context : std::min(longest, std::max(prompt + 1, decode));
  model_options.max_batch = options.batches.empty()
                                ? 1
                                : *std::max_element(options.batches.begin(), options.batches.end());
  if (options.unfused) model_options.fusion = StepFusion();
  ProgressLine line(common);
  const auto model = random
                         ? session.open_random(config, dtype, model_options)
                         : session.open(config, load_weights(folder, config), dtype, model_options);
  std::size_t refined = 0;
  if (options.tune) {
    const auto start = std::chrono::steady_clock::now();
    refined = refine_with_progress(common, session, *model, config, tuning, options.batches).size();
    tune_seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    if (!common.json) fmt::print("{}", tune_text(common, session, tuning));
  }
  model->set_strict(common.strict);
  if (common.verbose)
    for (const int batch : options.batches)
      for (const std::string& text : model->describe(batch)) note("{}\n", text);
  const ordered_json fused =
      options.unfused ? ordered_json::array()
                      : fusion_json(session.kernels(), config, model->weights().addresses(),
                                    options.batches, options.prompts);
  if (common.verbose) note("{}", fusion_text(fused));

  ordered_json rows = ordered_json::array();
  Table table({"phase", "batch", "tokens", "context", "ms", "+-", "tokens/s", "GB/s", "% of roof",
               "TFLOP/s"});
  const auto add = [&](const BenchResult& r) {
    const double bandwidth = r.bytes / (r.ms * 1e-3), rate = r.flops / (r.ms * 1e-3);
    rows.push_back({{"phase", r.phase},
                    {"batch", r.batch},
                    {"tokens", r.tokens},
                    {"context", r.context},
                    {"ms", r.ms},
                    {"spread_ms", r.spread_ms},
                    {"tokens_per_second", r.tokens_per_second},
                    {"bytes_per_second", bandwidth},
                    {"percent_of_roof", 100 * bandwidth / roof},
                    {"flops_per_second", rate}});
    const bool reads = r.bytes > 0;
    table.add({r.phase, std::to_string(r.batch), std::to_string(r.tokens),
               std::to_string(r.context), fmt::format("{:.3f}", r.ms),
               fmt::format("{:.3f}", r.spread_ms), fmt::format("{:.1f}", r.tokens_per_second),
               reads ? fmt::format("{:.0f}", bandwidth / 1e9) : "-",
               reads ? fmt::format("{:.1f}", 100 * bandwidth / roof) : "-",
               reads ? "-" : fmt::format("{:.1f}", rate / 1e12)});
  };
  for (const int tokens : options.prompts) {
    line.update(fmt::format("prefill of {} tokens", tokens));
    add(bench_prefill(*model, config, tokens, options.repeats));
  }
  for (const int batch : options.batches) {
    line.update(fmt::format("decode at batch {}", batch));
    add(bench_decode(session, *model, config, batch, options.context, options.steps));
  }
  line.clear();
  const KernelCounts& counts = session.kernels().counts();
  if (common.json) {
    print_json({{"device", session.context().device().name},
                {"fingerprint", session.context().device().fingerprint()},
                {"model", folder.filename().string()},
                {"random_weights", random},
                {"dtype", name(dtype)},
                {"quantization", config.quantization ? ordered_json(config.quantization->text())
                                                     : ordered_json(nullptr)},
                {"weight_bytes", model->weights().total_bytes()},
                {"read_roof_bytes_per_second", roof},
                {"compiled", counts.compiled},
                {"image_hits", counts.image_hits},
                {"tuned", counts.tuned},
                {"defaulted", counts.defaulted},
                {"tune_seconds", tune_seconds},
                {"refined", refined},
                {"capture_ms", model->capture_ms()},
                {"fused", fused},
                {"results", rows}});
    return;
  }
  const std::string stored =
      config.quantization ? fmt::format(" ({})", config.quantization->text()) : "";
  fmt::print("{} {} {}{}{}, read roof {:.0f} GB/s\n{}", session.context().device().name,
             folder.filename().string(), name(dtype), stored, random ? " random weights" : "",
             roof / 1e9, table.text());
  fmt::print(
      "{} kernels compiled, {} from the cache; {} problems tuned, {} on defaults; graphs "
      "captured in {:.0f} ms\n",
      counts.compiled, counts.image_hits, counts.tuned, counts.defaulted, model->capture_ms());
}

}  // namespace

void add_bench(CLI::App& app, Common& common) {
  const auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("bench", "measure prefill and decode speed");
  command->add_option("MODEL", options->model, "model folder (default: the bundled model)");
  command->add_option("--random-weights", options->random_config,
                      "folder with a config.json: random weights of its shape, made on the GPU");
  command->add_option("-p,--prompts", options->prompts, "prompt lengths")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command->add_option("-b,--batches", options->batches, "batch sizes")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  command->add_option("-n", options->steps, "decode steps to time")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command->add_option("--ctx", options->context, "tokens already in the KV cache when decoding")
      ->check(CLI::Range(0, 1 << 24))
      ->capture_default_str();
  command->add_option("--repeats", options->repeats, "prefills to time")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  command->add_flag("--tune", options->tune, "tune first what has not been tuned");
  command->add_flag("--unfused", options->unfused,
                    "leave every row kernel by itself, to see what fusing is worth");
  command->callback([&common, options] {
    const auto ordinal = gpu_ordinal(common.device);
    ordinal ? bench_gpu(common, *options, *ordinal) : bench_cpu(common, *options);
  });
}

}  // namespace quern::cli
