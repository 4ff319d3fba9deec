// The bundled model with codes for weights, as the commands that run on the CPU see it.
#include "model/config.h"
#include "runtime/base/file.h"
#include "tests/cli/quern.h"
#include "tests/support/quantised_checkpoint.h"

using namespace quern;
using quern::test::Quern;

namespace {

Quantization gptq() {
  Quantization out;
  out.method = QuantMethod::gptq;
  out.bits = 8;
  out.zeros_minus_one = true;
  out.act_order = true;
  return out;
}

}  // namespace

TEST_CASE("quantised models answer, and info says how they are stored") {
  const Quern quern;
  Quantization awq;
  awq.group_size = 64;
  for (const auto& [quantization, text] :
       {std::pair{awq, "AWQ, 4 bits, group 64"},
        std::pair{gptq(), "GPTQ, 8 bits, group 128, act-order"}}) {
    CAPTURE(text);
    const auto model = quern.path(quantization.bits == 4 ? "awq" : "gptq");
    test::write_quantised_model(test::bundled_model(), model, quantization);
    CHECK(quern.json_of({"info", model})["model"]["weights"] == text);
    CHECK(quern({"info", model}).out.find(text) != std::string::npos);
    const json answer = quern.json_of(
        {"run", model, "--chat", "--prompt", "What is the capital of France?", "--device", "cpu"});
    CHECK(answer["text"].get<std::string>().find("Paris") != std::string::npos);
    write_file_atomically(quern.path("questions.json"),
                          R"([{"question": "What is the capital of France?", "answer": "Paris"}])");
    const json score = quern.json_of(
        {"eval", model, "--questions", quern.path("questions.json"), "--device", "cpu"});
    CHECK(score["total"] == 1);
    const json speed = quern.json_of(
        {"bench", model, "--device", "cpu", "-p", "32", "-n", "4", "--ctx", "8", "--repeats", "1"});
    CHECK(speed["results"].size() == 2);
  }
}

TEST_CASE("a quantised model cut short is refused in a sentence") {
  const Quern quern;
  const auto model = quern.path("model");
  test::write_quantised_model(test::bundled_model(), model, gptq());
  const std::string weights = read_file(model / "model.safetensors");
  for (const std::size_t length : {std::size_t{0}, std::size_t{7}, weights.size() / 2}) {
    write_file_atomically(model / "model.safetensors", weights.substr(0, length));
    quern.refuses({"run", model, "--prompt", "x", "-n", "1", "--device", "cpu"}, 2,
                  "model.safetensors");
  }
}
