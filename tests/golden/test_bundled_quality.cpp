#include <chrono>
#include <cmath>
#include <map>

#include "model/cpu_backend.h"
#include "model/evaluate.h"
#include "runtime/base/file.h"
#include "runtime/base/json.h"
#include "tests/support/support.h"

using namespace quern;

namespace {

// The whole text takes tens of seconds, and many minutes where every access is checked.
#ifdef __SANITIZE_ADDRESS__
constexpr bool kTooSlow = true;
#else
constexpr bool kTooSlow = false;
#endif

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

json reference() { return json::parse(read_file(test::bundled_model() / "reference.json")); }

/// As reference.json groups them: by the first two words, but questions about a story begin with
/// the story.
std::string kind_of(const std::string& question) {
  for (const char* kind : {"What is", "Sort these", "Which is"})
    if (question.starts_with(kind)) return kind;
  return "recall";
}

}  // namespace

TEST_CASE("bundled model: perplexity of the held-out text is that of transformers") {
  QUERN_SKIP_IF(kTooSlow, "too slow with sanitizers");
  CpuBackend backend(test::bundled_model());
  const Tokenizer tokenizer(test::bundled_model());
  const auto ids = tokenizer.encode(read_file(test::bundled_model() / "holdout.txt"),
                                    {.add_bos = false, .parse_special = false});
  CHECK_EQ(ids.size(), reference()["tokens holdout"].get<std::size_t>());
  const auto start = std::chrono::steady_clock::now();
  const Perplexity result = perplexity(backend, ids, 1023, *tokenizer.bos_id());
  MESSAGE("perplexity " << result.value << " in " << seconds_since(start) << " s");
  CHECK_EQ(result.tokens, ids.size());
  const double expected = reference()["ppl holdout fp32"].get<double>();
  CHECK_LT(std::abs(result.value - expected) / expected, 1e-3);
}

TEST_CASE("bundled model: accuracy on the questions is that of transformers") {
  QUERN_SKIP_IF(kTooSlow, "too slow with sanitizers");
  CpuBackend backend(test::bundled_model());
  const Tokenizer tokenizer(test::bundled_model());
  const auto questions = load_questions(test::bundled_model() / "questions.json");
  const auto start = std::chrono::steady_clock::now();
  const QuestionScore score = question_accuracy(backend, tokenizer, questions);
  MESSAGE(score.correct << " of " << questions.size() << " in " << seconds_since(start) << " s");
  std::map<std::string, std::pair<int, int>> by_kind;  // correct, asked
  for (std::size_t i = 0; i < questions.size(); ++i) {
    auto& [correct, asked] = by_kind[kind_of(questions[i].question)];
    ++asked;
    if (score.answers[i] == questions[i].answer) ++correct;
  }
  const json expected = reference()["question accuracy fp32"];
  CHECK_EQ(by_kind.size(), expected.size());
  for (const auto& [kind, counts] : by_kind) {
    INFO(kind << ": " << counts.first << " of " << counts.second);
    CHECK_EQ(counts.second, expected[kind][1].get<int>());
    CHECK_LE(std::abs(counts.first - expected[kind][0].get<int>()), 0.01 * counts.second);
  }
}
