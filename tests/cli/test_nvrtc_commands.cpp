#include <fmt/format.h>

#include "runtime/base/file.h"
#include "tests/cli/quern.h"
#include "tests/support/nvrtc.h"

using namespace quern;
using quern::test::Quern;

TEST_CASE("kernel builds PTX and cubins") {
  QUERN_SKIP_IF(!test::nvrtc(), test::kNoNvrtc);
  const Quern quern;
  for (const char* name : {"rmsnorm", "softmax", "cast"}) {
    const std::string file = fmt::format("{}/templates/row/{}.qk", QUERN_SOURCE_DIR, name);
    const auto ptx = quern({"kernel", file, "--emit", "ptx", "--arch", "sm_80"});
    CHECK(ptx.exit_code == 0);
    CHECK(ptx.out.find(".target sm_80") != std::string::npos);
    const std::string out = quern.path("k.cubin");
    const json report = quern.json_of({"kernel", file, "--emit", "cubin", "-o", out});
    CHECK(report["kernels"].size() == 1);
    CHECK(report["kernels"][0]["registers"].get<int>() > 0);
    CHECK(
        read_file(out).starts_with("\x7f"
                                   "ELF"));
  }
}

TEST_CASE("compile fills the cache once") {
  QUERN_SKIP_IF(!test::nvrtc(), test::kNoNvrtc);
  const Quern quern;
  const std::vector<std::string> words{"compile", "--arch",   "sm_80", "--batch",
                                       "1",       "--prompt", "16"};
  const json first = quern.json_of(words);
  CHECK(first["failed"] == 0);
  CHECK(first["images"].get<int>() > 0);
  CHECK(first["compiled"].get<int>() > 0);
  const json second = quern.json_of(words);
  CHECK(second["compiled"] == 0);
  CHECK(second["images"] == first["images"]);

  const json intact = quern.json_of({"cache", "verify"});
  CHECK(intact["images"] == first["compiled"]);
  CHECK(intact["damaged_images"] == json::array());

  // Damage is found, counted, pruned and built again.
  std::size_t damaged = 0;
  for (const auto& entry : std::filesystem::directory_iterator(quern.path("cache") / "images")) {
    if (!entry.is_directory()) continue;  // the lock
    std::string cubin = read_file(entry.path() / "kernel.cubin");
    cubin[cubin.size() / 2] = static_cast<char>(~cubin[cubin.size() / 2]);
    write_file_atomically(entry.path() / "kernel.cubin", cubin);
    if (++damaged == 2) break;
  }
  CHECK(quern.json_of({"cache", "verify"})["damaged_images"].size() == 2);
  CHECK(quern.json_of({"cache", "prune"})["removed"] == 2);
  CHECK(quern.json_of(words)["compiled"] == 2);
  CHECK(quern.json_of({"cache", "prune", "--days", "0"})["removed"] == first["compiled"]);
}

TEST_CASE("compile builds for a GPU that was described elsewhere") {
  QUERN_SKIP_IF(!test::nvrtc(), test::kNoNvrtc);
  const Quern quern;
  const std::string device = std::string(QUERN_SOURCE_DIR) + "/tests/data/h200.json";
  const std::vector<std::string> words{"compile", "--device-file", device, "--batch",
                                       "1",       "--prompt",      "16"};
  const json first = quern.json_of(words);
  CHECK(first["failed"] == 0);
  CHECK(first["compiled"].get<int>() > 0);
  CHECK(quern.json_of(words)["compiled"] == 0);
  auto more = words;
  more.insert(more.end(), {"--device-file", device});  // twice the same is nothing new
  CHECK(quern.json_of(more)["compiled"] == 0);
}

TEST_CASE("a device description is refused in one sentence that names the file") {
  const Quern quern;
  const std::string good = read_file(std::string(QUERN_SOURCE_DIR) + "/tests/data/h200.json");
  std::string other_arch = good;
  other_arch.replace(other_arch.find("sm_90a"), 6, "sm_80");
  const std::string file = quern.path("device.json");
  for (const std::string& text : {std::string(), std::string("{"), good.substr(0, good.size() / 2),
                                  std::string("{\"quern_device\": 2}"), other_arch,
                                  std::string(100000, '[')}) {
    write_file_atomically(file, text);
    quern.refuses({"compile", "--device-file", file}, 2, "device.json: ");
  }
  quern.refuses({"compile", "--device-file", quern.path("missing")}, 2, "missing");
}

TEST_CASE("compile refuses what it cannot build") {
  QUERN_SKIP_IF(!test::nvrtc(), test::kNoNvrtc);
  const Quern quern;
  quern.refuses({"compile"}, 2, "--arch");
  quern.refuses({"compile", "--arch", "sm_1"}, 2, "sm_1");
  quern.refuses({"compile", "--arch", "sm_80,banana"}, 2, "banana");
  quern.refuses({"compile", "--arch", "sm_80", "--batch", "0"}, 2, "--batch");
  quern.refuses({"compile", quern.path("missing"), "--arch", "sm_80"}, 2, "missing");
  const std::vector<std::string> words{"compile", "--arch", "sm_80"};
  for (const char* cache : {"/dev/null/x", "/dev/null"})
    Quern::check_refusal(quern(words, {.environment = {{"QUERN_CACHE", cache}}}), 2, "/dev/null",
                         words);
}
