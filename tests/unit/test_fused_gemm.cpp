#include <map>
#include <set>
#include <string>
#include <vector>

#include "autotune/fused_gemm.h"
#include "compiler/nvrtc.h"
#include "runtime/base/error.h"
#include "templates/embedded.h"
#include "templates/gemm/gemm_args.h"
#include "tests/support/family_rules.h"
#include "tests/support/support.h"

using namespace quern;

namespace {

const FusedGemmFamily& family() {
  static const FusedGemmFamily shipped(embedded_templates());
  return shipped;
}

Params problem(const std::string& epilogue, int m, int n, int k, const std::string& prologue = "") {
  Params out = {{"m", m},
                {"n", n},
                {"k", k},
                {"dtype", "bf16"},
                {"prologue", prologue},
                {"epilogue", epilogue}};
  if (!prologue.empty()) {
    out["eps"] = 1e-5;
    out["stream"] = "bf16";
  }
  for (const std::string& param : family().epilogues().at(epilogue).kernel().dtype_params())
    out[param] = param == "Q" ? "e4m3" : "bf16";
  return out;
}

GemmConfig wgmma() {
  GemmConfig c;
  c.kernel = "wgmma";
  c.tile_m = 128, c.tile_n = 256, c.tile_k = 64, c.stages = 4, c.split_k = 1, c.group_m = 8;
  c.cluster = 1, c.cluster_k = 1;
  return c;
}

GemmConfig gemv(int rows_per_warp) {
  GemmConfig c;
  c.kernel = "gemv";
  c.tile_m = 1, c.warps_n = 4, c.warps_k = 2, c.rows_per_warp = rows_per_warp, c.unroll = 1;
  c.stages = 4, c.async_copy = true, c.blocks_per_sm = 2;
  return c;
}

GemmConfig mma() {
  GemmConfig c;
  c.tile_m = 16, c.tile_n = 64, c.tile_k = 64, c.warps_m = 1, c.warps_n = 2, c.stages = 4;
  c.split_k = 2, c.group_m = 1;
  return c;
}

bool mentions(const std::optional<std::string>& reason, const std::string& words) {
  return reason && reason->find(words) != std::string::npos;
}

std::string complaint(const Params& p) {
  try {
    family().operands(p);
  } catch (const InputError& error) {
    return error.what();
  }
  return "";
}

void compiles(const Params& p, const GemmConfig& config, const char* arch_name) {
  static const Nvrtc nvrtc;
  const Arch arch = parse_arch(arch_name);
  INFO(arch_name, " ", to_text(p), " ", to_text(to_params(config)));
  const KernelSource source = family().source(p, to_params(config), arch);
  const KernelImage image = nvrtc.compile(
      {"fused_gemm", source.source, source.entry, arch, source.options}, embedded_templates());
  CHECK_FALSE(image.cubin.empty());
  CHECK_EQ(image.report.spill_store_bytes + image.report.spill_load_bytes, 0);
  CHECK_EQ(image.report.stack_bytes, 0);
}

}  // namespace

TEST_CASE("the shipped epilogues") {
  std::set<std::string> names;
  for (const auto& [name, epilogue] : family().epilogues()) {
    names.insert(name);
    CHECK_EQ(epilogue.parts(), name.starts_with("swiglu") ? 2 : 1);
  }
  CHECK_EQ(names, std::set<std::string>{"add", "bias", "bias_gelu", "bias_gelu_tanh", "bias_silu",
                                        "cast", "gelu", "gelu_tanh", "quantise", "silu", "swiglu",
                                        "swiglu_quantise"});
}

TEST_CASE("fused problems follow the rules of families") {
  // One row more needs no other kernel.
  for (const int m : {3, 15, 300})
    for (const Params& p : {problem("swiglu", m, 28672, 4096), problem("bias_gelu", m, 511, 172),
                            problem("add", m, 4096, 512)})
      test::check_family_rules(family(), p);
  for (const int m : {3, 15})
    test::check_family_rules(family(), problem("swiglu", m, 2048, 512, "rmsnorm"));
  test::check_family_refuses_nonsense(family(), problem("swiglu", 4, 2048, 512));
  test::check_family_refuses_nonsense(family(), problem("cast", 4, 2048, 512, "rmsnorm"));
}

