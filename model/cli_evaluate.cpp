#include <fmt/format.h>

#include <cmath>
#include <sstream>

#include "model/cli.h"
#include "model/evaluate.h"
#include "model/safetensors.h"
#include "model/table.h"
#include "runtime/base/error.h"
#include "runtime/base/file.h"

namespace quern::cli {
namespace {

struct Options {
  std::string model, ids, out, text, questions;
  int window = 1023;
};

std::vector<std::int32_t> parse_ids(const std::string& argument) {
  std::string text = argument;
  if (const auto file = try_read_file(argument)) text = *file;
  for (char& c : text)
    if (c == ',' || c == '[' || c == ']') c = ' ';
  std::istringstream in(text);
  std::vector<std::int32_t> ids;
  for (std::string word; in >> word;) {
    std::size_t used = 0;
    long value = 0;
    try {
      value = std::stol(word, &used);
    } catch (const std::exception&) {
      used = 0;
    }
    if (used != word.size() || value < INT32_MIN || value > INT32_MAX)
      throw InputError(fmt::format("'{}' is not a token id, nor '{}' a file of them", word, argument));
    ids.push_back(static_cast<std::int32_t>(value));
  }
  if (ids.empty()) throw InputError("there are no token ids");
  return ids;
}

void run_logits(const Common& common, const Options& options) {
  const auto ids = parse_ids(options.ids);
  Engine engine(engine_options(common, options.model));
  std::vector<float> logits = engine.backend().forward(ids, true);
  TensorView view;
  view.name = "logits";
  view.shape = {static_cast<std::int64_t>(ids.size()), engine.config().vocab_size};
  view.data = std::as_bytes(std::span(logits));
  write_safetensors(options.out, std::span(&view, 1));
  if (common.json)
    print_json({{"shape", view.shape}, {"file", options.out}, {"device", engine.device_name()}});
  else
    fmt::print("logits [{}, {}] written to {}\n", view.shape[0], view.shape[1], options.out);
}

void run_ppl(const Common& common, const Options& options) {
  const std::string text = read_file(options.text);
  Engine engine(engine_options(common, options.model));
  const auto ids = engine.tokenizer().encode(text, {.add_bos = false, .parse_special = false});
  ProgressLine line(common);
  const auto result = perplexity(
      engine.backend(), ids, options.window,
      [&](const PerplexityProgress& p) {
        line.update(fmt::format("{} of {} tokens, perplexity so far {:.3f}", p.done, p.total,
                                p.perplexity));
      });
  line.clear();
  if (common.json)
    print_json({{"ppl", result.perplexity}, {"tokens", result.tokens}, {"window", options.window},
                {"device", engine.device_name()}});
  else
    fmt::print("perplexity {:.4f} over {} tokens on {}\n", result.perplexity, result.tokens,
               engine.device_name());
}

void run_eval(const Common& common, const Options& options) {
  const std::string text = read_file(options.questions);
  const auto questions = parse_questions(text, options.questions);
  Engine engine(engine_options(common, options.model));
  ProgressLine line(common);
  const auto result = question_accuracy(
      engine.backend(), engine.tokenizer(), questions,
      [&](const AccuracyProgress& p) {
        line.update(fmt::format("{} of {} questions, {} right", p.done, p.total, p.correct));
      });
  line.clear();
  if (common.json) {
    ordered_json kinds = ordered_json::object();
    for (const auto& [kind, score] : result.by_kind) kinds[kind] = {score.correct, score.total};
    print_json({{"correct", result.all.correct}, {"total", result.all.total}, {"by_kind", kinds},
                {"device", engine.device_name()}});
    return;
  }
  Table table({"kind", "correct", "total", "%"});
  const auto add = [&](const std::string& kind, const Score& score) {
    table.add({kind, std::to_string(score.correct), std::to_string(score.total),
               fmt::format("{:.1f}", 100.0 * static_cast<double>(score.correct) /
                                         static_cast<double>(std::max<std::size_t>(1, score.total)))});
  };
  for (const auto& [kind, score] : result.by_kind) add(kind, score);
  add("all", result.all);
  fmt::print("{}", table.text());
}

}  // namespace

void add_logits(CLI::App& app, Common& common) {
  const auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("logits", "write the logits of every token of a sequence");
  command->add_option("MODEL", options->model, "model folder (default: the bundled model)");
  command->add_option("--ids", options->ids, "1,2,3 or a file of them")->required();
  command->add_option("--out", options->out, "safetensors file to write")->required();
  command->callback([&common, options] { run_logits(common, *options); });
}

void add_ppl(CLI::App& app, Common& common) {
  const auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("ppl", "perplexity of a text");
  command->add_option("MODEL", options->model, "model folder (default: the bundled model)");
  command->add_option("--text", options->text, "UTF-8 file")->required();
  command->add_option("--window", options->window, "text tokens after each BOS")
      ->check(CLI::Range(1, 1 << 26))
      ->capture_default_str();
  command->callback([&common, options] { run_ppl(common, *options); });
}

void add_eval(CLI::App& app, Common& common) {
  const auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("eval", "exact-match accuracy on questions");
  command->add_option("MODEL", options->model, "model folder (default: the bundled model)");
  command->add_option("--questions", options->questions, "JSON: [{\"question\", \"answer\"}]")
      ->required();
  command->callback([&common, options] { run_eval(common, *options); });
}

}  // namespace quern::cli
