#include <sstream>

#include "model/config.h"
#include "model/tokenizer.h"
#include "model/weights.h"
#include "runtime/base/error.h"
#include "runtime/base/file.h"
#include "runtime/base/json.h"
#include "tests/support/support.h"

using namespace quern;

namespace {

/// llama.cpp's test vectors: texts separated by a line, and for each a line of ids, without a BOS.
void check_vectors(const std::filesystem::path& folder, const std::string& stem) {
  const Tokenizer tokenizer(folder);
  const std::string texts = read_file(folder / (stem + ".inp"));
  std::istringstream lines(read_file(folder / (stem + ".out")));
  const std::string separator = "\n__ggml_vocab_test__\n";
  int count = 0;
  for (std::size_t begin = 0; begin < texts.size();) {
    const std::size_t end = std::min(texts.find(separator, begin), texts.size());
    const std::string text = texts.substr(begin, end - begin);
    begin = end + separator.size();
    std::string line;
    REQUIRE(std::getline(lines, line));
    std::istringstream numbers(line);
    std::vector<std::int32_t> expected;
    for (std::int32_t id; numbers >> id;) expected.push_back(id);
    INFO("text " << count << ": " << text);
    CHECK(tokenizer.encode(text, {.add_bos = false}) == expected);
    CHECK_EQ(tokenizer.decode(expected), text);
    ++count;
  }
  CHECK_GT(count, 40);
}

}  // namespace

TEST_CASE("Llama 3 tokenizer agrees with llama.cpp's vectors") {
  const auto shared = test::shared_folder();
  QUERN_SKIP_IF(!shared, "no shared folder");
  check_vectors(*shared / "data/tokenizers/llama3", "ggml-vocab-llama-bpe.gguf");
}

TEST_CASE("Llama 2 tokenizer agrees with llama.cpp's vectors") {
  const auto shared = test::shared_folder();
  QUERN_SKIP_IF(!shared, "no shared folder");
  check_vectors(*shared / "data/tokenizers/llama2", "ggml-vocab-llama-spm.gguf");
}

TEST_CASE("stories260K's tokenizer reads its own story") {
  const auto shared = test::shared_folder();
  QUERN_SKIP_IF(!shared, "no shared folder");
  const auto folder = *shared / "data/models/stories260K";
  const Tokenizer tokenizer(folder);
  const json reference = json::parse(read_file(folder / "greedy_reference.json"));
  const auto ids = reference["greedy_ids"].get<std::vector<std::int32_t>>();
  const auto text = reference["text"].get<std::string>();
  CHECK_EQ(tokenizer.decode(ids), text);
}

TEST_CASE("config files of real checkpoints are understood") {
  const auto shared = test::shared_folder();
  QUERN_SKIP_IF(!shared, "no shared folder");
  const auto load = [&](const char* name) { return load_config(*shared / "data/configs" / name); };
  CHECK_EQ(load("Llama-2-7b-chat-hf").rope_theta, 10000);
  CHECK_EQ(load("Meta-Llama-3-8B").num_kv_heads, 8);
  CHECK_EQ(load("Llama-3.1-8B-Instruct").rope_scaling.value().factor, 8);
  CHECK_EQ(load("Llama-3.1-8B-Instruct").stop_token_ids.size(), 3);
  CHECK_EQ(load("Llama-3.2-1B-Instruct").head_dim, 64);
  CHECK_EQ(load("Mistral-7B-v0.1").sliding_window.value(), 4096);
  const ModelConfig awq = load("Llama-3.1-8B-Instruct-AWQ-INT4");
  CHECK_EQ(awq.quantization.value().text(), "AWQ, 4 bits, group 128");
  const ModelConfig gptq = load_config(*shared / "golden/llama3-gptq");
  CHECK_EQ(gptq.quantization.value().text(), "GPTQ, 4 bits, group 128, symmetric");
}
