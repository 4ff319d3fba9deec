#include <algorithm>
#include <thread>

#include "compiler/nvrtc.h"
#include "compiler/resource_report.h"
#include "runtime/base/error.h"
#include "runtime/base/file.h"
#include "tests/support/nvrtc.h"
#include "tests/support/support.h"

using namespace quern;
using test::kNoNvrtc;
using test::nvrtc;

namespace {

HeaderMap some_headers() {
  return {{"common/a.cuh", "#pragma once\n#include \"common/b.cuh\"\n"},
          {"common/b.cuh", "#pragma once\nconstexpr float kScale = 2.0f;\n"},
          {"common/unused.cuh", "this is not C++"}};
}

CompileRequest trivial(const Arch& arch) {
  return {.name = "scale",
          .source =
              "#include \"common/a.cuh\"\n"
              "__global__ void another(float* x) { x[1] = 0; }\n"
              "extern \"C\" __global__ void scale(float* x) { x[threadIdx.x] *= kScale; }\n",
          .entry = "scale",
          .arch = arch,
          .options = {}};
}

}  // namespace

TEST_CASE("NVRTC builds for every known architecture") {
  QUERN_SKIP_IF(!nvrtc(), kNoNvrtc);
  CHECK_GE(std::count(nvrtc()->version().begin(), nvrtc()->version().end(), '.'), 1);
  for (const Arch& arch : known_archs()) {
    CAPTURE(arch.name());
    const KernelImage image = nvrtc()->compile(trivial(arch), some_headers());
    CHECK(
        image.cubin.starts_with("\x7f"
                                "ELF"));
    CHECK_GT(image.report.registers, 0);
    CHECK_GT(image.compile_ms, 0);
    CHECK_FALSE(image.report.pipeline_warning);
  }
}

TEST_CASE("PTX is text for the architecture") {
  QUERN_SKIP_IF(!nvrtc(), kNoNvrtc);
  const std::string ptx = nvrtc()->compile_to_ptx(trivial(parse_arch("sm_90a")), some_headers());
  CHECK_NE(ptx.find(".target sm_90a"), std::string::npos);
  CHECK_NE(ptx.find(".entry scale"), std::string::npos);
}

TEST_CASE("a failed compile carries the whole log") {
  QUERN_SKIP_IF(!nvrtc(), kNoNvrtc);
  CompileRequest request = trivial(parse_arch("sm_80"));
  request.source += "int broken = missing_one;\nint worse = missing_two;\n";
  try {
    nvrtc()->compile(request, some_headers());
    FAIL("compiled");
  } catch (const CompileError& error) {
    const std::string sentence = error.what();
    CHECK_NE(sentence.find("scale did not compile for sm_80"), std::string::npos);
    CHECK_NE(sentence.find("missing_one"), std::string::npos);
    CHECK_NE(error.log().find("missing_one"), std::string::npos);
    CHECK_NE(error.log().find("missing_two"), std::string::npos);
  }
  request = trivial(parse_arch("sm_80"));
  CHECK_THROWS_AS(nvrtc()->compile(request, {}), CompileError);  // headers missing
  request.options = {"--no-such-option"};
  CHECK_THROWS_AS(nvrtc()->compile(request, some_headers()), CompileError);
  request = trivial(parse_arch("sm_80"));
  request.arch.minor = 5;  // sm_85 does not exist
  CHECK_THROWS_AS(nvrtc()->compile(request, some_headers()), CompileError);
  request = trivial(parse_arch("sm_80"));
  request.entry = "absent";
  CHECK_THROWS_AS(nvrtc()->compile(request, some_headers()), CompileError);
  request.source = "";
  CHECK_THROWS_AS(nvrtc()->compile(request, {}), CompileError);
}

TEST_CASE("no file of this machine can be included") {
  QUERN_SKIP_IF(!nvrtc(), kNoNvrtc);
  CompileRequest request = trivial(parse_arch("sm_80"));
  const test::TemporaryFolder folder;
  write_file_atomically(folder.path() / "near.cuh", "");
  const auto previous = std::filesystem::current_path();
  std::filesystem::current_path(folder.path());
  request.source = "#include \"near.cuh\"\n" + request.source;
  CHECK_THROWS_AS(nvrtc()->compile(request, some_headers()), CompileError);
  std::filesystem::current_path(previous);
  request = trivial(parse_arch("sm_80"));
  request.source = "#include <cuda_fp16.h>\n" + request.source;
  CHECK_THROWS_AS(nvrtc()->compile(request, some_headers()), CompileError);
}

TEST_CASE("the resource report tells shared memory, registers and spills") {
  QUERN_SKIP_IF(!nvrtc(), kNoNvrtc);
  CompileRequest request{.name = "spiller",
                         .source = R"(
extern "C" __global__ void calm(float* x) {
  __shared__ float tile[1000];
  tile[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  x[threadIdx.x] = tile[999 - threadIdx.x];
}
extern "C" __global__ void spiller(float* x) {
  float v[64];
#pragma unroll
  for (int i = 0; i < 64; ++i) v[i] = x[i * 32 + threadIdx.x];
  __syncthreads();
#pragma unroll
  for (int i = 0; i < 64; ++i) x[i * 32 + threadIdx.x] = v[i] * v[63 - i];
}
)",
                         .entry = "spiller",
                         .arch = parse_arch("sm_80"),
                         .options = {"--maxrregcount=24"}};
  const ResourceReport spiller = nvrtc()->compile(request, {}).report;
  CHECK_LE(spiller.registers, 24);
  CHECK_GT(spiller.spill_store_bytes, 0);
  CHECK_GT(spiller.spill_load_bytes, 0);
  CHECK_GT(spiller.stack_bytes, 0);
  CHECK_EQ(spiller.static_smem_bytes, 0);
  request.entry = "calm";
  const ResourceReport calm = nvrtc()->compile(request, {}).report;
  CHECK_EQ(calm.static_smem_bytes, 4000);
  CHECK_EQ(calm.spill_store_bytes, 0);

  const ResourceReport back = resource_report_from_json(json::parse(to_json(spiller).dump()));
  CHECK_EQ(back.registers, spiller.registers);
  CHECK_EQ(back.spill_load_bytes, spiller.spill_load_bytes);
  CHECK_THROWS_AS(resource_report_from_json(json::parse("{\"registers\": \"x\"}")), InputError);
}

