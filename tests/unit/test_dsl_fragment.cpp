#include <cstring>

#include "runtime/base/error.h"
#include "tests/support/fragments.h"
#include "tests/support/support.h"

using namespace quern;
using namespace quern::test;

namespace {

dsl::Kernel kernel_of(const char* text) { return dsl::parse(text, "k.qk").at(0); }

/// The fragment without the helpers before it.
std::string body_of(const std::string& source, const std::string& name) {
  return source.substr(source.find("struct " + name + "Args"));
}

}  // namespace

TEST_CASE("a fragment reads like a written device function") {
  CHECK_EQ(body_of(dsl::emit_fragment(kernel_of(kBiasGelu),
                                      {{{"T", DType::bf16}}, {{"cols", 4096}}}, {.input = "acc"}),
                   "Epilogue"),
           R"(struct EpilogueArgs {
  const bf16* bias;  // [cols]
  bf16* y;  // [rows, cols]
  long long rows;
  long long cols;
};

template <int N>
__device__ inline void epilogue(const EpilogueArgs& args, long long row, long long col,
                                const float (&acc)[N]) {
  constexpr long long cols = 4096;
  const long long count = cols - col;  // elements that exist
  const auto bias = load_up_to<N>(args.bias + col, count);
  Vector<bf16, N> new_y;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    const float h = acc[i] + to_f32(bias.at[i]);
    new_y.at[i] = to_bf16(0.5f * h * (1.0f + erff(h * 0.70710677f)));
  }
  store_up_to(args.y + row * cols + col, new_y, count);
}

}
using epilogue_fragment::EpilogueArgs;
using epilogue_fragment::epilogue;
)");
}

TEST_CASE("a fragment of whole vectors checks neither ends nor alignment") {
  CHECK_EQ(body_of(dsl::emit_fragment(kernel_of(kBiasGelu),
                                      {{{"T", DType::bf16}}, {{"cols", 4096}}},
                                      {.input = "acc", .whole = true}),
                   "Epilogue"),
           R"(struct EpilogueArgs {
  const bf16* bias;  // [cols]
  bf16* y;  // [rows, cols]
  long long rows;
  long long cols;
};

template <int N>
__device__ inline void epilogue(const EpilogueArgs& args, long long row, long long col,
                                const float (&acc)[N]) {
  constexpr long long cols = 4096;
  const auto bias = load<N>(args.bias + col);
  Vector<bf16, N> new_y;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    const float h = acc[i] + to_f32(bias.at[i]);
    new_y.at[i] = to_bf16(0.5f * h * (1.0f + erff(h * 0.70710677f)));
  }
  store(args.y + row * cols + col, new_y);
}

}
using epilogue_fragment::EpilogueArgs;
using epilogue_fragment::epilogue;
)");
}

TEST_CASE("a fragment of interleaved pairs") {
  CHECK_EQ(
      body_of(dsl::emit_fragment(kernel_of(kSwiglu), {{{"T", DType::f16}}, {}}, {.input = "acc"}),
              "Epilogue"),
      R"(struct EpilogueArgs {
  f16* y;  // [rows, cols]
  long long rows;
  long long cols;
};

template <int N>
__device__ inline void epilogue(const EpilogueArgs& args, long long row, long long col,
                                const float (&acc)[N * 2]) {
  const long long cols = args.cols;
  const long long count = cols - col;  // elements that exist
  Vector<f16, N> new_y;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    new_y.at[i] = to_f16(acc[i * 2] * sigmoid(acc[i * 2]) * acc[i * 2 + 1]);
  }
  store_up_to(args.y + row * cols + col, new_y, count);
}

}
using epilogue_fragment::EpilogueArgs;
using epilogue_fragment::epilogue;
)");
}

TEST_CASE("a fragment that modifies scores leaves them in registers and knows their positions") {
  CHECK_EQ(body_of(dsl::emit_fragment(kernel_of(kScores), {},
                                      {.input = "s", .name = "ScoreModifier", .output = "t"}),
                   "ScoreModifier"),
           R"(struct ScoreModifierArgs {
  const float* slope;  // [heads]
  float cap;
  int past;
  long long heads;
  long long queries;
  long long keys;
};

template <int N>
__device__ inline void score_modifier(const ScoreModifierArgs& args, long long row, long long col,
                                      const float (&s)[N], float (&t)[N]) {
  const long long queries = args.queries;
  const long long heads_index = row / queries;
  const long long queries_index = row % queries;
  const int t_2 = add(static_cast<int>(queries_index), args.past);
  const float slope = args.slope[heads_index];
#pragma unroll
  for (int i = 0; i < N; ++i) {
    const int distance = subtract(t_2, static_cast<int>(col + i));
    t[i] = distance >= 0 ? args.cap * tanhf(quotient(s[i], args.cap)) - slope * to_f32(distance) : -__int_as_float(0x7f800000);
  }
}

}
using score_modifier_fragment::ScoreModifierArgs;
using score_modifier_fragment::score_modifier;
)");
}

