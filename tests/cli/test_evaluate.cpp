#include "model/evaluate.h"

#include "model/safetensors.h"
#include "runtime/base/file.h"
#include "tests/cli/quern.h"

using namespace quern;
using quern::test::Quern;

namespace {

std::string write(const Quern& quern, const std::string& name, const std::string& text) {
  const auto path = quern.path(name);
  write_file_atomically(path, text);
  return path;
}

}  // namespace

TEST_CASE("logits writes one row a token") {
  const Quern quern;
  const std::string out = quern.path("logits.safetensors");
  const json report = quern.json_of({"logits", "--ids", "4080,10,20", "--out", out});
  CHECK(report["shape"] == json({3, 4096}));
  const Checkpoint file(out);
  const TensorView& logits = file.at("logits");
  CHECK(logits.dtype == DType::f32);
  CHECK(logits.shape == std::vector<std::int64_t>{3, 4096});

  const std::string again = quern.path("again.safetensors");
  quern.json_of({"logits", "--ids", write(quern, "ids", "[4080, 10,\n20]\n"), "--out", again});
  CHECK(read_file(again) == read_file(out));
}

TEST_CASE("logits refuses what it cannot do, and leaves no file") {
  const Quern quern;
  const std::string out = quern.path("logits.safetensors");
  quern.refuses({"logits", "--ids", "1,x", "--out", out}, 2, "'x'");
  quern.refuses({"logits", "--ids", "", "--out", out}, 2, "no token ids");
  quern.refuses({"logits", "--ids", "1,4096", "--out", out}, 2, "4096");
  quern.refuses({"logits", "--ids", "1,99999999999999999999", "--out", out}, 2, "99999999999");
  quern.refuses({"logits", "--ids", "1,2,3", "--context", "2", "--out", out}, 2, "context");
  quern.refuses({"logits", "--ids", "1"}, 2, "--out");
  CHECK_FALSE(std::filesystem::exists(out));
  quern.refuses({"logits", "--ids", "1", "--out", quern.path("nowhere/l")}, 2, "cannot write");
  quern.refuses({"logits", "--ids", "1", "--out", quern.path("")}, 2, "cannot write");
  quern.refuses({"logits", "--ids", "1", "--out", "/dev/full"}, 2, "cannot write");
}

TEST_CASE("ppl counts every token of a text") {
  const Quern quern;
  const std::string text = write(quern, "text", "The cat sat on the mat. The dog did not.\n");
  const json whole = quern.json_of({"ppl", "--text", text});
  CHECK(whole["ppl"].get<double>() > 1);
  CHECK(whole["tokens"].get<int>() > 8);
  const json pieces = quern.json_of({"ppl", "--text", text, "--window", "3"});
  CHECK(pieces["tokens"] == whole["tokens"]);
  CHECK(pieces["ppl"].get<double>() > whole["ppl"].get<double>());
}

TEST_CASE("ppl refuses texts and windows that it cannot use") {
  const Quern quern;
  quern.refuses({"ppl", "--text", quern.path("missing")}, 2, "cannot read");
  quern.refuses({"ppl", "--text", quern.path("")}, 2, "cannot read");
  quern.refuses({"ppl", "--text", write(quern, "empty", "")}, 2, "no tokens");
  const std::string text = write(quern, "text", "x");
  quern.refuses({"ppl", "--text", text, "--window", "4000"}, 2, "window");
  quern.refuses({"ppl", "--text", text, "--window", "0"}, 2, "--window");
  quern.refuses({"ppl"}, 2, "--text");
}

TEST_CASE("ppl takes any bytes for a text") {
  const Quern quern;
  std::string bytes;
  for (int i = 0; i < 512; ++i) bytes += static_cast<char>(i * 37);
  CHECK(quern.json_of({"ppl", "--text", write(quern, "bytes", bytes)})["tokens"] > 0);
}

TEST_CASE("eval counts exact answers") {
  const Quern quern;
  auto questions = load_questions(test::bundled_model() / "questions.json");
  REQUIRE(questions.size() > 3);
  json three = json::array();
  for (std::size_t i = 0; i < 3; ++i)
    three.push_back({{"question", questions[i].question}, {"answer", questions[i].answer}});
  three[2]["answer"] = "no model says this";
  const json out = quern.json_of({"eval", "--questions", write(quern, "q.json", three.dump())});
  CHECK(out["total"] == 3);
  CHECK(out["correct"].get<int>() <= 2);
}

TEST_CASE("eval refuses files that hold no questions") {
  const Quern quern;
  const auto refused = [&](const std::string& text, const std::string& fragment) {
    quern.refuses({"eval", "--questions", write(quern, "q.json", text)}, 2, fragment);
  };
  refused("", "not valid JSON");
  refused("[{\"question\":", "not valid JSON");
  refused("[]", "no questions");
  refused("{}", "not a list");
  refused("[3]", "question 0");
  refused("[{\"question\": \"a\"}]", "\"answer\"");
  refused("[{\"question\": \"a\", \"answer\": 3}]", "\"answer\"");
  refused(std::string(200'000, '['), "not valid JSON");
  quern.refuses({"eval", "--questions", quern.path("missing")}, 2, "cannot read");
}

TEST_CASE("bench on the CPU measures prefill and decode") {
  const Quern quern;
  const json out = quern.json_of(
      {"bench", "-p", "8,16", "-n", "4", "--ctx", "8", "--repeats", "2", "--device", "cpu"});
  REQUIRE(out["results"].size() == 3);
  CHECK(out["results"][1]["phase"] == "prefill");
  CHECK(out["results"][1]["tokens"] == 16);
  CHECK(out["results"][2]["phase"] == "decode");
  for (const json& row : out["results"]) CHECK(row["tokens_per_second"].get<double>() > 0);
  quern.refuses({"bench", "-p", "5000", "--device", "cpu"}, 2, "context");
  quern.refuses({"bench", "-p", "0"}, 2, "--prompts");
  quern.refuses({"bench", "--random-weights", test::bundled_model(), "--device", "cpu"}, 2, "GPU");
}