TEST_CASE("a log of several functions is read for one kernel only") {
  constexpr const char* log =
      "ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are "
      "serialized in function 'k'\n"
      "ptxas info    : 0 bytes gmem\n"
      "ptxas info    : Compiling entry function 'k' for 'sm_90a'\n"
      "ptxas info    : Function properties for k\n"
      "    16 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads\n"
      "ptxas info    : Used 168 registers, used 1 barriers, 512 bytes smem, 400 bytes cmem[0]\n"
      "ptxas info    : Function properties for helper\n"
      "    99 bytes stack frame, 99 bytes spill stores, 99 bytes spill loads\n"
      "ptxas info    : Compiling entry function 'kk' for 'sm_90a'\n"
      "ptxas info    : Function properties for kk\n"
      "    77 bytes stack frame, 77 bytes spill stores, 77 bytes spill loads\n"
      "ptxas info    : Used 7 registers\n";
  const auto report = parse_resource_report(log, "k");
  CHECK_EQ(report.registers, 168);
  CHECK_EQ(report.stack_bytes, 16);
  CHECK_EQ(report.spill_store_bytes, 8);
  CHECK_EQ(report.spill_load_bytes, 12);
  CHECK_EQ(report.static_smem_bytes, 512);
  CHECK(report.pipeline_warning);
  CHECK_EQ(parse_resource_report(log, "kk").static_smem_bytes, 0);
  CHECK_EQ(parse_resource_report(log, "kkk").registers, 0);
}

TEST_CASE("a kernel that ptxas could not pipeline as written is marked") {
  QUERN_SKIP_IF(!nvrtc(), kNoNvrtc);
  const CompileRequest request{.name = "greedy",
                               .source = R"(
extern "C" __global__ void greedy(float* x) {  // setmaxnreg needs __launch_bounds__
  asm volatile("setmaxnreg.inc.sync.aligned.u32 240;");
  x[threadIdx.x] = 0;
}
)",
                               .entry = "greedy",
                               .arch = parse_arch("sm_90a"),
                               .options = {}};
  const KernelImage image = nvrtc()->compile(request, {});
  CAPTURE(image.log);
  CHECK(image.report.pipeline_warning);
}

TEST_CASE("several threads compile at once") {
  QUERN_SKIP_IF(!nvrtc(), kNoNvrtc);
  std::vector<std::string> cubins(4);
  std::vector<std::thread> threads;
  for (std::string& cubin : cubins)
    threads.emplace_back(
        [&cubin] { cubin = nvrtc()->compile(trivial(parse_arch("sm_80")), some_headers()).cubin; });
  for (std::thread& thread : threads) thread.join();
  for (const std::string& cubin : cubins) CHECK(cubin == cubins[0]);
}

TEST_CASE("an image's key changes with everything that can change the image, and nothing else") {
  const CompileRequest request = trivial(parse_arch("sm_90a"));
  const HeaderMap headers = some_headers();
  const std::string key = image_key(request, headers, "13.0.88");
  CHECK_EQ(key, image_key(request, headers, "13.0.88"));

  HeaderMap changed = headers;
  changed["common/b.cuh"] += "\n";
  CHECK_NE(key, image_key(request, changed, "13.0.88"));
  changed = headers;
  changed["common/unused.cuh"] += "\n";
  changed["common/more.cuh"] = "";
  CHECK_EQ(key, image_key(request, changed, "13.0.88"));
  CHECK_NE(key, image_key(request, headers, "13.0.89"));

  CompileRequest other = request;
  other.source += " ";
  CHECK_NE(key, image_key(other, headers, "13.0.88"));
  other = request;
  other.options = {"--maxrregcount=64"};
  const std::string with_option = image_key(other, headers, "13.0.88");
  CHECK_NE(key, with_option);
  other.options = {"--maxrregcount=6", "4"};
  CHECK_NE(with_option, image_key(other, headers, "13.0.88"));
  other = request;
  other.arch.suffix.clear();
  CHECK_NE(key, image_key(other, headers, "13.0.88"));
  other = request;
  other.name = "another name";
  other.arch.num_sms = 1;
  CHECK_EQ(key, image_key(other, headers, "13.0.88"));
}

TEST_CASE("the closure of includes survives cycles, comments and odd spacing") {
  HeaderMap headers = {{"a", "#include \"b\""},
                       {"b", "  #\tinclude\t<a>\r\n#include \"c\"\n"},
                       {"c", ""},
                       {"d", "x"}};
  const std::string source = "// #include \"d\"\n#include \"a\"\n#include \"absent\"\n#include\n";
  const std::string hash = header_closure_hash(source, headers);
  headers["d"] += "y";
  CHECK_EQ(hash, header_closure_hash(source, headers));
  headers["c"] += "z";
  CHECK_NE(hash, header_closure_hash(source, headers));
  CHECK_EQ(header_closure_hash("int x;", headers), header_closure_hash("", headers));
}
