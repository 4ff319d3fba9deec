#include <algorithm>
#include <cstring>
#include <set>

#include "autotune/problem.h"
#include "autotune/row_family.h"
#include "compiler/nvrtc.h"
#include "runtime/base/error.h"
#include "runtime/base/half.h"
#include "templates/embedded.h"
#include "tests/support/row_problems.h"
#include "tests/support/spread.h"
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
        const RankedSpace ranked = family().ranked_space(problem, arch);
        REQUIRE_GE(ranked.configs.size(), 1);
        CHECK_LE(ranked.configs.size(), 1000);
        CHECK_EQ(ranked.configs.front(), family().default_config(problem, arch));
        std::set<std::string> keys;
        for (const Params& config : ranked.configs) keys.insert(to_key(config));
        CHECK_EQ(keys.size(), ranked.configs.size());
        for (const Params& config : test::spread(ranked.configs, 24)) {
          CAPTURE(to_text(config));
          CHECK_EQ(family().reject_reason(problem, config, arch).value_or(""), "");
          for (const Tunable& tunable : family().space(problem))
            CHECK(std::find(tunable.values.begin(), tunable.values.end(),
                            config.at(tunable.name)) != tunable.values.end());
          CHECK_GE(family().plan(problem, config, arch).grid[0], 1);
          CHECK_GT(family().estimate_us(problem, config, arch), 0);
        }
      }
}

TEST_CASE("the default gives a long row a block and a short one a warp or less") {
  const Arch arch = parse_arch("sm_90a");
  CHECK_EQ(to_text(family().default_config(add_rmsnorm(4096, 4096), arch)),
           "threads=256 threads_per_row=256 vector=8 keep=registers cluster=1 pdl=true turns=1 "
           "blocks_per_sm=0");
  // Where rows are too few to fill the GPU, more threads shorten each.
  CHECK_EQ(to_text(family().default_config(add_rmsnorm(1, 4096), arch)),
           "threads=512 threads_per_row=512 vector=8 keep=registers cluster=1 pdl=true turns=1 "
           "blocks_per_sm=0");
  CHECK_EQ(to_text(family().default_config(add_rmsnorm(4096, 1024), arch)),
           "threads=128 threads_per_row=32 vector=8 keep=registers cluster=1 pdl=true turns=1 "
           "blocks_per_sm=0");
  CHECK_EQ(to_text(family().default_config(add_rmsnorm(1, 64), arch)),
           "threads=128 threads_per_row=8 vector=8 keep=registers cluster=1 pdl=true turns=1 "
           "blocks_per_sm=0");
  CHECK_EQ(to_text(family().default_config(add_rmsnorm(4096, 131072), arch)),
           "threads=1024 threads_per_row=1024 vector=8 keep=registers cluster=8 pdl=true turns=1 "
           "blocks_per_sm=0");
  CHECK_EQ(family()
               .reject_reason(add_rmsnorm(1, 172),
                              to_params(RowConfig{128, 32, 8, "none", 1, false}), arch)
               .value_or(""),
           "vector = 8 does not divide axis cols of 172 elements");
  CHECK_EQ(family()
               .reject_reason(add_rmsnorm(1, 4096),
                              to_params(RowConfig{1024, 1024, 8, "none", 1, false}), arch)
               .value_or(""),
           "a row is 512 accesses: half of 1024 threads would find none");
}

TEST_CASE("candidates cover accesses, threads, clusters and places to keep a row") {
  const auto has = [](const std::vector<Params>& configs, const char* key, const Params& value) {
    return std::any_of(configs.begin(), configs.end(),
                       [&](const Params& config) { return config.at(key) == value; });
  };
  const Arch arch = parse_arch("sm_90a");
  const auto few = family().candidates(add_rmsnorm(8, 16384, "f32"), arch);
  for (const int vector : {4, 8}) CHECK(has(few, "vector", vector));  // 16 bytes of f32 and of bf16
  for (const int cluster : {1, 2, 4, 8}) CHECK(has(few, "cluster", cluster));
  for (const char* keep : {"none", "registers", "shared"}) CHECK(has(few, "keep", keep));
  CHECK_FALSE(has(family().candidates(add_rmsnorm(8, 16384), parse_arch("sm_80")), "cluster", 2));
  const auto many = family().candidates(add_rmsnorm(4096, 512), arch);
  CHECK(std::any_of(many.begin(), many.end(), [](const Params& config) {
    return config["threads"].get<int>() > config["threads_per_row"].get<int>();
  }));
  const auto elements = family().candidates(silu_mul(64, 4096), arch);
  for (const int threads : {128, 256, 512, 1024}) CHECK(has(elements, "threads", threads));
  for (const int vector : {4, 8}) CHECK(has(elements, "vector", vector));
}

