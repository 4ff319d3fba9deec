#include <cstring>

#include "compiler/dsl.h"
#include "runtime/base/error.h"
#include "templates/embedded.h"
#include "tests/support/support.h"

using namespace quern;
using dsl::Keep;

namespace {

std::vector<dsl::Kernel> kernels_of(const std::string& file) {
  return dsl::parse(embedded_templates().find(file)->second, file, [](const std::string& used) {
    return std::optional(embedded_templates().at("row/" + used));
  });
}

dsl::Kernel embedded_kernel(const std::string& name) {
  return kernels_of("row/" + name + ".qk").at(0);
}

dsl::Kernel kernel_of(const char* text) { return dsl::parse(text, "k.qk").at(0); }

std::string body_of(const std::string& source) {
  return source.substr(source.find("extern \"C\""));
}

const Arch kHopper = parse_arch("sm_90a");

}  // namespace

TEST_CASE("generated CUDA reads like written CUDA: a warp for a row kept in registers") {
  const dsl::Binding binding{{{"T", DType::bf16}}, {{"cols", 256}}};
  CHECK_EQ(
      body_of(dsl::emit_cuda(embedded_kernel("rmsnorm"), binding, {128, 32, 8, Keep::registers})),
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
  CHECK_EQ(body_of(dsl::emit_cuda(embedded_kernel("silu_mul"), binding,
                                  {256, 256, 4, Keep::none, 1, true})),
           R"(extern "C" __global__ void __launch_bounds__(256) quern_silu_mul(
    const __grid_constant__ Args args) {
  const long long rows = args.rows;
  constexpr long long cols = 172;
  constexpr int vectors = 43;  // in a row
  const long long item = blockIdx.x * 256ll + threadIdx.x;
  if (item >= rows * vectors) return;
  const long long element = item * 4;
  const long long row = item / vectors;
  const int col = static_cast<int>(item % vectors) * 4;
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
  const auto gate_up_0 = load<4>(args.gate_up + row * 2 * cols + col);
  const auto gate_up_1 = load<4>(args.gate_up + (row * 2 + 1) * cols + col);
  Vector<f16, 4> new_y;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float gate = to_f32(gate_up_0.at[i]);
    new_y.at[i] = to_f16(gate * sigmoid(gate) * to_f32(gate_up_1.at[i]));
  }
  store(args.y + element, new_y);
}
)");
}

TEST_CASE("generated CUDA: a row too long for registers is read again, stores come last") {
  const dsl::Binding binding{{{"T", DType::bf16}, {"R", DType::bf16}}, {{"cols", 100000}}};
  const std::string source = dsl::emit_cuda(embedded_kernel("add_rmsnorm"), binding, {256, 256, 8});
  const std::size_t sum = source.find("= row_sum("), first = source.find("load<8>(args.residual"),
                    second = source.find("load<8>(args.residual", sum),
                    store = source.find("store(args.residual");
  CHECK_LT(first, sum);
  CHECK_LT(sum, second);
  CHECK_LT(second, store);
  CHECK_NE(store, std::string::npos);
}

constexpr const char* kNormaliseGroups = R"(
  kernel k(x: bf16[rows, groups, lanes])
      -> (y: e4m3[rows, groups, lanes], scale: f32[rows, groups]) {
    h     = f32(x)
    n     = h * rsqrt(mean[groups, lanes](h * h))
    s     = max[lanes](abs(n)) / 448
    scale = s
    y     = e4m3(n / s)
  })";

