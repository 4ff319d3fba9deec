#include <algorithm>
#include <cmath>

#include "model/bench.h"
#include "model/evaluate.h"
#include "model/gpu_backend.h"
#include "model/gpu_session.h"
#include "model/sampling.h"
#include "model/tokenizer.h"
#include "runtime/base/error.h"
#include "runtime/base/file.h"
#include "runtime/base/json.h"
#include "templates/embedded.h"
#include "tests/support/gpu.h"
#include "tests/support/reference_data.h"
#include "tests/support/support.h"

using namespace quern;

namespace {

/// Kernels are compiled once for all tests of a run.
GpuSession& session() {
  static const test::TemporaryFolder cache;
  static GpuSession shared({0, cache.path(), {}, {}});
  return shared;
}

GpuBackend open(const std::filesystem::path& folder, GpuModelOptions options = {}) {
  const ModelConfig config = load_config(folder);
  return GpuBackend(config, session().open(config, load_weights(folder, config),
                                           gpu_dtype(config), options));
}

/// bf16 keeps 8 bits: a choice can flip where the reference's two best are closer than its noise.
constexpr float kMargin = 0.25f;

/// Greedy generation through the graph follows the reference to its first near-tie.
void check_greedy(Backend& backend, const std::vector<std::int32_t>& prompt,
                  const std::vector<std::int32_t>& expected, const std::vector<float>& margins) {
  backend.reset();
  GenerateOptions options;
  options.max_new_tokens = static_cast<std::int64_t>(expected.size());
  const Generation out = backend.generate(prompt, options, {});
  REQUIRE_EQ(out.ids.size(), expected.size());
  for (std::size_t i = 0; i < expected.size(); ++i) {
    if (out.ids[i] == expected[i]) continue;
    CAPTURE(i);
    CHECK_LT(margins[i], kMargin);
    return;
  }
}

void check_model(const std::filesystem::path& folder) {
  GpuBackend backend = open(folder);
  const test::Expected expected = test::load_expected(folder / "expected.safetensors");
  const auto logits = backend.forward(expected.input_ids, LogitRows::all);
  const test::LogitError error = test::logit_error(logits, expected.logits);
  MESSAGE(folder.filename().string() << ": relative error of logits " << error.norm_wise
                                     << " by norm, " << error.max_wise << " by maximum");
  CHECK_LT(error.norm_wise, 1.5e-2);
  if (!expected.greedy_ids.empty())
    check_greedy(backend, expected.input_ids, expected.greedy_ids, expected.greedy_margins);
}

}  // namespace

TEST_CASE("logits and greedy tokens of the golden models through the graph") {
  QUERN_SKIP_IF(!test::gpu_available(), driver_problem());
  const auto shared = test::shared_folder();
  QUERN_SKIP_IF(!shared, "no shared folder");
  for (const char* name :
       {"llama3-gqa", "llama31-rope-scaling", "llama32-tied", "mistral-sliding-window",
        "llama3-awq", "llama3-gptq"})
    check_model(*shared / "golden" / name);
}

TEST_CASE("golden models whichever way row kernels are fused into products") {
  QUERN_SKIP_IF(!test::gpu_available(), driver_problem());
  const auto shared = test::shared_folder();
  QUERN_SKIP_IF(!shared, "no shared folder");
  for (const char* name :
       {"llama3-gqa", "llama32-tied", "mistral-sliding-window", "llama3-awq", "llama3-gptq"}) {
    const auto folder = *shared / "golden" / name;
    const test::Expected expected = test::load_expected(folder / "expected.safetensors");
    const auto vocab = expected.logits.size() / expected.input_ids.size();
    const std::size_t singly = std::min<std::size_t>(24, expected.input_ids.size());
    const ModelConfig config = load_config(folder);
    for (const StepFusion& fusion : step_fusions(gpu_dtype(config), weight_layout(config), 1)) {
      CAPTURE(name);
      CAPTURE(to_text(fusion));
      GpuBackend backend = open(folder, {.fusion = fusion});
      const auto logits = backend.forward(expected.input_ids, LogitRows::all);
      const test::LogitError error = test::logit_error(logits, expected.logits);
      CHECK_LT(error.norm_wise, 1.5e-2);
      // One token at a time: products then normalise their input where they can.
      backend.reset();
      std::vector<float> one_by_one;
      for (const std::int32_t id : std::span(expected.input_ids).first(singly)) {
        const auto row = backend.forward(std::span(&id, 1), LogitRows::last);
        one_by_one.insert(one_by_one.end(), row.begin(), row.end());
      }
      const test::LogitError single =
          test::logit_error(one_by_one, std::span(expected.logits).first(singly * vocab));
      MESSAGE(name << ", " << to_text(fusion) << ": relative error of logits " << error.norm_wise
                   << ", one by one " << single.norm_wise);
      CHECK_LT(single.norm_wise, 1.5e-2);
      if (!expected.greedy_ids.empty())
        check_greedy(backend, expected.input_ids, expected.greedy_ids, expected.greedy_margins);
    }
  }
}