TEST_CASE("every shipped kernel has legal candidates, operands and a tolerance at any shape") {
  for (const auto& [name, kernel] : family().kernels())
    for (const std::int64_t cols : {1, 7, 172, 4096})
      for (const std::int64_t rows : {1, 17, 65536})
        for (const DType dtype : {DType::bf16, DType::e4m3, DType::f32}) {
          const Params problem = test::row_problem(family(), kernel, rows, cols, dtype, DType::f32);
          CAPTURE(to_text(problem));
          const Arch& arch = known_archs()[(cols + rows) % known_archs().size()];
          CHECK_EQ(family().unsupported(problem, arch).value_or(""), "");
          for (const Params& config : test::spread(family().candidates(problem, arch), 10)) {
            CAPTURE(to_text(config));
            CHECK_EQ(family().reject_reason(problem, config, arch).value_or(""), "");
            CHECK_EQ(outside_space(family(), problem, config).value_or(""), "");
          }
          CHECK_GT(family().cost(problem).bytes, 0);
          const auto operands = family().operands(problem);
          for (std::size_t i = 0; i < operands.size(); ++i)
            if (operands[i].role != OperandSpec::Role::in)
              CHECK_LT(family().tolerance(problem, i).rel, 0.3);
        }
}

TEST_CASE("trial contents fit what a kernel does with them") {
  RowFamily own;
  own.add(R"(
    kernel gather(table: f32[vocab, cols], ids: i32[rows]; shift: i32) -> (y: f32[rows, cols]) {
      y = table[vocab = ids + shift]
    }
    kernel roots(x: f32[rows, cols], z: f32[rows, cols], n: i32[rows])
        -> (y: f32[rows, cols], k: i32[rows]) {
      y = log(f32(x)) + f32(z) * sqrt(f32(z) * f32(z))
      k = n * 2
    })",
          "own.qk");
  const Params gather =
      own.problem("gather", {{{"rows", 9}, {"cols", 4}, {"vocab", 3200}}, {}, {{"shift", 1}}});
  const auto ids = own.operands(gather)[1];
  REQUIRE(ids.range.has_value());
  CHECK(ids.range->first < 0);
  CHECK(ids.range->first > -3200 / 16);
  CHECK(ids.range->second >= 3200);
  CHECK(ids.range->second < 3200 + 3200 / 16);
  CHECK_EQ(own.cost(gather).bytes, 9 * 4 + 2 * 9 * 4 * 4);  // of the table, nine rows
  const Params roots = own.problem("roots", {{{"rows", 9}, {"cols", 4}}, {}, {}});
  const auto operands = own.operands(roots);
  CHECK(operands[0].positive);
  CHECK_FALSE(operands[1].positive);
  CHECK(operands[2].range.has_value());
}

TEST_CASE("integer outputs are exact where the arithmetic is, else few may be one off") {
  RowFamily own;
  own.add(R"(
    kernel exact(x: f32[rows, cols], n: i32[rows, cols])
        -> (a: i32[rows], b: i8[rows, cols], c: i32[rows, cols], d: f32[rows, cols]) {
      a = argmax[cols](abs(x))
      b = i8(round(x))
      c = n * 3 + index(cols)
      d = max(x, 0)
    }
    kernel rounded(x: f32[rows, cols]) -> (a: i32[rows], b: i8[rows, cols], c: f32[rows]) {
      s = sum[cols](x)
      a = argmax[cols](exp(x) + s)
      b = i8(x / s)
      c = s
    })",
          "own.qk");
  const RowValues values{{{"rows", 4}, {"cols", 1024}}, {}, {}};
  const Params exact = own.problem("exact", values), rounded = own.problem("rounded", values);
  for (std::size_t i = 2; i < 6; ++i) {
    CAPTURE(i);
    const Tolerance t = own.tolerance(exact, i);
    CHECK_EQ(t.abs + t.rel + t.share, 0);
  }
  CHECK_GT(own.tolerance(rounded, 1).share, 0);
  CHECK_EQ(own.tolerance(rounded, 1).abs, 1024);
  const Tolerance b = own.tolerance(rounded, 2);
  CHECK_EQ(b.abs, 1);
  CHECK_GT(b.share, 0);
  CHECK_LT(b.share, 0.02);
  const Tolerance sum = own.tolerance(rounded, 3);
  CHECK_GT(sum.abs, 10 * own.tolerance(rounded, 3).rel);
}

