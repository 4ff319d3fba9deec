#include <algorithm>
#include <vector>

#include "model/cpu_backend.h"
#include "model/evaluate.h"
#include "runtime/base/error.h"
#include "runtime/base/file.h"
#include "tests/support/reference_data.h"
#include "tests/support/support.h"

using namespace quern;

namespace {

const std::vector<std::int32_t> kPrompt{4080, 2927, 629, 258, 605};

}  // namespace

TEST_CASE("how tokens are cut into calls does not matter") {
  CpuBackend backend(test::bundled_model());
  auto ids = test::load_expected(test::bundled_model() / "expected.safetensors").input_ids;
  ids.resize(75);
  const auto whole = backend.forward(ids, LogitRows::all);
  CHECK_EQ(backend.context_length(), 75);
  backend.reset();
  CHECK_EQ(backend.context_length(), 0);
  std::vector<float> pieces;
  std::size_t begin = 0;
  for (const std::size_t count : {1, 1, 14, 1, 3, 40, 15}) {
    const auto part = backend.forward(std::span(ids).subspan(begin, count), LogitRows::all);
    pieces.insert(pieces.end(), part.begin(), part.end());
    begin += count;
  }
  CHECK_LT(test::logit_error(pieces, whole).max_wise, 1e-5);
  backend.reset();
  const auto last = backend.forward(ids, LogitRows::last);
  CHECK_EQ(last.size(), 4096);
  CHECK_LT(test::logit_error(last, std::span(whole).last(4096)).max_wise, 1e-5);
}

TEST_CASE("threads do not change the result") {
  CpuBackend one(test::bundled_model(), {.num_threads = 1});
  CpuBackend four(test::bundled_model(), {.num_threads = 4});
  CHECK(one.forward(kPrompt, LogitRows::all) == four.forward(kPrompt, LogitRows::all));
}

TEST_CASE("impossible input is refused with a sentence and changes nothing") {
  CpuBackend backend(test::bundled_model(), {.max_context = 8});
  CHECK_EQ(backend.max_context(), 8);
  CHECK_THROWS_AS(backend.forward({}, LogitRows::last), InputError);
  CHECK_THROWS_AS(backend.generate({}, {}, {}), InputError);
  for (const std::int32_t id : {-1, 4096, 1 << 30})
    CHECK_THROWS_AS(backend.forward(std::vector{id}, LogitRows::last), InputError);
  CHECK_THROWS_AS(backend.forward(std::vector<std::int32_t>(9, 1), LogitRows::last), InputError);
  GenerateOptions options;
  options.sampling.top_p = 7;
  CHECK_THROWS_AS(backend.generate(kPrompt, options, {}), InputError);
  CHECK_EQ(backend.context_length(), 0);
  backend.forward(kPrompt, LogitRows::last);
  CHECK_THROWS_WITH_AS(backend.forward(kPrompt, LogitRows::last),
                       "5 tokens do not fit into the context, which has room for 3 more",
                       InputError);
}

TEST_CASE("generation ends for each of its reasons") {
  CpuBackend backend(test::bundled_model(), {.max_context = 64});
  GenerateOptions options{.sampling = {}, .max_new_tokens = 12, .stop_ids = {}};
  std::vector<std::int32_t> seen;
  const auto remember = [&](std::int32_t id) {
    seen.push_back(id);
    return true;
  };
  const Generation twelve = backend.generate(kPrompt, options, remember);
  CHECK(twelve.finish_reason == FinishReason::length);
  CHECK_EQ(twelve.ids.size(), 12);
  CHECK(seen == twelve.ids);
  CHECK_EQ(backend.context_length(), 5 + 11);

  backend.reset();
  options.stop_ids = {1534};  // greedy.json: the third token
  const Generation stopped = backend.generate(kPrompt, options, {});
  CHECK(stopped.finish_reason == FinishReason::stop);
  CHECK(stopped.ids == std::vector<std::int32_t>{11, 1973, 1534});

  backend.reset();
  options.stop_ids = {};
  const Generation cancelled =
      backend.generate(kPrompt, options, [](std::int32_t id) { return id != 1973; });
  CHECK(cancelled.finish_reason == FinishReason::cancelled);
  CHECK_EQ(cancelled.ids.size(), 2);

  backend.reset();
  options.max_new_tokens = 1000;
  const Generation full = backend.generate(kPrompt, options, {});
  CHECK(full.finish_reason == FinishReason::length);
  CHECK_EQ(full.ids.size(), 64 - 5 + 1);

  backend.reset();
  options.max_new_tokens = 0;
  CHECK(backend.generate(kPrompt, options, {}).ids.empty());
}

