#include "compiler/nvrtc.h"
#include "runtime/base/file.h"
#include "tests/cli/quern.h"

namespace fs = std::filesystem;
using namespace quern;
using quern::test::Quern;

namespace {

/// The shipped files with kernels, or those of functions alone.
std::vector<std::string> shipped_files(bool with_kernels) {
  std::vector<std::string> files;
  for (const auto& entry : fs::directory_iterator(QUERN_SOURCE_DIR "/templates/row"))
    if (entry.path().extension() == ".qk" &&
        (read_file(entry.path()).find("\nkernel ") != std::string::npos) == with_kernels)
      files.push_back(entry.path());
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
  const auto files = shipped_files(true);
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
  for (const std::string& file : shipped_files(false))
    quern.refuses({"kernel", file}, 2, "no kernel");
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

TEST_CASE("kernel --run builds for the CPU and times it there") {
  const Quern quern;
  const std::string folder = QUERN_SOURCE_DIR "/templates/row/";
  const json norm = quern.json_of({"kernel", folder + "rmsnorm.qk", "--run", "--device", "cpu",
                                   "--rows", "7", "--cols", "100", "--scalar", "eps=1e-5"});
  CHECK(norm["device"] == "cpu");
  CHECK(norm["kernel"] == "rmsnorm");
  CHECK(norm["problem"]["rows"] == 7);
  CHECK(norm["problem"]["T"] == "bf16");
  CHECK(norm["bytes"] == 2 * 2 * 700 + 2 * 100);
  CHECK(norm["median_us"].get<double>() > 0);
  const json rope = quern.json_of({"kernel", folder + "rope_halves.qk", "--run", "--device", "cpu",
                                   "--axis", "tokens=3", "--axis", "heads=2", "--axis", "half=8",
                                   "--axis", "max_positions=16", "--dtype", "f32"});
  CHECK(rope["problem"]["T"] == "f32");
  const json residual =
      quern.json_of({"kernel", folder + "add_rmsnorm.qk", "--run", "--device", "cpu", "--rows", "2",
                     "--cols", "64", "--scalar", "eps=0", "--bind", "R=f32", "--dtype", "e4m3"});
  CHECK(residual["problem"]["R"] == "f32");
  CHECK(residual["problem"]["T"] == "e4m3");
}

TEST_CASE("kernel finds used files beside the file, then among those shipped; --name picks one") {
  const Quern quern;
  write_file_atomically(quern.path("mine.qk"), "let twice(x) = 2 * x\n");
  write_file_atomically(quern.path("k.qk"),
                        "use \"mine.qk\"\nuse \"activations.qk\"\n"
                        "kernel a(x: T[n]) -> (y: T[n]) { y = T(twice(silu(f32(x)))) }\n"
                        "kernel b(x: T[n]) -> (y: T[n]) { y = T(relu(f32(x))) }\n");
  const std::string file = quern.path("k.qk");
  const auto text = quern({"kernel", file, "--name", "b"}).out;
  CHECK(text.find("quern_b") != std::string::npos);
  CHECK(text.find("quern_a") == std::string::npos);
  const std::vector<std::string> run{"kernel", file, "--run", "--device", "cpu", "--axis", "n=10"};
  quern.refuses(run, 2, "--name");
  auto one = run;
  one.insert(one.end(), {"--name", "a"});
  CHECK(quern.json_of(one)["kernel"] == "a");
  one.back() = "c";
  quern.refuses(one, 2, "no kernel 'c'");
  write_file_atomically(quern.path("activations.qk"), "let silu(x) = x\n");  // beside goes first
  CHECK(quern({"kernel", file, "--name", "b"}).exit_code == 2);
}

TEST_CASE("kernel --run refuses what it cannot run") {
  const Quern quern;
  const std::string file = QUERN_SOURCE_DIR "/templates/row/rmsnorm.qk";
  const auto refuses = [&](std::vector<std::string> more, const char* fragment, int code = 2) {
    std::vector<std::string> words{"kernel", file, "--run", "--rows", "2"};
    words.insert(words.end(), more.begin(), more.end());
    quern.refuses(words, code, fragment);
  };
  refuses({"--scalar", "eps=1e-5"}, "--cols N");
  refuses({"--cols", "8"}, "--scalar eps=VALUE");
  const auto complete = [&](std::vector<std::string> more, const char* fragment, int code = 2) {
    more.insert(more.begin(), {"--cols", "8", "--scalar", "eps=1e-5"});
    refuses(more, fragment, code);
  };
  complete({"--axis", "heads=3"}, "'heads'");
  complete({"--axis", "cols=3"}, "twice");
  complete({"--axis", "heads"}, "NAME=VALUE");
  complete({"--axis", "heads=0"}, "whole number");
  complete({"--axis", "heads=1.5"}, "whole number");
  complete({"--axis", "heads=nan"}, "not a number");
  complete({"--scalar", "eps=2"}, "twice");
  complete({"--scalar", "alpha=2"}, "'alpha'");
  complete({"--scalar", "alpha=x"}, "not a number");
  complete({"--dtype", "i4"}, "i4");
  complete({"--dtype", "f64"}, "f64");
  complete({"--emit", "ptx"}, "--emit");
  complete({"-o", "x"}, "--out");
  complete({"--budget", "-1"}, "--budget");
  complete({}, "driver", 3);  // no GPU can be seen here
  complete({"--check"}, "driver", 3);
  complete({"--bench", "--device", "0"}, "driver", 3);
  complete({"--check", "--device", "cpu"}, "--check");
  quern.refuses({"kernel", file, "--scalar", "eps=1"}, 2, "--run");
  quern.refuses({"kernel", file, "--axis", "heads=1"}, 2, "'heads'");
  const std::string packed = QUERN_SOURCE_DIR "/templates/row/dequantise_int4.qk";
  quern.refuses({"kernel", packed, "--run", "--device", "cpu", "--rows", "2", "--axis", "groups=2",
                 "--axis", "lanes=7"},
                2, "even");
  quern.refuses({"kernel", QUERN_SOURCE_DIR "/templates/row/activations.qk", "--run"}, 2,
                "no kernel");
}

TEST_CASE("bench-kernels refuses what it cannot measure") {
  const Quern quern;
  quern.refuses({"bench-kernels"}, 3, "driver");
  quern.refuses({"bench-kernels", "--device", "cpu"}, 2, "GPU");
  quern.refuses({"bench-kernels", "--family", "gemm"}, 3, "driver");
  quern.refuses({"bench-kernels", "--family", "sorting"}, 2, "'sorting' is not a family");
  quern.refuses({"bench-kernels", "--family", "gemm", "--variant", "ternary"}, 2, "bf16");
  quern.refuses({"bench-kernels", "--family", "gemm", "--rows", "0"}, 2, "--rows");
  quern.refuses({"bench-kernels", "--family", "fused_gemm", "--variant", "relu"}, 2, "swiglu");
  quern.refuses({"bench-kernels", "--kernels", "nothing"}, 2, "nothing");
  quern.refuses({"bench-kernels", "--shapes", "3"}, 2, "32x4096");
  quern.refuses({"bench-kernels", "--shapes", "0x4"}, 2, "0x4");
  quern.refuses({"bench-kernels", "--dtype", "f33"}, 2, "f33");
}
