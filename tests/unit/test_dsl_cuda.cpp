#include <cstring>

#include "compiler/dsl.h"
#include "runtime/base/error.h"
#include "templates/embedded.h"
#include "tests/support/support.h"

using namespace quern;

namespace {

dsl::Kernel embedded_kernel(const std::string& name) {
  return dsl::parse(embedded_templates().at("row/" + name + ".qk"), name + ".qk").at(0);
}

std::string body_of(const std::string& source) {
  return source.substr(source.find("extern \"C\""));
}

const Arch kHopper = parse_arch("sm_90a");

}  // namespace

TEST_CASE("generated CUDA reads like written CUDA: a warp for a row kept in registers") {
  const dsl::Binding binding{{{"T", DType::bf16}}, {{"cols", 256}}};
  CHECK_EQ(body_of(dsl::emit_cuda(embedded_kernel("rmsnorm"), binding, {128, 32, 16, false})),
           R"(extern "C" __global__ void __launch_bounds__(128) quern_rmsnorm(
    const __grid_constant__ Args args) {
  const long long rows = args.rows;
  constexpr long long cols = 256;
  const long long row = blockIdx.x * 4ll + threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  if (row >= rows) return;
  float h[8];
  Vector<bf16, 8> weight[1];
  float mean_partial = 0.0f;
  {
    const int col = lane * 8;
    const auto x = load<8>(args.x + row * cols + col);
    weight[0] = load<8>(args.weight + col);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      h[i] = to_f32(x.at[i]);
      mean_partial += h[i] * h[i];
    }
  }
  const float mean = row_sum(mean_partial) / static_cast<float>(cols);
  const float scale = rsqrtf(mean + args.eps);
  {
    const int col = lane * 8;
    Vector<bf16, 8> new_y;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      new_y.at[i] = to_bf16(h[i] * scale * to_f32(weight[0].at[i]));
    }
    store(args.y + row * cols + col, new_y);
  }
}
)");
}

TEST_CASE("generated CUDA: elements that stand by themselves are walked flat") {
  const dsl::Binding binding{{{"T", DType::f16}}, {{"cols", 172}}};
  CHECK_EQ(body_of(dsl::emit_cuda(embedded_kernel("silu_mul"), binding, {256, 256, 16, true})),
           R"(extern "C" __global__ void __launch_bounds__(256) quern_silu_mul(
    const __grid_constant__ Args args) {
  const long long rows = args.rows;
  constexpr long long cols = 172;
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
  asm volatile("griddepcontrol.launch_dependents;");
#endif
  constexpr int vectors = 43;  // in a row
  for (long long item = blockIdx.x * 256ll + threadIdx.x; item < rows * vectors;
       item += gridDim.x * 256ll) {
    const long long row = item / vectors;
    const int col = static_cast<int>(item % vectors) * 4;
    const auto gate_up_0 = load<4>(args.gate_up + row * 2 * cols + col);
    const auto gate_up_1 = load<4>(args.gate_up + (row * 2 + 1) * cols + col);
    Vector<f16, 4> new_y;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float gate = to_f32(gate_up_0.at[i]);
      new_y.at[i] = to_f16(gate * sigmoid(gate) * to_f32(gate_up_1.at[i]));
    }
    store(args.y + row * cols + col, new_y);
  }
}
)");
}

TEST_CASE("generated CUDA: a row too long for registers is read again, stores come last") {
  const dsl::Binding binding{{{"T", DType::bf16}, {"R", DType::bf16}}, {{"cols", 100000}}};
  const std::string source =
      dsl::emit_cuda(embedded_kernel("add_rmsnorm"), binding, {256, 256, 16, false});
  const std::size_t sum = source.find("= row_sum("), first = source.find("load<8>(args.residual"),
                    second = source.find("load<8>(args.residual", sum),
                    store = source.find("store(args.residual");
  CHECK_LT(first, sum);
  CHECK_LT(sum, second);
  CHECK_LT(second, store);
  CHECK_NE(store, std::string::npos);
}

TEST_CASE("generated CUDA: names of the user cannot clash with those of the language") {
  const dsl::Kernel kernel = dsl::parse(R"(
    kernel while(row: T[rows, cols], if: f32[rows]) -> (y: T[rows, cols]) {
      new = f32(row) - if
      lane = sum[cols](new)
      new_y = new * lane + new
      y = T(new_y)
    })",
                                        "k.qk")
                                 .at(0);
  const std::string source =
      body_of(dsl::emit_cuda(kernel, {{{"T", DType::f32}}, {{"cols", 64}}}, {64, 32, 16, false}));
  CHECK_EQ(dsl::entry_name(kernel), "quern_while");
  CHECK(source.find("args.if_[") != std::string::npos);
  CHECK(source.find("float new_[") != std::string::npos);
  CHECK(source.find("const float lane_ = row_sum(") != std::string::npos);
}

TEST_CASE("associativity survives the way through text") {
  const dsl::Kernel kernel =
      dsl::parse(
          "kernel k(a: f32[n], b: f32[n]) -> (y: f32[n]) {\n"
          "  y = a - (b - a) + (a + b) * (b * a) / (a / b) - -a * (b - 0.5)\n}\n",
          "k.qk")
          .at(0);
  CHECK(dsl::emit_cuda(kernel, {}, {})
            .find("a.at[0] - (b.at[0] - a.at[0]) + (a.at[0] + b.at[0]) * (b.at[0] * a.at[0]) / "
                  "(a.at[0] / b.at[0]) - -a.at[0] * (b.at[0] - 0.5f);") != std::string::npos);
}