TEST_CASE("stories260K, head_dim 8, through the graph") {
  QUERN_SKIP_IF(!test::gpu_available(), driver_problem());
  const auto shared = test::shared_folder();
  QUERN_SKIP_IF(!shared, "no shared folder");
  const auto folder = *shared / "data/models/stories260K";
  const json reference = json::parse(read_file(folder / "greedy_reference.json"));
  GpuBackend backend = open(folder);
  check_greedy(backend, reference["prompt_ids"].get<std::vector<std::int32_t>>(),
               reference["greedy_ids"].get<std::vector<std::int32_t>>(),
               reference["top1_minus_top2_logit"].get<std::vector<float>>());
}

TEST_CASE("the bundled model: logits, greedy texts, perplexity, questions") {
  QUERN_SKIP_IF(!test::gpu_available(), driver_problem());
  const auto folder = test::bundled_model();
  check_model(folder);
  GpuBackend backend = open(folder);
  for (const json& one : json::parse(read_file(folder / "greedy.json")))
    check_greedy(backend, one["prompt_ids"].get<std::vector<std::int32_t>>(),
                 one["greedy_ids"].get<std::vector<std::int32_t>>(),
                 one["margins"].get<std::vector<float>>());
  const Tokenizer tokenizer(folder);
  const auto ids = tokenizer.encode(read_file(folder / "holdout.txt"), {.add_bos = false});
  const Perplexity ppl = perplexity(backend, ids, 1023, *tokenizer.bos_id());
  const json reference = json::parse(read_file(folder / "reference.json"));
  MESSAGE("perplexity " << ppl.value << " over " << ppl.tokens << " tokens");
  CHECK_EQ(ppl.tokens, reference["tokens holdout"].get<std::size_t>());
  CHECK(ppl.value ==
        doctest::Approx(reference["ppl holdout fp32"].get<double>()).epsilon(0.005));
  const auto questions = load_questions(folder / "questions.json");
  const QuestionScore score = question_accuracy(backend, tokenizer, questions);
  std::size_t expected = 0;
  for (const auto& [kind, counts] : reference["question accuracy fp32"].items())
    expected += counts[0].get<std::size_t>();
  MESSAGE(score.correct << " of " << questions.size() << " questions, reference " << expected);
  CHECK_LE(std::abs(static_cast<double>(score.correct) - static_cast<double>(expected)),
           0.01 * static_cast<double>(questions.size()));
}

TEST_CASE("a prompt in chunks gives what it gives in one piece") {
  QUERN_SKIP_IF(!test::gpu_available(), driver_problem());
  const auto folder = test::bundled_model();
  const test::Expected expected = test::load_expected(folder / "expected.safetensors");
  GpuBackend whole = open(folder), chunked = open(folder, {.prefill_chunk = 100});
  const auto a = whole.forward(expected.input_ids, LogitRows::all);
  const auto b = chunked.forward(expected.input_ids, LogitRows::all);
  CHECK_LT(test::logit_error(b, a).norm_wise, 1e-2);
  const auto last = chunked.config().vocab_size;
  chunked.reset();
  const auto c = chunked.forward(expected.input_ids, LogitRows::last);
  REQUIRE_EQ(c.size(), static_cast<std::size_t>(last));
  CHECK_LT(test::logit_error(c, std::span(b).last(c.size())).norm_wise, 1e-2);
  // One token at a time goes through prefill kernels too, at their smallest.
  whole.reset();
  std::vector<float> one_by_one;
  for (const std::int32_t id : std::span(expected.input_ids).first(70)) {
    const auto row = whole.forward(std::span(&id, 1), LogitRows::last);
    one_by_one.insert(one_by_one.end(), row.begin(), row.end());
  }
  CHECK_LT(test::logit_error(one_by_one, std::span(a).first(one_by_one.size())).norm_wise, 1e-2);
}

