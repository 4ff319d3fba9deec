#include "model/evaluate.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "model/chat_template.h"
#include "model/json_reader.h"
#include "model/utf8.h"
#include "runtime/base/error.h"

namespace quern {
namespace {

constexpr std::int64_t kMaxAnswerTokens = 24;
// Bounds the logits that are held at once; a window goes through in pieces where they are wide.
constexpr std::size_t kMaxLogitBytes = 64 << 20;

/// -log softmax(logits)[target]
double negative_log_likelihood(std::span<const float> logits, std::int32_t target) {
  const float largest = *std::ranges::max_element(logits);
  double sum = 0;
  for (const float logit : logits) sum += static_cast<double>(std::exp(logit - largest));
  return std::log(sum) - static_cast<double>(logits[static_cast<std::size_t>(target)] - largest);
}

}  // namespace

Perplexity perplexity(Backend& backend, std::span<const std::int32_t> ids, std::int64_t window,
                      std::int32_t bos_id, const Progress& progress) {
  if (ids.empty()) throw InputError("the text has no tokens to predict");
  if (window < 1 || window > backend.max_context())
    throw InputError(fmt::format("a window of {} tokens is not between 1 and the context's {}",
                                 window, backend.max_context()));
  const auto vocab_size = static_cast<std::size_t>(backend.config().vocab_size);
  const std::size_t max_rows = std::max<std::size_t>(1, kMaxLogitBytes / (4 * vocab_size));
  double total = 0;
  std::size_t done = 0;
  while (done < ids.size()) {
    const auto targets =
        ids.subspan(done, std::min(static_cast<std::size_t>(window), ids.size() - done));
    // What is fed is one step behind what is predicted.
    std::vector<std::int32_t> inputs{bos_id};
    inputs.insert(inputs.end(), targets.begin(), targets.end() - 1);
    backend.reset();
    for (std::size_t i = 0; i < inputs.size(); i += max_rows) {
      const std::size_t rows = std::min(max_rows, inputs.size() - i);
      const auto logits = backend.forward(std::span(inputs).subspan(i, rows), LogitRows::all);
      for (std::size_t row = 0; row < rows; ++row)
        total += negative_log_likelihood(std::span(logits).subspan(row * vocab_size, vocab_size),
                                         targets[i + row]);
    }
    done += targets.size();
    if (progress) progress(done, ids.size());
  }
  return {std::exp(total / static_cast<double>(ids.size())), ids.size()};
}

std::vector<Question> load_questions(const std::filesystem::path& path) {
  const json file = read_json_file(path);
  if (!file.is_array())
    throw InputError(fmt::format("{} is not a list of questions", path.string()));
  std::vector<Question> questions;
  for (const json& entry : file) {
    const JsonReader in(entry, fmt::format("question {} of {}", questions.size(), path.string()));
    questions.push_back({in.text("question"), in.text("answer")});
  }
  if (questions.empty()) throw InputError(fmt::format("{} holds no questions", path.string()));
  return questions;
}

QuestionScore question_accuracy(Backend& backend, const Tokenizer& tokenizer,
                                std::span<const Question> questions, const Progress& progress) {
  QuestionScore score;
  const GenerateOptions options{.sampling = {},
                                .max_new_tokens = kMaxAnswerTokens,
                                .stop_ids = backend.config().stop_token_ids};
  for (const Question& question : questions) {
    const std::vector<ChatMessage> messages{{"user", question.question}};
    backend.reset();
    const auto generation = backend.generate(encode_chat(tokenizer, messages), options, {});
    const std::string text = tokenizer.decode(generation.ids);
    score.answers.emplace_back(trim(text));
    score.correct_at.push_back(trim(text) == trim(question.answer));
    if (score.correct_at.back()) ++score.correct;
    if (progress) progress(score.answers.size(), questions.size());
  }
  return score;
}

}  // namespace quern