TEST_CASE("generated CUDA: neighbouring lanes hold the segments of a row kept in registers") {
  const dsl::Binding binding{{}, {{"groups", 4}, {"lanes", 64}}};
  CHECK_EQ(
      body_of(dsl::emit_cuda(kernel_of(kNormaliseGroups), binding, {64, 32, 8, Keep::registers})),
      R"(extern "C" __global__ void __launch_bounds__(64) quern_k(
    const __grid_constant__ Args args) {
  const long long rows = args.rows;
  constexpr long long groups = 4;
  constexpr long long lanes = 64;
  const long long row = blockIdx.x * 2ll + threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  if (row >= rows) return;
  float h[8];
  float n[8];
  float mean_partial = 0.0f;
  {
    const int col = lane * 8;
    const auto x = load<8>(args.x + row * groups * lanes + col);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      h[i] = to_f32(x.at[i]);
      mean_partial += h[i] * h[i];
    }
  }
  const float mean = row_sum(mean_partial) / static_cast<float>(groups * lanes);
  const float scale = rsqrtf(mean);
  {
    const int col = lane * 8;
    const int segment = col / 64;
    const int at = col % 64;
    float largest_partial = -__int_as_float(0x7f800000);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      n[i] = h[i] * scale;
      largest_partial = fmaxf(largest_partial, fabsf(n[i]));
    }
    const float largest = segment_max(largest_partial);
    const float s = quotient(largest, 448.0f);
    Vector<e4m3, 8> new_y;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      new_y.at[i] = to_e4m3(quotient(n[i], s));
    }
    store(args.y + row * groups * lanes + col, new_y);
    if (at == 0) {
      args.scale[row * groups + segment] = s;
    }
  }
}
)");
}

TEST_CASE("generated CUDA: warps take the segments of a row in turn") {
  const dsl::Binding binding{{}, {{"groups", 5}, {"lanes", 24}}};
  CHECK_EQ(body_of(dsl::emit_cuda(kernel_of(kNormaliseGroups), binding, {64, 64, 8})),
           R"(extern "C" __global__ void __launch_bounds__(64) quern_k(
    const __grid_constant__ Args args) {
  const long long rows = args.rows;
  constexpr long long groups = 5;
  constexpr long long lanes = 24;
  __shared__ float shared[1][32];
  const long long row = blockIdx.x;
  const int lane = threadIdx.x;
  if (row >= rows) return;
  float mean_partial = 0.0f;
  for (int segment = lane / 32; segment < groups; segment += 2) {
    for (int at = lane % 32 * 8; at < lanes; at += 256) {
      const auto x = load<8>(args.x + (row * groups + segment) * lanes + at);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const float h = to_f32(x.at[i]);
        mean_partial += h * h;
      }
    }
  }
  const float mean = row_sum(mean_partial, shared[0]) / static_cast<float>(groups * lanes);
  const float scale = rsqrtf(mean);
  for (int segment = lane / 32; segment < groups; segment += 2) {
    float largest_partial = -__int_as_float(0x7f800000);
    for (int at = lane % 32 * 8; at < lanes; at += 256) {
      const auto x = load<8>(args.x + (row * groups + segment) * lanes + at);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const float h = to_f32(x.at[i]);
        const float n = h * scale;
        largest_partial = fmaxf(largest_partial, fabsf(n));
      }
    }
    const float largest = segment_max(largest_partial);
    const float s = quotient(largest, 448.0f);
    for (int at = lane % 32 * 8; at < lanes; at += 256) {
      const auto x = load<8>(args.x + (row * groups + segment) * lanes + at);
      Vector<e4m3, 8> new_y;
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const float h = to_f32(x.at[i]);
        const float n = h * scale;
        new_y.at[i] = to_e4m3(quotient(n, s));
      }
      store(args.y + (row * groups + segment) * lanes + at, new_y);
    }
    if (lane % 32 == 0) {
      args.scale[row * groups + segment] = s;
    }
  }
}
)");
}

TEST_CASE("generated CUDA: a segment's value that is the same for all is stored once per row") {
  // smallest varies along no axis of a row but is folded along its segments.
  const dsl::Kernel kernel = kernel_of(R"(
    kernel k(x: f32[rows, groups, lanes], state: inout f32[rows]) -> (y: f32[rows, groups]) {
      smallest = min[lanes](f32(index(lanes)) + state)
      y        = max[lanes](x) - mean[groups, lanes](x)
      state    = smallest
    })");
  const std::string source = dsl::emit_cuda(kernel, {}, {});
  const std::size_t declared = source.find("float first_smallest{};"),
                    set = source.find("if (segment == 0) first_smallest = smallest;"),
                    barrier = source.find("row_barrier();", set),
                    stored = source.find("args.state[row] = first_smallest;");
  CHECK_LT(declared, set);
  CHECK_LT(set, barrier);
  CHECK_LT(barrier, stored);
  CHECK_NE(stored, std::string::npos);
}