TEST_CASE("operands of a fused product are those of its expression") {
  const auto names = [](const Params& p) {
    std::string out;
    for (const OperandSpec& spec : family().operands(p)) {
      out += fmt::format("{}{}[", out.empty() ? "" : " ", spec.name);
      for (std::size_t i = 0; i < spec.shape.size(); ++i)
        out += fmt::format("{}{}", i == 0 ? "" : ",", spec.shape[i]);
      out += "]";
    }
    return out;
  };
  CHECK_EQ(names(problem("swiglu", 3, 64, 40)), "x[3,40] w[64,40] y[3,32]");
  CHECK_EQ(names(problem("bias_gelu", 3, 64, 40)), "x[3,40] w[64,40] bias[64] y[3,64]");
  CHECK_EQ(names(problem("quantise", 3, 64, 40)), "x[3,40] w[64,40] inverse_scale[] y[3,64]");
  CHECK_EQ(names(problem("add", 3, 64, 40, "rmsnorm")),
           "x[3,40] w[64,40] gamma[40] residual[3,64]");
  CHECK_EQ(family().operands(problem("add", 3, 64, 40))[2].role, OperandSpec::Role::inout);
  // x, w and y of 16 bits; half as many results as sums.
  CHECK_EQ(family().cost(problem("swiglu", 3, 64, 40)).bytes, 2 * (3 * 40 + 64 * 40 + 3 * 32));
}

TEST_CASE("a kernel stores what an expression leaves to it, and the expression everything else") {
  const Arch arch = parse_arch("sm_90a");
  const auto source = [&](const Params& p, const GemmConfig& c) {
    return family().source(p, to_params(c), arch).source;
  };
  const auto leaves = [&](const Params& p, const GemmConfig& c) {
    return source(p, c).find("kLeavesY = true") != std::string::npos;
  };
  CHECK(leaves(problem("swiglu", 64, 4096, 512), wgmma()));
  CHECK(leaves(problem("bias_gelu", 64, 4096, 512), wgmma()));
  CHECK_FALSE(leaves(problem("add", 64, 4096, 512), wgmma()));  // in place, [rows, cols]
  CHECK_FALSE(leaves(problem("swiglu_quantise", 64, 4096, 512), wgmma()));
  CHECK_FALSE(leaves(problem("swiglu", 16, 4096, 512), mma()));
  // Biases are fetched early, residuals that the kernel before may still write are not.
  const auto fetches = [&](const char* epilogue) {
    return source(problem(epilogue, 64, 4096, 512), wgmma()).find("prefetch.global") !=
           std::string::npos;
  };
  CHECK(fetches("bias_gelu"));
  CHECK_FALSE(fetches("add"));
  CHECK_EQ(source(problem("add", 64, 4096, 512), wgmma()),
           source(problem("add", 77, 4096, 512), wgmma()));

  const std::vector<std::uint64_t> addresses{256, 512, 768};
  const auto bytes = [&](const GemmConfig& c) {
    return family().pack_args(problem("swiglu", 1, 4096, 512), to_params(c), addresses, 0).size();
  };
  // rows and cols; y too where the expression stores it.
  CHECK_EQ(bytes(gemv(2)), sizeof(GemmArgs) + 24);
  CHECK_EQ(bytes(wgmma()), sizeof(GemmTmaArgs) + 64);
  CHECK_EQ(family().tensor_maps(problem("swiglu", 64, 4096, 512), to_params(wgmma())).size(), 2);
  CHECK(family().tensor_maps(problem("swiglu", 1, 4096, 512), to_params(gemv(2))).empty());
}

