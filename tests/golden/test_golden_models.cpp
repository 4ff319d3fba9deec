#include "model/cpu_backend.h"
#include "runtime/base/file.h"
#include "runtime/base/json.h"
#include "tests/support/reference_data.h"
#include "tests/support/support.h"

using namespace quern;

namespace {

void check_model(const std::filesystem::path& folder) {
  const test::Expected expected = test::load_expected(folder / "expected.safetensors");
  CpuBackend backend(folder);
  const auto logits = backend.forward(expected.input_ids, LogitRows::all);
  const test::LogitError error = test::logit_error(logits, expected.logits);
  MESSAGE(folder.filename().string() << ": relative error of logits " << error.norm_wise
                                     << " by norm, " << error.max_wise << " by maximum");
  CHECK_LT(error.norm_wise, 1e-4);
  CHECK_LT(error.max_wise, 1e-4);
  CHECK_EQ(test::greedy_mismatch(backend, expected.input_ids, expected.greedy_ids,
                                 expected.greedy_margins),
           "");
}

}  // namespace

TEST_CASE("logits and greedy tokens of the golden models") {
  const auto shared = test::shared_folder();
  QUERN_SKIP_IF(!shared, "no shared folder");
  for (const char* name :
       {"llama3-gqa", "llama31-rope-scaling", "llama32-tied", "mistral-sliding-window",
        "llama3-awq", "llama3-gptq"})
    check_model(*shared / "golden" / name);
}

TEST_CASE("stories260K tells its story") {
  const auto shared = test::shared_folder();
  QUERN_SKIP_IF(!shared, "no shared folder");
  const auto folder = *shared / "data/models/stories260K";
  const json reference = json::parse(read_file(folder / "greedy_reference.json"));
  CpuBackend backend(folder);
  CHECK_EQ(test::greedy_mismatch(backend, reference["prompt_ids"].get<std::vector<std::int32_t>>(),
                                 reference["greedy_ids"].get<std::vector<std::int32_t>>(),
                                 reference["top1_minus_top2_logit"].get<std::vector<float>>()),
           "");
}