TEST_CASE("generated CUDA: a gather that is the same for a whole vector") {
  const dsl::Kernel kernel = kernel_of(
      "kernel embed(table: f16[vocab, cols], ids: i32[rows]) -> (y: f16[rows, cols]) {\n"
      "  y = table[vocab = ids]\n}\n");
  CHECK_EQ(body_of(dsl::emit_cuda(kernel, {{}, {{"cols", 64}}}, {256, 256, 8})),
           R"(extern "C" __global__ void __launch_bounds__(256) quern_embed(
    const __grid_constant__ Args args) {
  const long long rows = args.rows;
  constexpr long long cols = 64;
  const long long vocab = args.vocab;
  constexpr int vectors = 8;  // in a row
  const long long item = blockIdx.x * 256ll + threadIdx.x;
  if (item >= rows * vectors) return;
  const long long element = item * 8;
  const long long row = item / vectors;
  const int col = static_cast<int>(item % vectors) * 8;
  const int ids = args.ids[row];
  const auto table = within(ids, vocab) ? load<8>(args.table + ids * cols + col) : Vector<f16, 8>();
  Vector<f16, 8> new_y;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    new_y.at[i] = table.at[i];
  }
  store(args.y + element, new_y);
}
)");
}

TEST_CASE("generated CUDA: blocks of a cluster share a row that waits in shared memory") {
  const dsl::Kernel kernel = kernel_of(
      "kernel probabilities(x: f32[rows, cols]) -> (y: f32[rows, cols]) {\n"
      "  e = exp(x - max[cols](x))\n  y = e / sum[cols](e)\n}\n");
  CHECK_EQ(body_of(dsl::emit_cuda(kernel, {{}, {{"cols", 20000}}}, {512, 512, 4, Keep::shared, 2})),
           R"(extern "C" __global__ void __launch_bounds__(512) quern_probabilities(
    const __grid_constant__ Args args) {
  const long long rows = args.rows;
  constexpr long long cols = 20000;
  extern __shared__ __align__(16) unsigned char staged[];
  __shared__ float shared[2][34];
  const long long row = blockIdx.x / 2;
  const int lane = blockIdx.x % 2 * 512 + threadIdx.x;
  if (row >= rows) return;
  cluster_arrive();  // before anything is sent
  float* const staged_x = reinterpret_cast<float*>(staged);
  for (int chunk = 0; chunk < 5; ++chunk) {
    const int col = (chunk * 1024 + lane) * 4;
    if (col < cols) {
      stage<4>(staged_x + (chunk * 512 + threadIdx.x) * 4, args.x + row * cols + col);
    }
  }
  asm volatile("cp.async.wait_all;" ::: "memory");
  float largest_partial = -__int_as_float(0x7f800000);
  for (int chunk = 0; chunk < 5; ++chunk) {
    const int col = (chunk * 1024 + lane) * 4;
    if (col < cols) {
      const auto x = load<4>(staged_x + (chunk * 512 + threadIdx.x) * 4);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        largest_partial = fmaxf(largest_partial, x.at[i]);
      }
    }
  }
  cluster_wait();
  const float largest = row_max(largest_partial, shared[0]);
  float sum_partial = 0.0f;
  for (int chunk = 0; chunk < 5; ++chunk) {
    const int col = (chunk * 1024 + lane) * 4;
    if (col < cols) {
      const auto x = load<4>(staged_x + (chunk * 512 + threadIdx.x) * 4);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float e = expf(x.at[i] - largest);
        sum_partial += e;
      }
    }
  }
  const float sum = row_sum(sum_partial, shared[1]);
  for (int chunk = 0; chunk < 5; ++chunk) {
    const int col = (chunk * 1024 + lane) * 4;
    if (col < cols) {
      const auto x = load<4>(staged_x + (chunk * 512 + threadIdx.x) * 4);
      Vector<float, 4> new_y;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float e = expf(x.at[i] - largest);
        new_y.at[i] = quotient(e, sum);
      }
      store(args.y + row * cols + col, new_y);
    }
  }
}
)");
}