TEST_CASE("kernels of a user's own") {
  RowFamily both(embedded_templates());
  const std::size_t shipped = both.kernels().size();
  const std::string text =
      "use \"activations.qk\"\n"
      "kernel silu(x: T[tokens, cols]) -> (y: T[tokens, cols]) { y = T(silu(f32(x))) }\n"
      "kernel twice(x: T[cols]) -> (y: T[cols]) { y = T(f32(x) * 2) }";
  const auto includes = dsl::includes_from(embedded_templates(), "row");
  CHECK_EQ(both.add(text, "mine.qk", includes), std::vector<std::string>{"silu", "twice"});
  CHECK_EQ(both.kernels().size(), shipped + 1);  // one takes the place of the shipped one
  const RowValues values{{{"tokens", 100}, {"cols", 64}}, {{"T", DType::f16}}, {}};
  const Params silu = both.problem("silu", values);
  CHECK_EQ(both.dynamic_fields_of(silu), std::vector<std::string>{"tokens"});
  CHECK(both.dynamic_fields_of(both.problem("twice", {{{"cols", 64}}, {{"T", DType::f16}}, {}}))
            .empty());
  CHECK(both.dynamic_fields_of({{"kernel", "nothing"}}).empty());
  CHECK(both.dynamic_fields_of(Params::array()).empty());

  // Another text, used files included, is another problem: no record is shared.
  const auto hash_with = [&](const std::string& kernel, const std::string& used) {
    RowFamily other;
    other.add(kernel, "mine.qk", [&](const std::string&) { return used; });
    return other.problem("silu", values).at("text").get<std::string>();
  };
  const std::string activations = embedded_templates().at("row/activations.qk");
  CHECK_EQ(hash_with(text, activations), silu.at("text").get<std::string>());
  CHECK_NE(hash_with(text + " ", activations), silu.at("text").get<std::string>());
  CHECK_NE(hash_with(text, activations + " "), silu.at("text").get<std::string>());
  Params stale = silu;
  stale["text"] = "0123456789abcdef";
  CHECK_THROWS_AS(both.operands(stale), InputError);
  stale.erase("text");
  CHECK_THROWS_AS(both.operands(stale), InputError);

  CHECK_THROWS_AS(both.add(text, "again.qk", includes), InputError);
  CHECK_THROWS_AS(both.add("let f(x) = x", "functions.qk"), InputError);
  CHECK_THROWS_AS(both.add("use \"activations.qk\"", "x.qk"), CompileError);
  CHECK_THROWS_AS(both.add("kernel k(x: T[text]) -> (y: T[text]) { y = x }", "x.qk"), InputError);
  const auto refuse = [&](const RowValues& wrong, const char* fragment) {
    try {
      both.problem("rmsnorm", wrong);
      FAIL("accepted");
    } catch (const InputError& error) {
      CHECK(std::string(error.what()).find(fragment) != std::string::npos);
    }
  };
  const RowValues good{{{"rows", 1}, {"cols", 8}}, {{"T", DType::f32}}, {{"eps", 0.1}}};
  both.problem("rmsnorm", good);
  const auto without = [&](auto RowValues::*part, const char* key) {
    RowValues wrong = good;
    (wrong.*part).erase(key);
    return wrong;
  };
  refuse(without(&RowValues::axes, "cols"), "'cols'");
  refuse(without(&RowValues::dtypes, "T"), "'T'");
  refuse(without(&RowValues::scalars, "eps"), "'eps'");
  RowValues more = good;
  more.axes["heads"] = 3;
  refuse(more, "'heads'");
  CHECK_THROWS_AS(both.problem("nothing", good), InputError);
}

TEST_CASE("large problems are checked at fewer rows") {
  CHECK_EQ(family().check_problem(add_rmsnorm(2048, 4096)), add_rmsnorm(2048, 4096));
  CHECK_EQ(family().check_problem(add_rmsnorm(65536, 4096)), add_rmsnorm(2048, 4096));
  CHECK_EQ(family().check_problem(add_rmsnorm(65536, 1 << 24))["rows"], 1);
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
  CHECK_THROWS_AS(
      family().source(add_rmsnorm(1, 8), to_params(RowConfig{256, 0, 1, "none", 1, false}), arch),
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