TEST_CASE("what cannot be fused is refused with its reason") {
  const Arch arch = parse_arch("sm_90a");
  const auto refused = [&](const Params& p, const GemmConfig& c) {
    return family().reject_reason(p, to_params(c), arch);
  };
  CHECK(mentions(refused(problem("swiglu", 1, 4096, 512), gemv(1)), "one part of an element"));
  CHECK_FALSE(refused(problem("silu", 1, 4096, 512), gemv(1)));
  CHECK(mentions(family().unsupported(problem("swiglu", 1, 4088, 512), arch),
                 "multiple of 16, not 4088"));
  CHECK(mentions(refused(problem("cast", 4, 4096, 512, "rmsnorm"), wgmma()), "does not normalise"));
  CHECK(mentions(family().unsupported(problem("cast", 17, 4096, 512, "rmsnorm"), arch),
                 "17 rows are more"));
  GemmConfig wide = mma();
  wide.tile_m = 32;
  CHECK(mentions(refused(problem("cast", 4, 4096, 512, "rmsnorm"), wide), "tiles of 16 rows"));
  Params stream = problem("cast", 1, 4096, 512, "rmsnorm");
  stream["stream"] = "f32";
  CHECK(mentions(refused(stream, mma()), "a stream in f32 is for gemv"));
  CHECK_FALSE(refused(stream, gemv(2)));
  CHECK_EQ(family().operands(stream)[0].dtype, DType::f32);
  GemmConfig library;
  library.kernel = "cublaslt";
  CHECK(mentions(refused(problem("cast", 4, 4096, 512), library), "computes no expressions"));
  Params half = problem("cast", 4, 4096, 512, "rmsnorm");
  half["dtype"] = half["stream"] = "f16";
  CHECK(mentions(family().unsupported(half, arch), "in bf16 alone"));

  Params wrong = problem("cast", 4, 4096, 512);
  wrong["epilogue"] = "dance";
  CHECK_EQ(complaint(wrong), "there is no epilogue 'dance'");
  wrong = problem("cast", 4, 4096, 512);
  wrong["prologue"] = "layernorm";
  CHECK_EQ(complaint(wrong), "there is no prologue 'layernorm'");
  wrong["prologue"] = "";
  wrong["Y"] = "i4";
  CHECK_EQ(complaint(wrong), "epilogue cast cannot have Y = i4");
  wrong["Y"] = "bf16";
  wrong["eps"] = 1e-5;
  CHECK_EQ(complaint(wrong), "a product with epilogue 'cast' and prologue '' has no field 'eps'");
  wrong["prologue"] = "rmsnorm";
  wrong["stream"] = "f16";
  CHECK_EQ(complaint(wrong), "'stream' should be bf16 or f32");
  wrong["eps"] = -1;
  CHECK_EQ(complaint(wrong), "'eps' should be between 0 and 1");
}

TEST_CASE("kernels that are no epilogues are refused with a sentence") {
  const auto reason = [](const std::string& text) -> std::string {
    const std::map<std::string, std::string, std::less<>> files{{"epilogue/k.qk", text}};
    try {
      FusedGemmFamily{files};
    } catch (const InputError& error) {
      return error.what();
    }
    return "";
  };
  CHECK_EQ(reason("kernel k(acc: f32[r, c]) -> (y: Y[r, c]) { y = Y(acc) }"), "");
  CHECK(mentions(reason("kernel k(x: f32[r, c]) -> (y: Y[r, c]) { y = Y(x) }"),
                 "first operand should be acc"));
  CHECK(mentions(reason("kernel k(acc: f32[r, c]) -> (y: Y[r, c]) { y = Y(acc - max[c](acc)) }"),
                 "it has reductions"));
  CHECK(mentions(reason("kernel k(acc: f32[c]) -> (y: Y[c]) { y = Y(acc) }"), "two axes"));
  CHECK(mentions(reason("kernel k(acc: f32[r, 2, c]) -> (y: Y[r, c]) { y = Y(acc[0] * acc[1]) }"),
                 "r, c, 2"));
  CHECK(mentions(reason("kernel k(acc: f32[r, c]; eps: f32) -> (y: Y[r, c]) { y = Y(acc + eps) }"),
                 "cannot have a scalar of the name 'eps'"));
}

TEST_CASE("fused kernels compile without spilling") {
  for (const Arch& arch : known_archs()) {
    const std::string name = arch.name();
    compiles(problem("swiglu", 1, 4096, 512), gemv(2), name.c_str());
    compiles(problem("bias_gelu", 16, 4096, 512, "rmsnorm"), mma(), name.c_str());
  }
  compiles(problem("swiglu", 64, 4096, 512), wgmma(), "sm_90a");
  compiles(problem("add", 64, 4104, 512), wgmma(), "sm_90a");
  compiles(problem("swiglu_quantise", 64, 4112, 512), wgmma(), "sm_90a");
  compiles(problem("bias_gelu", 64, 4096, 512), wgmma(), "sm_90a");
  compiles(problem("swiglu", 1, 4096, 512, "rmsnorm"), gemv(4), "sm_90a");
  Params stream = problem("swiglu", 1, 4096, 512, "rmsnorm");
  stream["stream"] = "f32";
  compiles(stream, gemv(4), "sm_90a");
  compiles(stream, gemv(4), "sm_80");
}