TEST_CASE("generated CUDA: threads own columns, and four share one") {
  const dsl::Kernel kernel = kernel_of(
      "kernel moments(x: f32[rows, cols]) -> (total: f32[cols], first: i32[cols]) {\n"
      "  total = sum[rows](x)\n  first = argmin[rows](x)\n}\n");
  CHECK_EQ(body_of(dsl::emit_cuda(kernel, {{}, {{"cols", 64}}}, {128, 4, 2})),
           R"(extern "C" __global__ void __launch_bounds__(128) quern_moments(
    const __grid_constant__ Args args) {
  const long long rows = args.rows;
  constexpr long long cols = 64;
  __shared__ float shared[128];
  __shared__ Indexed shared_indexed[128];
  const long long item = (blockIdx.x * 32ll + threadIdx.x % 32) * 2;
  const int lane = threadIdx.x / 32;
  if (item >= cols) return;
  float sum_partial[2];
  for (auto& partial : sum_partial) partial = 0.0f;
  Indexed position_partial[2];
  for (auto& partial : position_partial) partial = {0.0f, -1};
  for (long long step = lane; step < rows; step += 4) {
    const auto x = load<2>(args.x + step * cols + item);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      sum_partial[i] += x.at[i];
      position_partial[i] = smaller(position_partial[i], {x.at[i], static_cast<int>(step)});
    }
  }
  float sum[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    sum[i] = row_sum(sum_partial[i], shared);
  }
  int position[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    position[i] = max(0, row_argmin(position_partial[i], shared_indexed).index);
  }
  if (lane == 0) {
    Vector<float, 2> new_total;
    Vector<int, 2> new_first;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      new_total.at[i] = sum[i];
      new_first.at[i] = position[i];
    }
    store(args.total + item, new_total);
    store(args.first + item, new_first);
  }
}
)");
}

TEST_CASE("generated CUDA: where the extent is known at run time alone, both widths are there") {
  const std::string source =
      dsl::emit_cuda(embedded_kernel("rmsnorm"), {{{"T", DType::f16}}, {}}, {256, 256, 8});
  CHECK(source.find("if (cols % 8 == 0) {") != std::string::npos);
  CHECK(source.find("load<8>(args.x + row * cols + col)") != std::string::npos);
  CHECK(source.find("load<1>(args.x + row * cols + col)") != std::string::npos);
}

TEST_CASE("generated CUDA: i32 wraps around through unsigned, indices outside are not loaded") {
  const std::string source = dsl::emit_cuda(
      kernel_of("kernel k(x: f32[n], w: f32[m], i: i32[n]) -> (y: f32[n], z: i32[n]) {\n"
                "  y = x * w[m = i]\n  z = i * 3 - index(n) / i\n}\n"),
      {}, {});
  CHECK(source.find("= within(i_.at[0], m) ? args.w[i_.at[0]] : 0.0f;") != std::string::npos);
  CHECK(source.find("subtract(multiply(i_.at[0], 3), divide(static_cast<int>(col), i_.at[0]));") !=
        std::string::npos);
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
  const std::string source = body_of(
      dsl::emit_cuda(kernel, {{{"T", DType::f32}}, {{"cols", 64}}}, {64, 32, 2, Keep::registers}));
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
            .find("a.at[0] - (b.at[0] - a.at[0]) + "
                  "quotient((a.at[0] + b.at[0]) * (b.at[0] * a.at[0]), "
                  "quotient(a.at[0], b.at[0])) - -a.at[0] * (b.at[0] - 0.5f);") !=
        std::string::npos);
}

