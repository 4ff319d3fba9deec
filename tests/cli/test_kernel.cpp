#include "compiler/nvrtc.h"
#include "runtime/base/file.h"
#include "tests/cli/quern.h"

namespace fs = std::filesystem;
using namespace quern;
using quern::test::Quern;

namespace {

std::vector<std::string> shipped_kernels() {
  std::vector<std::string> files;
  for (const auto& entry : fs::directory_iterator(QUERN_SOURCE_DIR "/templates/row"))
    if (entry.path().extension() == ".qk") files.push_back(entry.path());
  return files;
}

/// A .qk file that is refused: the diagnostic with its caret, then one sentence.
void refused(const Quern& quern, const std::string& text) {
  const std::string file = quern.path("bad.qk"), out = quern.path("bad.out");
  write_file_atomically(file, text);
  for (const char* emit : {"cuda", "llvm"}) {
    const auto result = quern({"kernel", file, "--emit", emit, "-o", out, "--json"});
    CAPTURE(text.substr(0, 200));
    CAPTURE(result.err.substr(0, 2000));
    CHECK(result.exit_code == 2);
    CHECK(result.out.empty());
    const std::size_t sentence = result.err.rfind("quern: ");
    REQUIRE(sentence != std::string::npos);
    CHECK(result.err.find('\n', sentence) + 1 == result.err.size());
    CHECK(result.err.find("internal fault") == std::string::npos);
    CHECK_FALSE(fs::exists(out));
  }
}

}  // namespace

TEST_CASE("kernel prints CUDA and LLVM of every shipped file") {
  const Quern quern;
  const auto files = shipped_kernels();
  REQUIRE(files.size() >= 5);
  for (const std::string& file : files) {
    CAPTURE(file);
    const auto cuda = quern({"kernel", file});
    CHECK(cuda.exit_code == 0);
    CHECK(cuda.out.find("__global__") != std::string::npos);
    CHECK(cuda.err.empty());
    const auto llvm = quern({"kernel", file, "--emit", "llvm", "--dtype", "f16", "--cols", "100"});
    CHECK(llvm.exit_code == 0);
    CHECK(llvm.out.find("define") != std::string::npos);
  }
  const json out = quern.json_of({"kernel", files[0]});
  CHECK(out["emit"] == "cuda");
  CHECK(out["text"].get<std::string>().find("__global__") != std::string::npos);
}

TEST_CASE("kernel refuses options without meaning") {
  const Quern quern;
  const std::string file = QUERN_SOURCE_DIR "/templates/row/rmsnorm.qk";
  quern.refuses({"kernel", file, "--emit", "spirv"}, 2, "--emit");
  quern.refuses({"kernel", file, "--arch", "sm_12345"}, 2, "sm_12345");
  quern.refuses({"kernel", file, "--arch", "banana"}, 2, "banana");
  quern.refuses({"kernel", file, "--dtype", "f33"}, 2, "f33");
  quern.refuses({"kernel", file, "--bind", "Q=f16"}, 2, "Q=f16");
  quern.refuses({"kernel", file, "--bind", "Q"}, 2, "Q");
  quern.refuses({"kernel", file, "--cols", "0"}, 2, "--cols");
  quern.refuses({"kernel", file, "-o", quern.path("nowhere/k")}, 2, "cannot write");
  quern.refuses({"kernel", quern.path("missing.qk")}, 2, "missing.qk");
  quern.refuses({"kernel", QUERN_SOURCE_DIR}, 2, "cannot read");
  quern.refuses({"kernel"}, 2, "FILE.qk");
  const std::vector<std::string> to_terminal{"kernel", file, "--emit", "cubin"};
  Quern::check_refusal(quern(to_terminal), 2, "-o", to_terminal);
}

TEST_CASE("kernel -o writes to a device as it is") {
  const Quern quern;
  const std::string file = QUERN_SOURCE_DIR "/templates/row/rmsnorm.qk";
  CHECK(quern({"kernel", file, "-o", "/dev/null"}).exit_code == 0);
  CHECK(fs::is_character_file("/dev/null"));
  quern.refuses({"kernel", file, "-o", "/dev/full"}, 2, "cannot write /dev/full");
}

TEST_CASE("malformed kernel files are refused") {
  const Quern quern;
  const std::string good = read_file(QUERN_SOURCE_DIR "/templates/row/add_rmsnorm.qk");
  refused(quern, "kernel");
  refused(quern, "kernel k(");
  refused(quern, good.substr(0, good.size() / 2));
  refused(quern, good + "}");
  refused(quern, std::string("\x7f"
                             "ELF\0\1\2\xff\xfe\n\r\0\0",
                             13));
  refused(quern, std::string(100'000, '('));
  refused(quern, "kernel k(x: T[rows, cols]) -> (y: T[rows, cols]) { y = T(" +
                     std::string(50'000, '-') + "f32(x)) }");
  refused(quern, "kernel k(x: T[rows, cols]) -> (y: T[rows, cols]) { y = T(z) }");
  refused(quern, "kernel k(x: T[rows, cols]) -> (y: T[rows, cols]) { y = x + " +
                     std::string(4000, '9') + " }");
}

TEST_CASE("an empty kernel file is refused") {
  const Quern quern;
  refused(quern, "");
  refused(quern, "# nothing but a comment\n");
}
