#include <fmt/format.h>

#include <charconv>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "autotune/background_tuner.h"
#include "model/cli.h"
#include "model/cli_tune.h"
#include "model/table.h"
#include "runtime/base/error.h"
#include "runtime/base/file.h"

namespace quern::cli {
namespace {

struct Options {
  std::string model, prompt, system;
  std::vector<std::int32_t> prompt_ids;
  bool chat = false;
  std::string tune;
  int max_new_tokens = 128;
  SamplingParams sampling;
};

void add_sampling(CLI::App& command, Options& options) {
  command.add_option("-n", options.max_new_tokens, "tokens to generate at most")
      ->check(CLI::Range(1, 1 << 26))
      ->capture_default_str();
  command
      .add_option("--temperature", options.sampling.temperature, "0 = always the most likely token")
      ->check(number_between(0, 100));
  command.add_option("--top-k", options.sampling.top_k, "0 = off")->check(CLI::Range(0, 1 << 26));
  command.add_option("--top-p", options.sampling.top_p, "1 = off")->check(number_between(0, 1));
  command.add_option("--min-p", options.sampling.min_p, "0 = off")->check(number_between(0, 1));
  command.add_option("--seed", options.sampling.seed, "of the random numbers")
      ->check([](const std::string& text) {  // the parser would wrap what is negative or too large
        std::uint64_t seed = 0;
        const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), seed);
        return error == std::errc() && end == text.data() + text.size()
                   ? std::string()
                   : fmt::format("'{}' is not a whole number from 0 to 2^64 - 1", text);
      });
}

/// Engine options with weight loading shown on stderr.
EngineOptions with_progress(const Common& common, const std::string& model, ProgressLine& line) {
  EngineOptions options = engine_options(common, model);
  options.progress = [&line](std::string_view what, double done, double total) {
    line.update(fmt::format("loading {} {:.1f} of {:.1f} GB", what, done / 1e9, total / 1e9));
  };
  return options;
}

std::vector<std::int32_t> prompt_of(const Engine& engine, const Options& options,
                                    const std::string& text) {
  if (!options.prompt_ids.empty()) return options.prompt_ids;
  if (!options.chat) return engine.tokenizer().encode(text);
  std::vector<ChatMessage> messages;
  if (!options.system.empty()) messages.push_back({"system", options.system});
  messages.push_back({"user", text});
  return encode_chat(engine.tokenizer(), messages);
}

std::size_t compiled_count(Engine& engine) {
  return engine.gpu() ? engine.gpu()->kernels().counts().compiled : 0;
}

void show_kernels(const Common& common, Engine& engine) {
  if (!common.verbose || !engine.gpu_model()) return;
  for (const std::string& line : engine.gpu_model()->describe(1)) note("{}\n", line);
}

ordered_json generation_json(Engine& engine, const TextGeneration& g) {
  return {{"prompt_ids", g.prompt_ids},
          {"output_ids", g.output_ids},
          {"text", g.text},
          {"finish_reason", g.finish_reason},
          {"tokens_per_second", g.tokens_per_second()},
          {"prompt_seconds", g.prompt_seconds},
          {"decode_seconds", g.decode_seconds},
          {"device", engine.device_name()},
          {"compiled", compiled_count(engine)},
          {"tuned", engine.gpu() ? engine.gpu()->kernels().counts().tuned : 0},
          {"defaulted", engine.gpu() ? engine.gpu()->kernels().counts().defaulted : 0}};
}

/// Tunes beside a generation that the engine's GPU is busy with, and swaps in what it finds.
class BesideGeneration {
 public:
  BesideGeneration(Engine& engine, std::size_t prompt_tokens) : engine_(engine) {
    if (!engine.gpu())
      throw InputError("there is nothing to tune on the CPU: --tune needs a GPU");
    tuner_ = tune_in_background(
        engine.gpu()->kernels(), FamilyRegistry::shipped,
        requests_of(engine.config(), engine.gpu_model()->weights().addresses(), {1},
                    {static_cast<int>(prompt_tokens)}));
  }
  void between_steps() {
    if (!tuner_) return;
    const bool last = tuner_->done();
    if (!last) engine_.gpu_model()->stream().synchronize();
    const auto found = tuner_->yield();
    if (!found.empty()) {
      engine_.gpu_model()->stream().synchronize();
      for (const TuningRecord& record : found) engine_.gpu()->kernels().note_record(record);
      engine_.gpu_model()->forget_graphs();
      num_found_ += found.size();
    }
    if (!last) return;
    if (const std::string why = tuner_->failure(); !why.empty())
      note("tuning in the background ended: {}\n", why);
    tuner_.reset();
  }
  std::size_t num_found() const { return num_found_; }
  bool done() const { return !tuner_; }