TEST_CASE("schedules that cannot run are refused with a sentence") {
  const dsl::Kernel norm = embedded_kernel("rmsnorm"), silu = embedded_kernel("silu");
  const dsl::Binding binding{{{"T", DType::bf16}, {"R", DType::bf16}}, {{"cols", 4096}}};
  const auto reason = [&](const dsl::Kernel& kernel, const dsl::Schedule& schedule,
                          const Arch& arch = kHopper) {
    return dsl::reject_reason(kernel, binding, schedule, arch).value_or("");
  };
  CHECK_EQ(reason(norm, {}), "");
  CHECK_EQ(reason(norm, {128, 16, 8, Keep::none, 1, true}), "");
  CHECK_EQ(reason(norm, {256, 64, 8}), "");
  CHECK_EQ(reason(norm, {100, 100, 8}), "threads should be a multiple of 32 from 32 to 1024");
  for (const int per_row : {0, 24, 512})
    CHECK_EQ(reason(norm, {256, per_row, 8}),
             "threads_per_row should be a power of two that divides threads, or all of them");
  CHECK_EQ(reason(norm, {1024, 64, 8}),
           "16 rows of more than a warp in one block need more than 15 barriers");
  CHECK_EQ(reason(norm, {256, 256, 12}), "vector should be a power of two up to 32");
  CHECK_EQ(reason(norm, {256, 256, 64}), "vector should be a power of two up to 32");
  CHECK_EQ(reason(embedded_kernel("cast"), {256, 256, 32}),
           "vector = 32 moves 128 bytes of x at once, more than 64");
  CHECK_EQ(dsl::reject_reason(norm, {binding.dtypes, {{"cols", 100}}}, {256, 256, 8}, kHopper)
               .value_or(""),
           "vector = 8 does not divide axis cols of 100 elements");
  CHECK_EQ(reason(silu, {256, 32, 8}),
           "silu has no reduction, so threads_per_row should be threads");
  CHECK_EQ(reason(silu, {256, 256, 8, Keep::registers}),
           "silu has no reduction, so keep should be none");
  CHECK_EQ(reason(silu, {256, 256, 8, Keep::none, 2}),
           "silu has no reduction, so cluster should be 1");
  CHECK_EQ(reason(norm, {32, 32, 8, Keep::registers}),
           "each thread would keep 128 elements of a row, more than 64");
  CHECK_EQ(reason(embedded_kernel("add_layernorm"), {64, 64, 8, Keep::registers}),
           "what each thread would keep takes 192 registers, more than 128");
  CHECK_EQ(dsl::reject_reason(norm, {binding.dtypes, {}}, {256, 256, 8, Keep::shared}, kHopper)
               .value_or(""),
           "the length of a row is not bound, so keep=shared is not possible");
  CHECK_EQ(dsl::reject_reason(norm, {binding.dtypes, {{"cols", 131072}}},
                              {256, 256, 8, Keep::shared}, kHopper)
               .value_or(""),
           "262464 bytes of shared memory are more than the 232448 of sm_90a");
  CHECK_EQ(reason(norm, {256, 256, 8, Keep::none, 3}), "cluster should be a power of two up to 8");
  CHECK_EQ(reason(norm, {256, 128, 8, Keep::none, 2}),
           "blocks of a cluster share a row, so threads_per_row should be threads");
  CHECK_EQ(reason(norm, {256, 256, 8, Keep::none, 2}, parse_arch("sm_89")),
           "sm_89 has no clusters of blocks");
  CHECK_EQ(reason(norm, {256, 256, 8, Keep::none, 1, true}, parse_arch("sm_86")),
           "sm_86 has no programmatic dependent launch");
  CHECK_EQ(dsl::reject_reason(norm, {}, {}, kHopper).value_or(""),
           "kernel rmsnorm needs a dtype for T");
  CHECK_EQ(dsl::reject_reason(norm, {{{"T", DType::i4}}, {}}, {}, kHopper).value_or(""),
           "kernel rmsnorm cannot have T = i4");
  CHECK_THROWS_AS(dsl::emit_cuda(norm, binding, {256, 0, 8}), InputError);
  CHECK_THROWS_AS(dsl::plan(norm, binding, {0, 0, 8}, {{"rows", 1}, {"cols", 4096}}), InputError);
}