TEST_CASE("schedules that cannot run are refused with a sentence") {
  const dsl::Kernel norm = embedded_kernel("rmsnorm"), silu = embedded_kernel("silu");
  const dsl::Binding binding{{{"T", DType::bf16}}, {{"cols", 4096}}};
  const auto reason = [&](const dsl::Kernel& kernel, const dsl::Schedule& schedule,
                          const Arch& arch = kHopper) {
    return dsl::reject_reason(kernel, binding, schedule, arch).value_or("");
  };
  CHECK_EQ(reason(norm, {}), "");
  CHECK_EQ(reason(norm, {128, 16, 16, true}), "");
  CHECK_EQ(reason(norm, {100, 100, 16, false}),
           "threads should be a multiple of 32 from 32 to 1024");
  CHECK_EQ(reason(norm, {256, 64, 16, false}),
           "threads_per_row should be a power of two up to 32, or all threads");
  CHECK_EQ(reason(norm, {256, 0, 16, false}),
           "threads_per_row should be a power of two up to 32, or all threads");
  CHECK_EQ(reason(norm, {256, 256, 12, false}), "vector_bytes should be 1, 2, 4, 8 or 16");
  CHECK_EQ(reason(silu, {256, 32, 16, false}),
           "silu has no reduction, so threads_per_row should be threads");
  CHECK_EQ(reason(norm, {256, 256, 16, true}, parse_arch("sm_86")),
           "sm_86 has no programmatic dependent launch");
  CHECK_EQ(dsl::reject_reason(norm, {}, {}, kHopper).value_or(""),
           "kernel rmsnorm needs a dtype for T");
  CHECK_EQ(dsl::reject_reason(norm, {{{"T", DType::e4m3}}, {}}, {}, kHopper).value_or(""),
           "kernel rmsnorm cannot have T = e4m3");
  CHECK_THROWS_AS(dsl::emit_cuda(norm, binding, {256, 0, 16, false}), InputError);
  CHECK_THROWS_AS(dsl::plan(norm, binding, {0, 0, 16, false}, {{"rows", 1}, {"cols", 4096}}),
                  InputError);
}

TEST_CASE("a plan covers every row, or every vector") {
  const dsl::Kernel norm = embedded_kernel("rmsnorm"), silu = embedded_kernel("silu");
  const dsl::Binding binding{{{"T", DType::bf16}}, {{"cols", 4096}}};
  const auto blocks = [&](const dsl::Kernel& kernel, const dsl::Schedule& schedule,
                          std::int64_t rows) {
    return dsl::plan(kernel, binding, schedule, {{"rows", rows}, {"cols", 4096}}).grid[0];
  };
  CHECK_EQ(blocks(norm, {256, 256, 16, false}, 17), 17);
  CHECK_EQ(blocks(norm, {256, 32, 16, false}, 17), 3);
  CHECK_EQ(blocks(norm, {256, 32, 16, false}, 0), 1);
  CHECK_EQ(blocks(silu, {256, 256, 16, false}, 17), 34);
  CHECK_EQ(blocks(silu, {256, 256, 2, false}, 1), 16);
  CHECK_EQ(dsl::plan(norm, binding, {128, 32, 16, true}, {{"rows", 1}, {"cols", 4096}}).pdl, true);
  CHECK_THROWS_AS(dsl::plan(norm, binding, {}, {{"cols", 4096}}), InputError);
  CHECK_THROWS_AS(blocks(norm, {}, -1), InputError);
  CHECK_THROWS_AS(blocks(norm, {}, std::int64_t{1} << 40), InputError);
}

TEST_CASE("arguments are packed as the generated struct is laid out") {
  const dsl::Kernel kernel = embedded_kernel("add_rmsnorm");
  const std::vector<std::uint64_t> addresses{0x1000, 0x2000, 0x3000, 0x4000};
  const auto bytes =
      dsl::pack_args(kernel, addresses, {{"eps", 1e-5}}, {{"rows", 7}, {"cols", 4096}});
  struct {
    std::uint64_t pointers[4];
    float eps;
    std::int64_t rows, cols;
  } wanted{{0x1000, 0x2000, 0x3000, 0x4000}, 1e-5f, 7, 4096}, got;
  REQUIRE_EQ(bytes.size(), sizeof got);
  std::memcpy(&got, bytes.data(), sizeof got);
  CHECK_EQ(got.pointers[3], wanted.pointers[3]);
  CHECK_EQ(got.eps, wanted.eps);
  CHECK_EQ(got.rows, wanted.rows);
  CHECK_EQ(got.cols, wanted.cols);
  CHECK_THROWS_AS(dsl::pack_args(kernel, addresses, {}, {{"rows", 7}, {"cols", 4096}}), InputError);
  CHECK_THROWS_AS(dsl::pack_args(kernel, addresses, {{"eps", 1}}, {{"rows", 7}}), InputError);
  CHECK_THROWS_AS(dsl::pack_args(kernel, {}, {{"eps", 1}}, {{"rows", 7}, {"cols", 1}}), InputError);
}