 private:
  Engine& engine_;
  std::unique_ptr<BackgroundTuner> tuner_;
  std::size_t num_found_ = 0;
};

void run_run(const Common& common, const Options& options) {
  if (options.prompt.empty() && options.prompt_ids.empty())
    throw InputError("there is no prompt: give --prompt or --prompt-ids");
  if (options.chat && !options.prompt_ids.empty())
    throw InputError("--chat lays out text: it does not go with --prompt-ids");
  ProgressLine line(common);
  Engine engine(with_progress(common, options.model, line));
  line.clear();
  show_kernels(common, engine);
  const auto prompt = prompt_of(engine, options, options.prompt);
  GenerateOptions generate{options.sampling, options.max_new_tokens, {}, {}};
  std::optional<BesideGeneration> beside;
  if (!options.tune.empty()) {
    beside.emplace(engine, prompt.size());
    generate.between_steps = [&beside] { beside->between_steps(); };
  }
  if (common.json) {
    ordered_json document = generation_json(engine, engine.generate(prompt, generate));
    if (beside) document["tuned_in_background"] = beside->num_found();
    print_json(document);
    return;
  }
  // The prompt leads its continuation, once it is known to be fit for one.
  std::string lead = options.chat ? "" : options.prompt;
  const TextGeneration g = engine.generate(prompt, generate, [&](std::string_view text) {
    print_text(std::exchange(lead, "") + std::string(text));
    return true;
  });
  print_text(lead + "\n");
  std::string kernels;
  if (beside)
    note("{} problems were tuned meanwhile{}\n", beside->num_found(),
         beside->done() ? ", which is all of them" : "; the next run goes on");
  if (engine.gpu()) {
    const KernelCounts& counts = engine.gpu()->kernels().counts();
    if (counts.defaulted > 0 && !beside)
      note("{} of the kernels were never tuned on this GPU and run as their defaults: `quern tune` "
           "finds better ones, and so does `--tune background` while it answers\n",
           counts.defaulted);
    kernels =
        fmt::format("; {} kernels compiled, {} from the cache; {} problems tuned, {} on defaults",
                    counts.compiled, counts.image_hits, counts.tuned, counts.defaulted);
  }
  note("{}: {} prompt tokens in {:.3f} s, {} tokens at {:.1f} tokens/s ({}){}\n",
       engine.device_name(), g.prompt_ids.size(), g.prompt_seconds, g.output_ids.size(),
       g.tokens_per_second(), g.finish_reason, kernels);
}

