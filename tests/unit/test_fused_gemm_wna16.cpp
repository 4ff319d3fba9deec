#include <string>
#include <vector>

#include "autotune/fused_gemm_wna16.h"
#include "runtime/base/error.h"
#include "templates/embedded.h"
#include "templates/gemm_wna16/gemm_wna16_args.h"
#include "tests/support/family_rules.h"
#include "tests/support/support.h"

using namespace quern;

namespace {

const FusedGemmWna16Family& family() {
  static const FusedGemmWna16Family shipped(embedded_templates());
  return shipped;
}

Params problem(const std::string& epilogue, int m, int n, int k, bool zero_points = true) {
  Params out = {{"m", m},
                {"n", n},
                {"k", k},
                {"dtype", "f16"},
                {"bits", 4},
                {"group_size", 64},
                {"prologue", ""},
                {"epilogue", epilogue},
                {"zero_points", zero_points}};
  for (const std::string& param : family().epilogues().at(epilogue).kernel().dtype_params())
    out[param] = param == "Q" ? "e4m3" : "f16";
  return out;
}

Params normalised(Params p, const char* stream = "f32") {
  p.update(Params{{"prologue", "rmsnorm"}, {"eps", 1e-5}, {"stream", stream}});
  return p;
}

std::string complaint(const Params& p) {
  try {
    family().operands(p);
  } catch (const InputError& error) {
    return error.what();
  }
  return "";
}

}  // namespace

TEST_CASE("quantised products with an epilogue follow the rules of families") {
  for (const int m : {3, 15, 300})
    for (const Params& p : {problem("swiglu", m, 2048, 512), problem("add", m, 208, 1152, false)})
      test::check_family_rules(family(), p);
  test::check_family_rules(family(), normalised(problem("swiglu", 3, 2048, 4096)));
  test::check_family_refuses_nonsense(family(), problem("swiglu", 4, 2048, 512));
}

TEST_CASE("operands of a quantised product with an epilogue") {
  const auto names = [](const Params& p) {
    std::string out;
    for (const OperandSpec& spec : family().operands(p))
      out += fmt::format("{}{}", out.empty() ? "" : " ", spec.name);
    return out;
  };
  CHECK_EQ(names(problem("swiglu", 3, 64, 128)), "x codes scales zeros y");
  CHECK_EQ(names(problem("add", 3, 64, 128, false)), "x codes scales residual");
  const Params norm = normalised(problem("swiglu", 3, 64, 128));
  CHECK_EQ(names(norm), "x codes scales zeros gamma y");
  CHECK_EQ(family().operands(norm)[0].dtype, DType::f32);
  CHECK_EQ(family().operands(problem("swiglu", 3, 64, 128)).back().shape,
           std::vector<std::int64_t>{3, 32});
  const auto like = family().like(problem("swiglu", 3, 64, 128));
  CHECK_EQ(like->family, "gemm_wna16");
  CHECK_FALSE(GemmWna16Family().unsupported(like->problem, parse_arch("sm_90a")));
}

TEST_CASE("what quantised products do not fuse is refused with its reason") {
  const Arch arch = parse_arch("sm_90a");
  Params wrong = problem("swiglu", 3, 64, 128);
  wrong["epilogue"] = "dance";
  CHECK_EQ(complaint(wrong), "there is no epilogue 'dance'");
  wrong = problem("swiglu", 3, 64, 128);
  wrong["prologue"] = "layernorm";
  CHECK_EQ(complaint(wrong), "there is no prologue 'layernorm'");
  wrong["prologue"] = "", wrong["eps"] = 1e-5;
  CHECK_EQ(complaint(wrong), "a product with epilogue 'swiglu' and prologue '' has no field 'eps'");
  CHECK_EQ(complaint(normalised(problem("swiglu", 3, 64, 128), "bf16")),
           "'stream' should be f16 or f32");
  CHECK_EQ(complaint(normalised(problem("swiglu", 5, 64, 128))),
           "5 rows are more than are normalised, 4");
  CHECK_EQ(complaint(problem("add", 3, 72, 128)), "n = 72 is not a multiple of 16");
  GemmWna16Config config;
  config.kernel = "wgmma";
  config.tile_m = 64, config.tile_n = 128, config.warps_n = 8, config.warps_k = 1;
  config.units = 2, config.stages = 3, config.split_k = 1;
  config.cluster_m = config.cluster_n = config.cluster_k = config.group_m = 1;
  const Params p = problem("swiglu", 64, 256, 512);
  CHECK_FALSE(family().reject_reason(p, to_params(config), arch));
  CHECK_EQ(family().tensor_maps(p, to_params(config)).size(), 1);
  config.tma_store = 1;
  const auto reason = family().reject_reason(p, to_params(config), arch);
  REQUIRE(reason);
  CHECK_EQ(*reason, "an expression stores its results itself, without TMA");
}

TEST_CASE("kernels of quantised products with an epilogue compile for every architecture") {
  for (const char* epilogue : {"swiglu", "add"})
    for (const int m : {1, 16, 64})
      test::check_family_compiles(family(), problem(epilogue, m, 4096, 4096), 1);
  test::check_family_compiles(family(), problem("bias_gelu", 3, 208, 1088), 0);
  for (const int m : {1, 4})
    for (const char* stream : {"f32", "f16"})
      test::check_family_compiles(family(), normalised(problem("swiglu", m, 4096, 4096), stream),
                                  3);
}