TEST_CASE("arguments of a fragment") {
  const dsl::Kernel kernel = kernel_of(kScores);
  const dsl::Fragment fragment{.input = "s", .name = "ScoreModifier", .output = "t"};
  CHECK_EQ(dsl::fragment_operands(kernel, fragment), std::vector<int>{1});
  CHECK_EQ(dsl::fragment_operands(kernel, {.input = "s"}), std::vector<int>{1, 2});
  const std::map<std::string, double> scalars{{"cap", 30}, {"past", 7}};
  const std::map<std::string, std::int64_t> extents{{"heads", 2}, {"queries", 3}, {"keys", 4}};
  const std::vector<std::uint64_t> addresses{0x1000};
  struct {
    std::uint64_t slope;
    float cap;
    std::int32_t past;
    std::int64_t heads, queries, keys;
  } got;
  const auto bytes = dsl::fragment_args(kernel, fragment, addresses, scalars, extents);
  REQUIRE_EQ(bytes.size(), sizeof got);
  std::memcpy(&got, bytes.data(), sizeof got);
  CHECK_EQ(got.slope, 0x1000);
  CHECK_EQ(got.cap, 30.0f);
  CHECK_EQ(got.past, 7);
  CHECK_EQ(got.keys, 4);
  CHECK_THROWS_AS(dsl::fragment_args(kernel, fragment, {}, scalars, extents), InputError);
}

TEST_CASE("kernels that cannot be fragments are refused with a sentence") {
  const auto reason = [](const char* text, const dsl::Fragment& fragment) {
    return dsl::fragment_reason(kernel_of(text), {{{"T", DType::f16}}, {}}, fragment).value_or("");
  };
  CHECK_EQ(reason(kBiasGelu, {.input = "acc"}), "");
  CHECK_EQ(reason(kBiasGelu, {.input = "acc", .name = "my epilogue"}),
           "`my epilogue` is no name of a fragment: use letters and digits, a capital first");
  CHECK_EQ(reason(kBiasGelu, {.input = "y"}), "bias_gelu has no input y");
  CHECK_EQ(reason(kBiasGelu, {.input = "bias"}), "bias is not f32, and registers hold f32");
  CHECK_EQ(reason(kBiasGelu, {.input = "acc", .output = "bias"}), "bias_gelu has no output bias");
  CHECK_EQ(reason(kBiasGelu, {.input = "acc", .output = "y"}),
           "y is not f32, and registers hold f32");
  CHECK_EQ(
      reason("kernel k(x: f32[r, c], b: f32[c]) -> (y: f32[r, c]) { y = x + b }", {.input = "b"}),
      "b lacks some of the axes, so it cannot be in registers");
  CHECK_EQ(
      reason("kernel k(x: f32[2, r, c]) -> (y: f32[r, c]) { y = x[0] + x[1] }", {.input = "x"}),
      "fixed axes of x should follow axis c");
  CHECK_EQ(reason("kernel k(x: f32[r, c]) -> (y: f32[r, c]) { y = x - max[c](x) }", {.input = "x"}),
           "k has reductions, which a fragment cannot have");
  CHECK_EQ(reason("kernel k(x: f32[r, c], s: f32[r]) -> (y: f32[r, c], z: f32[r]) {\n"
                  "  y = x * s\n  z = s + 1\n}",
                  {.input = "x"}),
           "z is written once for a row, which a fragment does not see as a whole");
  CHECK_THROWS_AS(dsl::emit_fragment(kernel_of(kBiasGelu), {}, {.input = "acc"}), InputError);
}

TEST_CASE("what is only added to is added to in memory") {
  const dsl::Binding f32{{{"R", DType::f32}}, {}}, bf16{{{"R", DType::bf16}}, {}};
  const auto accumulates = [](const std::string& body, const dsl::Binding& binding,
                              bool whole = true) {
    const std::string text =
        "kernel k(acc: f32[rows, cols], residual: inout R[rows, cols]) -> (y: f32[rows, cols]) "
        "{\n" +
        body + "\n}";
    const std::string out =
        dsl::emit_fragment(kernel_of(text.c_str()), binding, {.input = "acc", .whole = whole});
    const bool adds = out.find("accumulate(args.residual") != std::string::npos;
    CHECK_NE(adds, out.find("residual = load") != std::string::npos);
    return adds;
  };
  const std::string y = "y = acc\n";
  CHECK(accumulates(y + "residual = R(acc + f32(residual))", f32));
  CHECK(accumulates(y + "residual = R(f32(residual) + exp(acc) * 2.0)", f32));
  // Memory adds f32 alone; and what is read for something else has to be waited for anyhow.
  CHECK_FALSE(accumulates(y + "residual = R(acc + f32(residual))", bf16));
  CHECK_FALSE(accumulates(y + "residual = R(acc - f32(residual))", f32));
  CHECK_FALSE(accumulates(y + "residual = R(f32(residual) + f32(residual))", f32));
  CHECK_FALSE(accumulates("y = f32(residual)\nresidual = R(acc + f32(residual))", f32));
  // Where some elements do not exist.
  CHECK_FALSE(accumulates(y + "residual = R(acc + f32(residual))", f32, false));
}
