#include <cstring>

#include "autotune/row_family.h"
#include "compiler/nvrtc.h"
#include "runtime/base/error.h"
#include "runtime/base/half.h"
#include "templates/embedded.h"
#include "tests/support/support.h"

using namespace quern;

namespace {

const RowFamily& family() {
  static const RowFamily shipped(embedded_templates());
  return shipped;
}

Params add_rmsnorm(std::int64_t rows, std::int64_t cols, const char* r = "bf16") {
  return {{"kernel", "add_rmsnorm"},
          {"rows", rows},
          {"cols", cols},
          {"T", "bf16"},
          {"R", r},
          {"eps", 1e-5}};
}
Params silu_mul(std::int64_t rows, std::int64_t cols) {
  return {{"kernel", "silu_mul"}, {"rows", rows}, {"cols", cols}, {"T", "bf16"}};
}

}  // namespace

TEST_CASE("row candidates are legal on every architecture, distinct, and within the space") {
  for (const Arch& arch : known_archs())
    for (const std::int64_t cols : {1, 7, 64, 172, 288, 2048, 4096, 5120, 14336, 131072})
      for (const Params& problem :
           {add_rmsnorm(1, cols), add_rmsnorm(512, cols, "f32"), silu_mul(3, cols)}) {
        CAPTURE(arch.name());
        CAPTURE(to_text(problem));
        CHECK_FALSE(family().unsupported(problem, arch));
        const auto candidates = family().candidates(problem, arch);
        REQUIRE_GE(candidates.size(), 1);
        CHECK_LE(candidates.size(), 30);
        for (std::size_t i = 0; i < candidates.size(); ++i) {
          CAPTURE(to_text(candidates[i]));
          CHECK_EQ(family().reject_reason(problem, candidates[i], arch).value_or(""), "");
          for (std::size_t j = 0; j < i; ++j) CHECK_NE(candidates[i], candidates[j]);
          for (const Tunable& tunable : family().space(problem))
            CHECK(std::find(tunable.values.begin(), tunable.values.end(),
                            candidates[i].at(tunable.name)) != tunable.values.end());
          CHECK_GE(family().plan(problem, candidates[i], arch).grid[0], 1);
        }
      }
}

TEST_CASE("the default gives a long row a block and a short one a warp") {
  const Arch arch = parse_arch("sm_90a");
  CHECK_EQ(to_text(family().candidates(add_rmsnorm(1, 4096), arch)[0]),
           "threads=256 threads_per_row=256 vector_bytes=16 pdl=true");
  CHECK_EQ(to_text(family().candidates(add_rmsnorm(1, 64), arch)[0]),
           "threads=128 threads_per_row=32 vector_bytes=16 pdl=true");
  CHECK_EQ(family()
               .reject_reason(add_rmsnorm(1, 172), to_params(RowConfig{128, 32, 16, false}), arch)
               .value_or(""),
           "rows of 172 elements are no multiple of 16 bytes");
  CHECK_EQ(
      family()
          .reject_reason(add_rmsnorm(1, 4096), to_params(RowConfig{1024, 1024, 16, false}), arch)
          .value_or(""),
      "a row is 512 accesses: half of 1024 threads would find none");
}

TEST_CASE("row operands, bytes and arguments") {
  const Params problem = add_rmsnorm(3, 8, "f32");
  const auto operands = family().operands(problem);
  REQUIRE_EQ(operands.size(), 4);
  CHECK_EQ(operands[1].name, "residual");
  CHECK(operands[1].role == OperandSpec::Role::inout);
  CHECK(operands[1].dtype == DType::f32);
  CHECK_EQ(operands[2].shape, std::vector<std::int64_t>{8});
  CHECK_EQ(family().operands(silu_mul(5, 16))[0].shape, std::vector<std::int64_t>{5, 2, 16});
  CHECK_EQ(family().cost(problem).bytes, 3 * 8 * (4 + 4 + 4 + 2) + 8 * 2);
  CHECK_GT(family().cost(problem).flops, 3 * 8 * 4);
  CHECK_LT(family().cost(problem).flops, 3 * 8 * 20);
  const std::vector<std::uint64_t> addresses(4, 64);
  CHECK_EQ(family().pack_args(problem, {}, addresses, 0).size(), 4 * 8 + 8 + 2 * 8);
  CHECK_GT(family().tolerance(problem, 3).rel, family().tolerance(problem, 1).rel);
  CHECK(family().reference_config(problem).is_null());
}

TEST_CASE("malformed row problems are refused") {
  const Arch arch = parse_arch("sm_90a");
  const auto refuse = [&](const char* key, const Params& value) {
    Params problem = add_rmsnorm(1, 8);
    problem[key] = value;
    CHECK_THROWS_AS(family().candidates(problem, arch), InputError);
    CHECK_THROWS_AS(family().operands(problem), InputError);
  };
  refuse("kernel", "nothing");
  refuse("kernel", 3);
  refuse("rows", 0);
  refuse("rows", "8");
  refuse("cols", -1);
  refuse("cols", std::int64_t{1} << 50);
  refuse("T", "bf17");
  refuse("T", "i4");
  refuse("eps", "small");
  refuse("more", 1);
  Params huge = add_rmsnorm(std::int64_t{1} << 39, std::int64_t{1} << 39);
  CHECK_THROWS_AS(family().cost(huge), InputError);
  CHECK_THROWS_AS(family().candidates(Params::array(), arch), InputError);
  CHECK_THROWS_AS(family().source(add_rmsnorm(1, 8), {{"threads", 0}}, arch), InputError);
  CHECK_THROWS_AS(family().source(add_rmsnorm(1, 8), to_params(RowConfig{256, 0, 16, false}), arch),
                  InputError);
  const std::string text = "kernel k(x: T[n]) -> (y: T[n]) { y = x }";
  const HeaderMap twice{{"a.qk", text}, {"b.qk", text}}, broken{{"a.qk", "kernel"}};
  CHECK_THROWS_AS(RowFamily{twice}, InputError);
  CHECK_THROWS_AS(RowFamily{broken}, CompileError);
}

TEST_CASE("the row reference is the CPU build of the same kernel") {
  const Params problem = silu_mul(2, 3);
  std::vector<HostTensor> tensors;
  for (const OperandSpec& spec : family().operands(problem))
    tensors.push_back({spec, std::vector<std::byte>(spec.size_bytes())});
  const auto set = [&](std::size_t i, float value) {
    const std::uint16_t bits = f32_to_bf16(value);
    std::memcpy(tensors[0].data.data() + 2 * i, &bits, 2);
  };
  for (std::size_t i = 0; i < 12; ++i) set(i, static_cast<float>(i));
  family().cpu_reference(problem, tensors);
  std::uint16_t bits;
  std::memcpy(&bits, tensors[1].data.data() + 2 * 4, 2);  // [1, 1]: gate 7, up 10
  CHECK(bf16_to_f32(bits) == doctest::Approx(7 / (1 + std::exp(-7.0)) * 10).epsilon(0.004));
  tensors.pop_back();
  CHECK_THROWS_AS(family().cpu_reference(problem, tensors), InputError);
}
