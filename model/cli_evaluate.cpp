#include <fmt/format.h>

#include <map>
#include <sstream>
#include <vector>

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
  std::vector<float> logits = engine.backend().forward(ids, LogitRows::all);
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
  const auto bos = engine.tokenizer().bos_id();
  if (!bos) throw InputError("the tokenizer has no BOS to put before each window");
  ProgressLine line(common);
  const Perplexity result =
      perplexity(engine.backend(), ids, options.window, *bos, [&](std::size_t done, std::size_t total) {
        line.update(fmt::format("perplexity: {} of {} tokens", done, total));
      });
  line.clear();
  if (common.json)
    print_json({{"ppl", result.value}, {"tokens", result.tokens}, {"window", options.window},
                {"device", engine.device_name()}});
  else
    fmt::print("perplexity {:.4f} over {} tokens on {}\n", result.value, result.tokens,
               engine.device_name());
}

/// Questions of one kind begin alike; kinds too rare to say anything about are put together.
std::map<std::string, std::vector<std::size_t>> by_kind(const std::vector<Question>& questions) {
  std::map<std::string, std::vector<std::size_t>> kinds;
  for (std::size_t i = 0; i < questions.size(); ++i) {
    std::istringstream words(questions[i].question);
    std::string first, second;
    words >> first >> second;
    kinds[first + ' ' + second].push_back(i);
  }
  std::vector<std::size_t> others;
  for (auto kind = kinds.begin(); kind != kinds.end();) {
    if (kind->second.size() * 50 >= questions.size()) {
      ++kind;
      continue;
    }
    others.insert(others.end(), kind->second.begin(), kind->second.end());
    kind = kinds.erase(kind);
  }
  if (!others.empty()) kinds["other"] = std::move(others);
  return kinds;
}

void run_eval(const Common& common, const Options& options) {
  const std::vector<Question> questions = load_questions(options.questions);
  Engine engine(engine_options(common, options.model));
  ProgressLine line(common);
  const QuestionScore score =
      question_accuracy(engine.backend(), engine.tokenizer(), questions,
                        [&](std::size_t done, std::size_t total) {
                          line.update(fmt::format("{} of {} questions", done, total));
                        });
  line.clear();
  ordered_json kinds = ordered_json::object();
  Table table({"kind", "correct", "total", "%"});
  const auto add = [&](const std::string& kind, std::size_t correct, std::size_t total) {
    table.add({kind, std::to_string(correct), std::to_string(total),
               total == 0 ? "-"
                          : fmt::format("{:.1f}", 100.0 * static_cast<double>(correct) /
                                                      static_cast<double>(total))});
  };
  for (const auto& [kind, members] : by_kind(questions)) {
    std::size_t correct = 0;
    for (const std::size_t i : members) correct += score.correct_at[i] ? 1 : 0;
    kinds[kind] = {correct, members.size()};
    add(kind, correct, members.size());
  }
  add("all", score.correct, questions.size());
  if (common.json)
    print_json({{"correct", score.correct}, {"total", questions.size()}, {"by_kind", kinds},
                {"device", engine.device_name()}});
  else
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
