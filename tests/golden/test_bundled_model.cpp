#include "model/cpu_backend.h"
#include "model/tokenizer.h"
#include "runtime/base/file.h"
#include "runtime/base/json.h"
#include "tests/support/reference_data.h"
#include "tests/support/support.h"

using namespace quern;

TEST_CASE("bundled model: logits and greedy tokens are those of transformers") {
  CpuBackend backend(test::bundled_model());
  const auto expected = test::load_expected(test::bundled_model() / "expected.safetensors");
  const auto error =
      test::logit_error(backend.forward(expected.input_ids, LogitRows::all), expected.logits);
  MESSAGE("relative error of logits " << error.norm_wise << " by norm, " << error.max_wise
                                      << " by maximum");
  CHECK_LT(error.norm_wise, 1e-4);
  CHECK_LT(error.max_wise, 1e-4);
  const Tokenizer tokenizer(test::bundled_model());
  for (const json& one : json::parse(read_file(test::bundled_model() / "greedy.json"))) {
    const auto prompt = one["prompt_ids"].get<std::vector<std::int32_t>>();
    CHECK_EQ(
        test::greedy_mismatch(backend, prompt, one["greedy_ids"].get<std::vector<std::int32_t>>(),
                              one["margins"].get<std::vector<float>>()),
        "");
    CHECK(tokenizer.encode(one["prompt"].get<std::string>()) == prompt);
  }
}

TEST_CASE("bundled model: decoding speed") {
  CpuBackend backend(test::bundled_model());
  const std::vector<std::int32_t> prompt{4080, 2927, 629, 258, 605};
  const auto generation = backend.generate(prompt, {.sampling = {}, .max_new_tokens = 256}, {});
  const double rate = 255 / generation.decode_seconds;
  MESSAGE(rate << " tokens/s, first token after " << generation.prompt_seconds * 1e3 << " ms");
  CHECK_EQ(generation.ids.size(), 256);
}