/// The main job in one command: tune what is untuned, capture, answer, and account for it.
void run_demo(const Common& common, const Options& options) {
  ProgressLine line(common);
  EngineOptions engine_options = with_progress(common, options.model, line);
  engine_options.strict = false;
  std::size_t tuned_now = 0;
  Engine engine(engine_options);
  line.clear();
  struct Prompt {
    const char* text;
    bool chat;
    std::vector<std::int32_t> ids;
  };
  std::vector<Prompt> prompts = {{"Once upon a time", false, {}},
                                 {"What is 48 plus 49?", true, {}},
                                 {"What is the capital of France?", true, {}},
                                 {"What is the opposite of slow?", true, {}}};
  std::vector<int> lengths;
  for (Prompt& prompt : prompts) {
    Options one = options;
    one.chat = prompt.chat;
    prompt.ids = prompt_of(engine, one, prompt.text);
    lengths.push_back(static_cast<int>(prompt.ids.size()));
  }
  // With --json the account alone is printed, at the end.
  const auto say = [&](const std::string& text) {
    if (!common.json) print_text(text);
  };
  say(fmt::format("model   {}\n", engine_options.model.string()));
  if (engine.gpu()) {
    const DeviceInfo& d = engine.gpu()->context().device();
    say(fmt::format("device  {} ({}, {} SMs, {:.0f} GB)\n", d.name, d.arch().name(), d.num_sms,
                    static_cast<double>(d.memory_bytes) / 1e9));
    TuneReport report = tune_with_progress(common, engine.gpu()->kernels(),
                                           requests_of(engine.config(),
                                                       engine.gpu_model()->weights().addresses(),
                                                       {1}, lengths),
                                           {});
    refine_with_progress(common, *engine.gpu(), *engine.gpu_model(), engine.config(), report, {1});
    for (const ProblemReport& p : report.problems)
      tuned_now += p.outcome == ProblemReport::Outcome::tuned;
    say(fmt::format("tuning  {} problems, {} tuned now in {:.1f} s, {} kernels compiled\n",
                    report.problems.size(), tuned_now, report.seconds, report.compiled));
    const std::size_t nodes = engine.gpu_model()->ensure_graph(1);
    say(fmt::format("graph   {} kernels a token, one launch; captured in {:.1f} ms\n", nodes,
                    engine.gpu_model()->capture_ms()));
  } else {
    say(fmt::format("device  {}: {}\n", engine.device_name(),
                    common.device == "cpu" ? "as asked" : driver_problem()));
  }
  show_kernels(common, engine);

  Table table({"prompt", "tokens", "first token ms", "tokens/s", "ms/token"});
  ordered_json answers = ordered_json::array();
  double tokens = 0, seconds = 0;
  for (const Prompt& p : prompts) {
    say(fmt::format("\n> {}\n", p.text));
    const TextGeneration g = engine.generate(p.ids, {options.sampling, options.max_new_tokens, {}, {}},
                                             [&](std::string_view text) {
                                               say(std::string(text));
                                               return true;
                                             });
    say("\n");
    ordered_json answer = generation_json(engine, g);
    answer["prompt"] = p.text;
    answers.push_back(std::move(answer));
    const double rate = g.tokens_per_second();
    table.add({p.text, std::to_string(g.output_ids.size()),
               fmt::format("{:.1f}", g.prompt_seconds * 1e3),
               rate > 0 ? fmt::format("{:.0f}", rate) : "-",
               rate > 0 ? fmt::format("{:.3f}", 1e3 / rate) : "-"});
    if (rate > 0) {
      tokens += static_cast<double>(g.output_ids.size() - 1);
      seconds += g.decode_seconds;
    }
  }
  const double rate = seconds > 0 ? tokens / seconds : 0;
  if (common.json) {
    print_json({{"model", engine_options.model.string()},
                {"device", engine.device_name()},
                {"answers", answers},
                {"tokens_per_second", rate},
                {"compiled", compiled_count(engine)},
                {"tuned_now", tuned_now}});
    return;
  }
  table.add({"all", fmt::format("{:.0f}", tokens), "", fmt::format("{:.0f}", rate),
             rate > 0 ? fmt::format("{:.3f}", 1e3 / rate) : "-"});
  fmt::print("\n{}", table.text());
  if (!engine.gpu()) {
    fmt::print(
        "kernels: nothing to compile for CUDA or to tune on the CPU; the row kernels were "
        "built by LLVM\n");
    return;
  }
  const KernelCounts& counts = engine.gpu()->kernels().counts();
  const double bytes = static_cast<double>(engine.gpu_model()->weights().bytes_per_step());
  const double roof = engine.gpu()->read_roof();
  fmt::print("memory:  {:.1f} GB/s of weights, {:.1f}% of the measured roof of {:.0f} GB/s\n",
             bytes * rate / 1e9, 100 * bytes * rate / roof, roof / 1e9);
  fmt::print(
      "kernels: {} compiled, {} cache hits; {} problems served tuned ({} tuned now), {} on "
      "defaults\n",
      counts.compiled, counts.image_hits, counts.tuned, tuned_now, counts.defaulted);
  if (counts.compiled == 0) fmt::print("nothing was compiled: every kernel came from the cache\n");
}

}  // namespace

void add_run(CLI::App& app, Common& common) {
  const auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("run", "generate text");
  command->add_option("MODEL", options->model, "model folder (default: the bundled model)");
  command->add_option("--prompt", options->prompt, "text to continue, or with --chat to answer");
  command->add_option("--prompt-ids", options->prompt_ids, "token ids to continue")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->excludes("--prompt");
  command->add_flag("--chat", options->chat, "answer as the assistant");
  command->add_option("--system", options->system, "system message for --chat");
  add_sampling(*command, *options);
  command
      ->add_option("--tune", options->tune,
                   "background: tune on the side, and use what is found from the next token on")
      ->check(CLI::IsMember({"background"}));
  command->callback([&common, options] { run_run(common, *options); });
}

void add_demo(CLI::App& app, Common& common) {
  const auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "demo", "the main job: tune, capture, answer a few prompts, and account for it");
  command->add_option("MODEL", options->model, "model folder (default: the bundled model)");
  add_sampling(*command, *options);
  command->callback([&common, options] { run_demo(common, *options); });
}

}  // namespace quern::cli
