#include "tests/cli/quern.h"

using quern::json;
using quern::test::ProcessOptions;
using quern::test::Quern;

TEST_CASE("info reports what there is") {
  const Quern quern;
  const json out = quern.json_of({"info"});
  CHECK(out["devices"] == json::array());
  CHECK(out["nvrtc"].is_string());
  CHECK(out["cache_dir"] == quern.path("cache").string());
  const auto text = quern({"info"});
  CHECK(text.exit_code == 0);
  CHECK(text.err.empty());
}

TEST_CASE("only a GPU can be described") {
  const Quern quern;
  quern.refuses({"info", "--describe"}, 3, "driver");
  quern.refuses({"info", "--describe", quern.path("device.json")}, 3, "driver");
  quern.refuses({"info", "--describe", "--device", "cpu"}, 2, "only a GPU");
  CHECK_FALSE(std::filesystem::exists(quern.path("device.json")));
}

TEST_CASE("a report that cannot be written is refused before the tune") {
  const Quern quern;
  quern.refuses({"tune", "--report", quern.path("missing/r.html")}, 2, "cannot write the report");
  quern.refuses({"tune", "--report", "/"}, 2, "is a folder");
  quern.refuses({"tune", "--report", quern.path("r.html")}, 3, "driver");
}

TEST_CASE("help is no error") {
  const Quern quern;
  for (const std::vector<std::string>& words :
       {std::vector<std::string>{"--help"}, {"run", "--help"}, {"cache", "--help"}}) {
    const auto result = quern(words);
    CHECK(result.exit_code == 0);
    CHECK(result.out.find("Usage: quern") != std::string::npos);
    CHECK(result.err.empty());
  }
}

TEST_CASE("usage errors are one sentence and exit code 2") {
  const Quern quern;
  quern.refuses({}, 2, "needs a command");
  quern.refuses({"frobnicate"}, 2, "'quern frobnicate' is no command");
  quern.refuses({"cache"}, 2, "quern cache needs a command");
  quern.refuses({"cache", "frobnicate"}, 2, "'quern cache frobnicate' is no command");
  quern.refuses({"info", "--frobnicate"}, 2, "--frobnicate");
  quern.refuses({"run", "a", "b", "--prompt", "x"}, 2, "b");
  quern.refuses({"tune", "--search", "best"}, 2, "--search");
  quern.refuses({"run", "--prompt", "x", "--templates", quern.path("missing")}, 2, "missing");
}

TEST_CASE("every command understands --device alike") {
  const Quern quern;
  const std::vector<std::vector<std::string>> commands{
      {"run", "--prompt", "x"},
      {"tune"},
      {"bench"},
      {"demo"},
      {"info"},
      {"logits", "--ids", "1", "--out", quern.path("l")}};
  for (auto command : commands)
    for (const char* device : {"banana", "-1", "0x1", "1.5", "", "99999999999999999999", "CPU"}) {
      auto words = command;
      words.push_back(std::string("--device=") + device);
      quern.refuses(words, 2, "--device");
    }
  for (const char* device : {"0", "7"})
    for (std::size_t i = 0; i < 4; ++i) {
      auto words = commands[i];
      words.insert(words.end(), {"--device", device});
      quern.refuses(words, 3, "driver");
    }
  quern.refuses({"tune"}, 3, "driver");
  quern.refuses({"tune", "--device", "cpu"}, 2, "nothing to tune on the CPU");
  quern.refuses({"bench", "--random-weights", quern::test::bundled_model()}, 3, "driver");
  CHECK_FALSE(std::filesystem::exists(quern.path("l")));
}

TEST_CASE("the CPU needs no cache") {
  const Quern quern;
  for (const char* cache : {"/dev/null/x", "/dev/null", "/proc/none"}) {
    const ProcessOptions options{.environment = {{"QUERN_CACHE", cache}}};
    CHECK(quern({"run", "--prompt", "x", "-n", "2"}, options).exit_code == 0);
    CHECK(quern({"run", "--prompt", "x", "-n", "2", "--device", "cpu"}, options).exit_code == 0);
  }
  const ProcessOptions nowhere{
      .environment = {{"QUERN_CACHE", ""}, {"XDG_CACHE_HOME", ""}, {"HOME", ""}}};
  CHECK(quern({"run", "--prompt", "x", "-n", "2"}, nowhere).exit_code == 0);
  CHECK(quern({"info"}, nowhere).exit_code == 0);
  Quern::check_refusal(quern({"cache", "ls"}, nowhere), 2, "QUERN_CACHE", {"cache", "ls"});
}

TEST_CASE("output that cannot be written is an error") {
  const Quern quern;
  const std::vector<std::vector<std::string>> commands{
      {"info"},
      {"info", "--json"},
      {"run", "--prompt", "x", "-n", "3"},
      {"run", "--prompt", "x", "-n", "3", "--json"},
      {"cache", "path"},
      {"demo", "-n", "2"},
      {"kernel", QUERN_SOURCE_DIR "/templates/row/silu.qk"},
      {"--help"}};
  for (const auto& command : commands)
    for (const char* out : {"/dev/full", "-"})
      Quern::check_refusal(quern(command, {.stdout_path = out}), 1, "cannot write to stdout",
                           command);
}

TEST_CASE("a stderr that cannot be written changes nothing") {
  const Quern quern;
  for (const char* err : {"/dev/full", "-"}) {
    const ProcessOptions options{.stderr_path = err};
    const auto good = quern({"run", "--prompt", "x", "-n", "2"}, options);
    CHECK(good.exit_code == 0);
    CHECK(good.out.starts_with("x"));
    CHECK(quern({"run"}, options).exit_code == 2);
    CHECK(quern({"run", "/nowhere", "--prompt", "x"}, options).exit_code == 2);
  }
}

TEST_CASE("a reader that goes away ends the program quietly") {
  const auto result = quern::test::run_process(
      {"/bin/sh", "-c", std::string(QUERN_BINARY) + " run --prompt x -n 400 --device cpu | true"});
  CHECK(result.exit_code == 0);
  CHECK(result.out.empty());
  CHECK(result.err.empty());
}