TEST_CASE("sampled tokens are those of the CPU reference on the same logits") {
  QUERN_SKIP_IF(!test::gpu_available(), driver_problem());
  GpuBackend backend = open(test::bundled_model());
  const std::vector<std::int32_t> prompt = {4080, 2927, 629, 258, 605};
  const std::vector<float> logits = backend.forward(prompt, LogitRows::last);
  int differing = 0;
  for (std::uint64_t seed = 0; seed < 40; ++seed) {
    SamplingParams params;
    params.temperature = 0.5f + 0.05f * static_cast<float>(seed);
    params.seed = seed * 0x123456789abcdefull;
    if (seed % 2 == 1) params.top_k = 5 + static_cast<int>(seed);
    if (seed % 3 == 1) params.top_p = 0.9f;
    if (seed % 5 == 1) params.min_p = 0.05f;
    backend.reset();
    const Generation out = backend.generate(prompt, {params, 1, {}}, {});
    REQUIRE_EQ(out.ids.size(), 1);
    differing += out.ids[0] != sample(logits, params, static_cast<std::uint32_t>(prompt.size()));
  }
  CHECK_LE(differing, 1);  // exp and log round differently: one flip in 40 is already rare
}

TEST_CASE("equal sequences of a batch stay equal, and repeat from run to run") {
  QUERN_SKIP_IF(!test::gpu_available(), driver_problem());
  const auto folder = test::bundled_model();
  const ModelConfig config = load_config(folder);
  const auto model = session().open(config, load_weights(folder, config), gpu_dtype(config),
                                    {.max_batch = 3, .max_context = 512});
  const std::vector<std::int32_t> prompt = {4080, 2927, 629, 258, 605};
  std::vector<std::int32_t> first_run;
  for (int run = 0; run < 2; ++run) {
    model->reset();
    for (int s = 0; s < 3; ++s) {
      model->append(s, prompt, GpuModel::Logits::none, true);
      model->reserve(s, 300);
    }
    for (int step = 0; step < 200; ++step) model->decode(3);
    model->stream().synchronize();
    std::vector<std::int32_t> tokens;
    for (int p = 5; p <= 205; ++p) {
      tokens.push_back(model->token_at(0, p));
      CHECK_EQ(model->token_at(1, p), tokens.back());
      CHECK_EQ(model->token_at(2, p), tokens.back());
      CHECK_GE(tokens.back(), 0);
    }
    if (run == 0)
      first_run = tokens;
    else
      CHECK_EQ(tokens, first_run);
  }
}

TEST_CASE("what does not fit is refused and changes nothing") {
  QUERN_SKIP_IF(!test::gpu_available(), driver_problem());
  const auto folder = test::bundled_model();
  GpuBackend backend = open(folder, {.max_context = 64});
  const std::vector<std::int32_t> long_prompt(65, 1), good = {4080, 1, 2};
  CHECK_THROWS_AS(backend.forward(long_prompt, LogitRows::last), InputError);
  CHECK_THROWS_AS(backend.forward(std::vector<std::int32_t>{4096}, LogitRows::last), InputError);
  CHECK_THROWS_AS(backend.forward({}, LogitRows::last), InputError);
  CHECK_EQ(backend.context_length(), 0);
  const Generation full = backend.generate(good, {{}, 1000, {}}, {});
  CHECK(full.finish_reason == FinishReason::length);
  CHECK_EQ(full.ids.size(), 62);  // positions 3 .. 63, and one more that is never run
  int seen = 0;
  backend.reset();
  const Generation cut = backend.generate(good, {{}, 50, {}}, [&](std::int32_t) { return ++seen < 4; });
  CHECK(cut.finish_reason == FinishReason::cancelled);
  CHECK_EQ(cut.ids.size(), 4);
  CHECK_THROWS_AS(open(folder, {.max_context = 4096}), InputError);
}