TEST_CASE("sampling repeats with the seed and continues from where the sequence is") {
  CpuBackend backend(test::bundled_model());
  GenerateOptions options{
      .sampling = {.temperature = 1.0f, .seed = 5}, .max_new_tokens = 16, .stop_ids = {}};
  const auto first = backend.generate(kPrompt, options, {});
  backend.reset();
  CHECK(backend.generate(kPrompt, options, {}).ids == first.ids);
  backend.reset();
  // The first eight, then the rest from where they ended: the draws depend on the position alone.
  options.max_new_tokens = 8;
  auto parts = backend.generate(kPrompt, options, {}).ids;
  const auto rest = backend.generate(std::vector{parts.back()}, options, {}).ids;
  parts.insert(parts.end(), rest.begin(), rest.end());
  CHECK(parts == first.ids);
  backend.reset();
  options.sampling.seed = 6;
  options.max_new_tokens = 16;
  CHECK(backend.generate(kPrompt, options, {}).ids != first.ids);
}

TEST_CASE("a prompt longer than a chunk goes through whole") {
  CpuBackend backend(test::bundled_model());
  auto ids = test::load_expected(test::bundled_model() / "expected.safetensors").input_ids;
  const auto expected = backend.forward(ids, LogitRows::all);
  ids.insert(ids.end(), ids.begin(), ids.begin() + 100);
  backend.reset();
  const auto logits = backend.forward(ids, LogitRows::all);
  CHECK_EQ(logits.size(), ids.size() * 4096);
  CHECK_LT(test::logit_error(std::span(logits).first(expected.size()), expected).max_wise, 1e-5);
}

TEST_CASE("perplexity does not depend on how windows are fed and counts every token once") {
  CpuBackend backend(test::bundled_model());
  const std::vector<std::int32_t> ids(kPrompt.begin() + 1, kPrompt.end());
  std::size_t last_done = 0;
  const auto progress = [&](std::size_t done, std::size_t total) {
    CHECK_GT(done, last_done);
    CHECK_EQ(total, ids.size());
    last_done = done;
  };
  const Perplexity whole = perplexity(backend, ids, 1023, 4080, progress);
  CHECK_EQ(whole.tokens, 4);
  CHECK_EQ(last_done, 4);
  CHECK_GT(whole.value, 1);
  last_done = 0;
  const Perplexity windows = perplexity(backend, ids, 3, 4080, progress);
  CHECK_EQ(windows.tokens, 4);
  CHECK_NE(windows.value, whole.value);
  CHECK_THROWS_AS(perplexity(backend, {}, 3, 4080), InputError);
  CHECK_THROWS_AS(perplexity(backend, ids, 0, 4080), InputError);
  CHECK_THROWS_AS(perplexity(backend, ids, 1 << 20, 4080), InputError);
}

TEST_CASE("questions are read, asked and scored") {
  CpuBackend backend(test::bundled_model());
  const Tokenizer tokenizer(test::bundled_model());
  const std::vector<Question> questions{{"What is 48 plus 49?", "97"},
                                        {"What is 48 plus 49?", "98"}};
  const QuestionScore score = question_accuracy(backend, tokenizer, questions);
  CHECK_EQ(score.correct, 1);
  CHECK(score.answers == std::vector<std::string>{"97", "97"});
  CHECK_EQ(load_questions(test::bundled_model() / "questions.json").size(), 600);
  const test::TemporaryFolder folder;
  for (const char* text :
       {"{}", "[3]", R"([{"question": "a"}])", R"([{"question":1,"answer":2}])"}) {
    write_file_atomically(folder.path() / "q.json", text);
    CHECK_THROWS_AS(load_questions(folder.path() / "q.json"), InputError);
  }
}
