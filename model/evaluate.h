#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "model/backend.h"
#include "model/tokenizer.h"

namespace quern {

/// How far an evaluation has come: (done, total) tokens or questions. May be empty.
using Progress = std::function<void(std::size_t done, std::size_t total)>;

struct Perplexity {
  double value = 0;        // exp of the mean negative log-likelihood
  std::size_t tokens = 0;  // that were predicted
};

/// Perplexity of a text's tokens (without a BOS): consecutive windows of `window` tokens, each
/// after a BOS and with nothing else before it; every token is predicted once. Throws InputError if
/// there are no tokens or a window does not fit into the context.
Perplexity perplexity(Backend& backend, std::span<const std::int32_t> ids, std::int64_t window,
                      std::int32_t bos_id, const Progress& progress = {});

struct Question {
  std::string question;
  std::string answer;
};

/// Reads `[{"question": ..., "answer": ...}, ...]`, at least one. Throws InputError.
std::vector<Question> load_questions(const std::filesystem::path& path);

struct QuestionScore {
  std::size_t correct = 0;
  std::vector<bool> correct_at;      // in the order of the questions
  std::vector<std::string> answers;  // the model's, trimmed, in the order of the questions
};

/// Asks each question as a conversation of its own: the chat layout, greedy, at most 24 tokens. An
/// answer is correct if it equals the expected one when both are trimmed of white space.
QuestionScore question_accuracy(Backend& backend, const Tokenizer& tokenizer,
                                std::span<const Question> questions, const Progress& progress = {});

}  // namespace quern