TEST_CASE("schedules: segments, columns, packed pairs") {
  const auto reason = [](const char* text, const dsl::Schedule& schedule,
                         const std::map<std::string, std::int64_t>& extents) {
    return dsl::reject_reason(kernel_of(text), {{}, extents}, schedule, kHopper).value_or("");
  };
  const char* segments = "kernel k(x: f32[r, g, l]) -> (y: f32[r, g]) { y = max[l](x) }";
  CHECK_EQ(reason(segments, {128, 32, 4, Keep::registers}, {{"g", 4}, {"l", 64}}), "");
  CHECK_EQ(reason(segments, {128, 32, 4, Keep::registers}, {{"g", 4}, {"l", 12}}), "");
  const char* both =
      "kernel k(x: f32[r, g, l]) -> (y: f32[r, g, l]) {\n"
      "  y = x * max[l](x) + sum[g, l](x)\n}";
  CHECK_EQ(reason(both, {128, 32, 4, Keep::registers}, {{"g", 4}, {"l", 64}}), "");
  CHECK_EQ(reason(both, {128, 32, 4, Keep::registers}, {{"g", 4}, {"l", 12}}),
           "a segment of 12 elements is 3 vectors: keep=registers needs a power of two up to 32");
  CHECK_EQ(reason(both, {128, 8, 4, Keep::registers}, {{"g", 4}, {"l", 64}}),
           "16 threads that hold a segment do not divide threads_per_row");
  CHECK_EQ(reason(both, {128, 32, 4, Keep::shared}, {{"g", 4}, {"l", 64}}),
           "k works on segments of a row, so keep should be none or registers");
  CHECK_EQ(reason(both, {128, 32, 4}, {{"g", 4}}), "axis l is not bound, so vector should be 1");
  const char* column = "kernel k(x: f32[r, c]) -> (y: f32[c]) { y = sum[r](x) }";
  CHECK_EQ(reason(column, {256, 8, 4}, {{"c", 64}}), "");
  CHECK_EQ(reason(column, {256, 8, 1, Keep::registers}, {{"r", 64}, {"c", 64}}),
           "k folds columns, so keep should be none");
  CHECK_EQ(reason(column, {256, 256, 1, Keep::none, 2}, {}),
           "k folds columns, so cluster should be 1");
  const char* packed = "kernel k(x: f32[r, c]) -> (y: i4[r, c]) { y = i4(x) }";
  CHECK_EQ(reason(packed, {256, 256, 1}, {}), "y is written in pairs, so vector should be even");
  CHECK_EQ(reason(packed, {256, 256, 2}, {}), "");
}

TEST_CASE("the default schedule is legal for every kernel, bound or not") {
  for (const auto& [name, text] : embedded_templates()) {
    if (!name.ends_with(".qk")) continue;
    for (const dsl::Kernel& kernel : kernels_of(name))
      for (const std::int64_t cols : {0, 1, 7, 172, 4096, 100000}) {
        dsl::Binding binding;
        for (const std::string& param : kernel.dtype_params()) binding.dtypes[param] = DType::bf16;
        if (cols > 0)
          for (const std::string& axis : kernel.axes()) binding.extents[axis] = cols;
        for (const Arch& arch : known_archs())
          CHECK_EQ(dsl::reject_reason(kernel, binding, dsl::default_schedule(kernel, binding), arch)
                       .value_or(""),
                   "");
      }
  }
}

TEST_CASE("a plan covers every row, or every vector") {
  const dsl::Kernel norm = embedded_kernel("rmsnorm"), silu = embedded_kernel("silu");
  const dsl::Binding binding{{{"T", DType::bf16}}, {{"cols", 4096}}};
  const auto blocks = [&](const dsl::Kernel& kernel, const dsl::Schedule& schedule,
                          std::int64_t rows) {
    return dsl::plan(kernel, binding, schedule, {{"rows", rows}, {"cols", 4096}}).grid[0];
  };
  CHECK_EQ(blocks(norm, {256, 256, 8}, 17), 17);
  CHECK_EQ(blocks(norm, {256, 32, 8}, 17), 3);
  CHECK_EQ(blocks(norm, {256, 32, 8}, 0), 1);
  CHECK_EQ(blocks(silu, {256, 256, 8}, 17), 34);
  CHECK_EQ(blocks(silu, {256, 256, 1}, 1), 16);
  CHECK_EQ(blocks(norm, {256, 256, 8, Keep::none, 4}, 17), 68);
  CHECK_EQ(blocks(norm, {256, 256, 8, Keep::none, 4}, 0), 4);
  const LaunchPlan plan =
      dsl::plan(norm, binding, {256, 256, 8, Keep::shared, 2, true}, {{"rows", 1}, {"cols", 4096}});
  CHECK(plan.pdl);
  CHECK_EQ(plan.cluster, 2);
  CHECK_EQ(plan.smem_bytes, 256 * 8 * 2);  // x
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
