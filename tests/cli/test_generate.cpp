#include "runtime/base/file.h"
#include "tests/cli/quern.h"

using quern::json;
using quern::test::Quern;

namespace {

constexpr const char* kChat = "What is the capital of France?";

}  // namespace

TEST_CASE("run streams the prompt and its continuation; accounts go to stderr") {
  const Quern quern;
  const auto result = quern({"run", "--prompt", "Once upon a time", "-n", "6"});
  CHECK(result.exit_code == 0);
  CHECK(result.out.starts_with("Once upon a time"));
  CHECK(result.out.ends_with("\n"));
  CHECK(result.err.find("tokens/s") != std::string::npos);
}

TEST_CASE("run --json has the promised fields") {
  const Quern quern;
  const json out = quern.json_of({"run", "--prompt", "Once upon a time", "-n", "6"});
  for (const char* field : {"prompt_ids", "output_ids", "text", "finish_reason",
                            "tokens_per_second", "compiled", "tuned"})
    CHECK_MESSAGE(out.contains(field), field);
  CHECK(out["output_ids"].size() == 6);
  CHECK(out["finish_reason"] == "length");
  CHECK(out["compiled"] == 0);

  // The same prompt as ids, and the model named: the options' order does not matter.
  std::string ids;
  for (const json& id : out["prompt_ids"]) ids.append(ids.empty() ? "" : ",").append(id.dump());
  const std::string model = quern::test::bundled_model();
  CHECK(quern.json_of({"run", model, "--prompt-ids", ids, "-n", "6"})["text"] == out["text"]);
  CHECK(quern.json_of({"run", "--prompt-ids", ids, model, "-n", "6", "--device", "cpu"})["text"] ==
        out["text"]);
}

TEST_CASE("a chat stops by itself, and a system message is part of its prompt") {
  const Quern quern;
  const json out = quern.json_of({"run", "--chat", "--prompt", kChat});
  CHECK(out["finish_reason"] == "stop");
  CHECK(out["text"].get<std::string>().find("Paris") != std::string::npos);
  const json with_system =
      quern.json_of({"run", "--chat", "--system", "Be brief.", "--prompt", kChat, "-n", "1"});
  CHECK(with_system["prompt_ids"].size() > out["prompt_ids"].size());
}

TEST_CASE("a seed makes sampling reproducible, and another seed changes it") {
  const Quern quern;
  const auto sampled = [&](const char* seed) {
    return quern.json_of({"run", "--prompt", "The", "-n", "24", "--temperature", "1", "--top-k",
                          "50", "--top-p", "0.95", "--min-p", "0.01", "--seed",
                          seed})["output_ids"];
  };
  const json first = sampled("7");
  CHECK(first == sampled("7"));
  CHECK(first != sampled("8"));
}

TEST_CASE("a full context ends a generation") {
  const Quern quern;
  const json out = quern.json_of({"run", "--prompt-ids", "1,2,3", "--context", "16", "-n", "100"});
  CHECK(out["finish_reason"] == "length");
  CHECK(out["output_ids"].size() < 16);
}

TEST_CASE("demo answers and ends with a table, or with one JSON document") {
  const Quern quern;
  const auto result = quern({"demo", "-n", "4"});
  CHECK(result.exit_code == 0);
  CHECK(result.out.find("tokens/s") != std::string::npos);
  const json out = quern.json_of({"demo", "-n", "4"});
  CHECK(out["answers"].size() == 4);
  CHECK(out["compiled"] == 0);
}

TEST_CASE("prompts that cannot be run are refused") {
  const Quern quern;
  quern.refuses({"run"}, 2, "no prompt");
  quern.refuses({"run", "--prompt", ""}, 2, "no prompt");
  quern.refuses({"run", "--prompt", "x", "--prompt-ids", "1"}, 2, "--prompt");
  quern.refuses({"run", "--chat", "--prompt-ids", "1"}, 2, "--chat");
  quern.refuses({"run", "--prompt-ids", "1,4096"}, 2, "4096");
  quern.refuses({"run", "--prompt-ids", "-1"}, 2, "-1");
  quern.refuses({"run", "--prompt-ids=1,-1"}, 2, "-1");
  quern.refuses({"run", "--prompt-ids", "99999999999999999999"}, 2, "--prompt-ids");
  quern.refuses({"run", "--prompt-ids", "1,two"}, 2, "--prompt-ids");
  quern.refuses({"run", "--prompt-ids", "1,2,3,4,5", "--context", "4"}, 2, "context");
  quern.refuses({"run", "--prompt", "a b c d e f g h i", "--context", "2"}, 2, "context");
}

TEST_CASE("options outside their range are refused") {
  const Quern quern;
  const auto refused = [&](const char* option, const char* value) {
    quern.refuses({"run", "--prompt", "x", option, value}, 2, "");
  };
  for (const char* n : {"0", "-1", "many", "1e99", "99999999999999999999"}) refused("-n", n);
  for (const char* t : {"-1", "nan", "inf", "warm"}) refused("--temperature", t);
  for (const char* p : {"0", "1.5", "nan"}) refused("--top-p", p);
  for (const char* k : {"-1", "0.5"}) refused("--top-k", k);
  for (const char* p : {"-0.1", "2"}) refused("--min-p", p);
  for (const char* s : {"-1", "x", "99999999999999999999"}) refused("--seed", s);
  for (const char* c : {"0", "-5", "x", "999999999999"}) refused("--context", c);
}
