// The kernels of templates/row against their formulas, written as naive loops in double precision.
// What older kernels compute is in test_dsl_cpu.cpp.
#include <fmt/format.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <map>
#include <random>

#include "compiler/dsl.h"
#include "runtime/base/fp8.h"
#include "runtime/base/half.h"
#include "templates/embedded.h"
#include "tests/support/support.h"

using namespace quern;

namespace {

using Extents = std::map<std::string, std::int64_t>;
using Numbers = std::vector<double>;

dsl::Kernel shipped(const std::string& name) {
  const std::string path = "row/" + name + ".qk";
  return dsl::parse(embedded_templates().at(path), path,
                    dsl::includes_from(embedded_templates(), "row"))
      .at(0);
}

/// One run of a shipped kernel, all dtype parameters f32: operands by name, as numbers.
class Run {
 public:
  Run(const std::string& name, Extents extents, std::map<std::string, double> scalars = {})
      : kernel_(shipped(name)), extents_(std::move(extents)), scalars_(std::move(scalars)) {
    for (const std::string& param : kernel_.dtype_params()) binding_.dtypes[param] = DType::f32;
    std::mt19937 random(7);
    std::normal_distribution<float> normal;
    for (const dsl::OperandInfo& info : kernel_.operands()) {
      Numbers& values = operands_[info.name];
      values.resize(count(info));
      for (double& value : values)
        value = info.role == dsl::OperandInfo::Role::out ? std::nan("") : double{normal(random)};
    }
  }

  Numbers& operator[](const std::string& name) { return operands_.at(name); }

  /// Integers in [low, high].
  void fill_integers(const std::string& name, int low, int high) {
    std::mt19937 random(11);
    for (double& value : operands_.at(name))
      value = low + static_cast<int>(random() % static_cast<unsigned>(high - low + 1));
  }

  void go() {
    std::vector<std::vector<std::byte>> memory;
    std::vector<void*> pointers;
    for (const dsl::OperandInfo& info : kernel_.operands()) {
      const Numbers& values = operands_.at(info.name);
      memory.emplace_back(bytes_for(info.dtype.value_or(DType::f32), values.size()));
      for (std::size_t i = 0; i < values.size(); ++i) put(info, memory.back(), i, values[i]);
    }
    for (auto& bytes : memory) pointers.push_back(bytes.data());
    std::vector<double> scalars;
    for (const dsl::ScalarInfo& scalar : kernel_.scalars())
      scalars.push_back(scalars_.at(scalar.name));
    std::vector<std::int64_t> extents;
    for (const std::string& axis : kernel_.axes()) extents.push_back(extents_.at(axis));
    dsl::CpuKernel(kernel_, binding_).run(pointers, scalars, extents);
    for (std::size_t k = 0; k < memory.size(); ++k) {
      const dsl::OperandInfo& info = kernel_.operands()[k];
      Numbers& values = operands_.at(info.name);
      for (std::size_t i = 0; i < values.size(); ++i) values[i] = get(info, memory[k], i);
    }
  }

 private:
  std::size_t count(const dsl::OperandInfo& info) const {
    std::int64_t out = 1;
    for (const std::string& axis : info.axes)
      out *= std::isdigit(axis[0]) ? std::stoll(axis) : extents_.at(axis);
    return static_cast<std::size_t>(out);
  }

  static void put(const dsl::OperandInfo& info, std::vector<std::byte>& bytes, std::size_t i,
                  double value) {
    const auto store = [&](auto v) { std::memcpy(bytes.data() + i * sizeof v, &v, sizeof v); };
    if (std::isnan(value)) value = 77;  // of outputs: anything
    switch (info.dtype.value_or(DType::f32)) {
      case DType::f32:
        return store(static_cast<float>(value));
      case DType::i32:
        return store(static_cast<std::int32_t>(value));
      case DType::i8:
        return store(static_cast<std::int8_t>(value));
      case DType::u8:
        return store(static_cast<std::uint8_t>(value));
      case DType::i4: {
        const auto nibble = static_cast<unsigned>(static_cast<int>(value)) & 15u;
        bytes[i / 2] |= static_cast<std::byte>(nibble << (i % 2 * 4));
        return;
      }
      default:
        return;  // e4m3 is only written
    }
  }

  static double get(const dsl::OperandInfo& info, const std::vector<std::byte>& bytes,
                    std::size_t i) {
    const auto load = [&](auto v) {
      std::memcpy(&v, bytes.data() + i * sizeof v, sizeof v);
      return v;
    };
    switch (info.dtype.value_or(DType::f32)) {
      case DType::i32:
        return load(std::int32_t{});
      case DType::i8:
        return load(std::int8_t{});
      case DType::u8:
        return load(std::uint8_t{});
      case DType::e4m3:
        return double{e4m3_to_f32(load(std::uint8_t{}))};
      case DType::i4: {
        const int nibble = static_cast<int>(bytes[i / 2] >> (i % 2 * 4)) & 15;
        return nibble > 7 ? nibble - 16 : nibble;
      }
      default:
        return double{load(0.0f)};
    }
  }

  dsl::Kernel kernel_;
  dsl::Binding binding_;
  Extents extents_;
  std::map<std::string, double> scalars_;
  std::map<std::string, Numbers> operands_;
};

void check_close(const Numbers& got, const Numbers& wanted, double tolerance = 2e-5) {
  REQUIRE_EQ(got.size(), wanted.size());
  for (std::size_t i = 0; i < got.size(); ++i) {
    CAPTURE(i);
    CHECK(std::abs(got[i] - wanted[i]) <= tolerance * (1 + std::abs(wanted[i])));
  }
}

/// What `y` codes stand for is `wanted` up to half a step of the code.
void check_quantised(const Numbers& codes, const Numbers& scales, const Numbers& wanted,
                     double half_step, double relative) {
  const std::size_t per_scale = wanted.size() / scales.size();
  REQUIRE_EQ(codes.size(), wanted.size());
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    CAPTURE(i);
    const double scale = scales[i / per_scale];
    CHECK(std::abs(codes[i] * scale - wanted[i]) <=
          1.001 * std::max(half_step * scale, relative * std::abs(wanted[i])) + 1e-6);
  }
}

double gelu(double x) { return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0))); }
double gelu_tanh(double x) {
  return 0.5 * x * (1 + std::tanh(std::sqrt(2 / std::acos(-1.0)) * (x + 0.044715 * x * x * x)));
}
double silu(double x) { return x / (1 + std::exp(-x)); }
double relu(double x) { return std::max(x, 0.0); }

Numbers rmsnorm(const Numbers& x, const Numbers& weight, double eps) {
  const std::size_t cols = weight.size();
  Numbers out(x.size());
  for (std::size_t row = 0; row < x.size() / cols; ++row) {
    double squares = 0;
    for (std::size_t c = 0; c < cols; ++c) squares += x[row * cols + c] * x[row * cols + c];
    const double scale = 1 / std::sqrt(squares / static_cast<double>(cols) + eps);
    for (std::size_t c = 0; c < cols; ++c)
      out[row * cols + c] = x[row * cols + c] * scale * weight[c];
  }
  return out;
}

/// Halves of rows, gated: first half through `f`, times the second.
Numbers gated(const Numbers& x, std::size_t cols, double (*f)(double)) {
  Numbers out(x.size() / 2);
  for (std::size_t i = 0; i < out.size(); ++i) {
    const std::size_t row = i / cols, c = i % cols;
    out[i] = f(x[row * 2 * cols + c]) * x[(row * 2 + 1) * cols + c];
  }
  return out;
}

constexpr std::int64_t kCols[] = {1, 7, 64, 173};

}  // namespace

TEST_CASE("gated and biased activations") {
  const std::pair<const char*, double (*)(double)> gates[] = {{"geglu", gelu},
                                                              {"geglu_tanh", gelu_tanh}};
  const std::pair<const char*, double (*)(double)> biased[] = {
      {"bias_gelu", gelu}, {"bias_gelu_tanh", gelu_tanh}, {"bias_silu", silu}, {"bias_relu", relu}};
  for (const std::int64_t cols : kCols) {
    CAPTURE(cols);
    for (const auto& [name, f] : gates) {
      CAPTURE(name);
      Run run(name, {{"rows", 3}, {"cols", cols}});
      const Numbers wanted = gated(run["gate_up"], static_cast<std::size_t>(cols), f);
      run.go();
      check_close(run["y"], wanted);
    }
    for (const auto& [name, f] : biased) {
      CAPTURE(name);
      Run run(name, {{"rows", 3}, {"cols", cols}});
      Numbers wanted = run["x"];
      for (std::size_t i = 0; i < wanted.size(); ++i)
        wanted[i] = f(wanted[i] + run["bias"][i % static_cast<std::size_t>(cols)]);
      run.go();
      check_close(run["x"], wanted);
    }
  }
}

TEST_CASE("layer normalisation of its own") {
  for (const std::int64_t cols : {2, 7, 64, 173}) {
    Run run("layernorm", {{"rows", 3}, {"cols", cols}}, {{"eps", 1e-5}});
    const auto n = static_cast<std::size_t>(cols);
    Numbers wanted(3 * n);
    for (std::size_t row = 0; row < 3; ++row) {
      double mean = 0, variance = 0;
      for (std::size_t c = 0; c < n; ++c) mean += run["x"][row * n + c] / static_cast<double>(n);
      for (std::size_t c = 0; c < n; ++c)
        variance += std::pow(run["x"][row * n + c] - mean, 2) / static_cast<double>(n);
      for (std::size_t c = 0; c < n; ++c)
        wanted[row * n + c] =
            (run["x"][row * n + c] - mean) / std::sqrt(variance + 1e-5) * run["weight"][c] +
            run["bias"][c];
    }
    run.go();
    check_close(run["y"], wanted, 1e-4);
  }
}

TEST_CASE("rotary position embedding, with bias, with normalisation, in both layouts") {
  constexpr std::size_t tokens = 3, heads = 2, half = 5;
  for (const char* name : {"rope_halves", "rope_pairs", "bias_rope", "norm_rope"}) {
    CAPTURE(name);
    const bool pairs = name == std::string("rope_pairs"), biased = name == std::string("bias_rope"),
               normed = name == std::string("norm_rope");
    std::map<std::string, double> scalars;
    if (normed) scalars["eps"] = 1e-6;
    Run run(name, {{"tokens", tokens}, {"heads", heads}, {"half", half}, {"max_positions", 11}},
            scalars);
    run["positions"] = {4, 0, 10};
    Numbers wanted = run["x"];
    for (std::size_t t = 0; t < tokens; ++t)
      for (std::size_t h = 0; h < heads; ++h) {
        const std::size_t head = (t * heads + h) * 2 * half;
        const auto place = [&](std::size_t part, std::size_t i) {
          return head + (pairs ? 2 * i + part : part * half + i);
        };
        double squares = 0;
        for (std::size_t i = 0; i < 2 * half; ++i)
          squares += run["x"][head + i] * run["x"][head + i] / (2.0 * half);
        for (std::size_t i = 0; i < half; ++i) {
          double a = run["x"][place(0, i)], b = run["x"][place(1, i)];
          if (biased) {
            a += run["bias"][h * 2 * half + i];
            b += run["bias"][h * 2 * half + half + i];
          }
          if (normed) {
            a *= run["weight"][i] / std::sqrt(squares + 1e-6);
            b *= run["weight"][half + i] / std::sqrt(squares + 1e-6);
          }
          const auto position = static_cast<std::size_t>(run["positions"][t]);
          const double cosine = run["table"][position * 2 * half + i];
          const double sine = run["table"][position * 2 * half + half + i];
          wanted[place(0, i)] = a * cosine - b * sine;
          wanted[place(1, i)] = b * cosine + a * sine;
        }
      }
    run.go();
    check_close(run[biased || normed ? "x" : "y"], wanted);
  }
}

TEST_CASE("normalisation and SwiGLU to INT8 and FP8 with a scale for each row") {
  for (const std::int64_t cols : kCols)
    for (const std::string dtype : {"int8", "fp8"}) {
      CAPTURE(cols);
      CAPTURE(dtype);
      const Extents extents{{"rows", 3}, {"cols", cols}};
      const double half_step = dtype == "int8" ? 0.5 : 0x1p-10;  // fp8: of its subnormals
      const double relative = dtype == "int8" ? 0 : 0x1p-4;
      const double largest_code = dtype == "int8" ? 127 : 448;
      const auto check = [&](Run& run, const Numbers& wanted) {
        run.go();
        check_quantised(run["y"], run["scale"], wanted, half_step, relative);
        for (std::size_t row = 0; row < 3; ++row) {
          double largest = 0;
          for (std::size_t c = 0; c < static_cast<std::size_t>(cols); ++c)
            largest =
                std::max(largest, std::abs(run["y"][row * static_cast<std::size_t>(cols) + c]));
          CHECK_EQ(largest, largest_code);
        }
      };
      Run norm("rmsnorm_quantise_" + dtype, extents, {{"eps", 1e-5}});
      check(norm, rmsnorm(norm["x"], norm["weight"], 1e-5));
      Run add("add_rmsnorm_quantise_" + dtype, extents, {{"eps", 1e-5}});
      Numbers sum = add["residual"];
      for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += add["x"][i];
      check(add, rmsnorm(sum, add["weight"], 1e-5));
      check_close(add["residual"], sum);
      Run swiglu("silu_mul_quantise_" + dtype, extents);
      check(swiglu, gated(swiglu["gate_up"], static_cast<std::size_t>(cols), silu));
      Run plain("quantise_" + dtype, extents);
      check(plain, plain["x"]);
    }
}

TEST_CASE("FP8 with a scale for each group, and with one that is given") {
  const Extents extents{{"rows", 3}, {"groups", 5}, {"lanes", 16}};
  Run norm("rmsnorm_quantise_fp8_group", extents, {{"eps", 1e-5}});
  const Numbers normed = rmsnorm(norm["x"], norm["weight"], 1e-5);
  norm.go();
  REQUIRE_EQ(norm["scale"].size(), 15);
  check_quantised(norm["y"], norm["scale"], normed, 0x1p-10, 0x1p-4);
  Run swiglu("silu_mul_quantise_fp8_group", extents);
  const Numbers wanted = gated(swiglu["gate_up"], 80, silu);
  swiglu.go();
  check_quantised(swiglu["y"], swiglu["scale"], wanted, 0x1p-10, 0x1p-4);
  Run add("add_rmsnorm_quantise_fp8_group", extents, {{"eps", 1e-5}});
  Numbers sum = add["residual"];
  for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += add["x"][i];
  add.go();
  check_close(add["residual"], sum);
  check_quantised(add["y"], add["scale"], rmsnorm(sum, add["weight"], 1e-5), 0x1p-10, 0x1p-4);
  Run plain("quantise_fp8_group", extents);
  plain.go();
  check_quantised(plain["y"], plain["scale"], plain["x"], 0x1p-10, 0x1p-4);
  Run fixed("rmsnorm_quantise_fp8_static", {{"rows", 3}, {"cols", 80}},
            {{"eps", 1e-5}, {"scale", 0.02}});
  const Numbers given = rmsnorm(fixed["x"], fixed["weight"], 1e-5);
  fixed.go();
  check_quantised(fixed["y"], Numbers(3, 0.02), given, 0x1p-10, 0x1p-4);

  const Extents flat{{"rows", 3}, {"cols", 80}};
  Run fixed_add("add_rmsnorm_quantise_fp8_static", flat, {{"eps", 1e-5}, {"scale", 0.02}});
  sum = fixed_add["residual"];
  for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += fixed_add["x"][i];
  fixed_add.go();
  check_close(fixed_add["residual"], sum);
  check_quantised(fixed_add["y"], Numbers(3, 0.02), rmsnorm(sum, fixed_add["weight"], 1e-5),
                  0x1p-10, 0x1p-4);
  Run fixed_swiglu("silu_mul_quantise_fp8_static", flat, {{"scale", 0.02}});
  fixed_swiglu.go();
  check_quantised(fixed_swiglu["y"], Numbers(3, 0.02), gated(fixed_swiglu["gate_up"], 80, silu),
                  0x1p-10, 0x1p-4);
  Run fixed_plain("quantise_fp8_static", flat, {{"scale", 0.02}});
  fixed_plain.go();
  check_quantised(fixed_plain["y"], Numbers(3, 0.02), fixed_plain["x"], 0x1p-10, 0x1p-4);
}

TEST_CASE("scaled and masked softmax") {
  constexpr std::size_t rows = 4, cols = 9;
  const auto softmax = [](Numbers x, const std::vector<bool>& seen, double scale) {
    double sum = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
      x[i] = seen[i] ? std::exp(x[i] * scale) : 0;
      sum += x[i];
    }
    for (double& value : x) value = sum > 0 ? value / sum : 0;
    return x;
  };
  const auto expect = [&](const Numbers& x,
                          const std::function<bool(std::size_t, std::size_t)>& sees, double scale) {
    Numbers out;
    for (std::size_t row = 0; row * cols < x.size(); ++row) {
      std::vector<bool> seen;
      for (std::size_t c = 0; c < cols; ++c) seen.push_back(sees(row, c));
      const auto begin = x.begin() + static_cast<long>(row * cols);
      for (const double value : softmax({begin, begin + cols}, seen, scale)) out.push_back(value);
    }
    return out;
  };
  Run scaled("softmax_scaled", {{"rows", rows}, {"cols", cols}}, {{"scale", 0.3}});
  Numbers wanted = expect(
      scaled["x"], [](auto, auto) { return true; }, 0.3);
  scaled.go();
  check_close(scaled["y"], wanted);

  Run masked("softmax_masked", {{"rows", rows}, {"cols", cols}}, {{"scale", 0.3}});
  masked.fill_integers("mask", 0, 1);
  for (std::size_t c = 0; c < cols; ++c) masked["mask"][2 * cols + c] = 0;
  const Numbers mask = masked["mask"];
  wanted = expect(
      masked["x"], [&](auto row, auto c) { return mask[row * cols + c] != 0; }, 0.3);
  masked.go();
  check_close(masked["y"], wanted);

  Run causal("softmax_causal", {{"heads", 2}, {"rows", rows}, {"cols", cols}},
             {{"scale", 0.3}, {"offset", 2}});
  wanted = expect(
      causal["x"], [&](auto row, auto c) { return c <= row % rows + 2; }, 0.3);
  causal.go();
  check_close(causal["y"], wanted);
}

TEST_CASE("logits: softcap and temperature, and the most likely token") {
  Run capped("softcap_temperature", {{"rows", 3}, {"cols", 17}},
             {{"cap", 0.5}, {"temperature", 0.7}});
  Numbers wanted = capped["x"];
  for (double& value : wanted) value = 0.5 * std::tanh(value / 0.5) / 0.7;
  capped.go();
  check_close(capped["y"], wanted);

  Run likely("argmax_logits", {{"rows", 4}, {"cols", 5}});
  const double inf = std::numeric_limits<double>::infinity();
  likely["x"] = {1,    3,    2,    3,    0,    -inf, -inf, -5,  -inf, -5,
                 -inf, -inf, -inf, -inf, -inf, 0,    -0.0, inf, 9,    inf};
  likely.go();
  CHECK_EQ(likely["token"], Numbers{1, 2, 0, 2});
  CHECK_EQ(likely["logit"], Numbers{3, -5, -inf, inf});
}

TEST_CASE("dequantisation") {
  Run bytes("dequantise_int8", {{"rows", 3}, {"cols", 17}});
  bytes.fill_integers("q", -128, 127);
  Numbers wanted = bytes["q"];
  for (std::size_t i = 0; i < wanted.size(); ++i) wanted[i] *= bytes["scale"][i / 17];
  bytes.go();
  check_close(bytes["y"], wanted);

  Run nibbles("dequantise_int4", {{"rows", 3}, {"groups", 2}, {"lanes", 6}});
  nibbles.fill_integers("q", -8, 7);
  nibbles.fill_integers("zero", -8, 7);
  wanted = nibbles["q"];
  for (std::size_t i = 0; i < wanted.size(); ++i)
    wanted[i] = (wanted[i] - nibbles["zero"][i / 6]) * nibbles["scale"][i / 6];
  nibbles.go();
  check_close(nibbles["y"], wanted);
}

TEST_CASE("rows of an embedding table, scaled; ids outside it give zeros") {
  Run run("gather_embedding", {{"rows", 5}, {"cols", 7}, {"vocab", 9}}, {{"scale", 3}});
  run["ids"] = {8, 0, -1, 9, 4};
  Numbers wanted(35, 0.0);
  for (std::size_t row = 0; row < 5; ++row)
    for (std::size_t c = 0; c < 7; ++c) {
      const double id = run["ids"][row];
      if (id >= 0 && id < 9)
        wanted[row * 7 + c] = 3 * run["table"][static_cast<std::size_t>(id) * 7 + c];
    }
  run.go();
  check_close(run["y"], wanted);
}

TEST_CASE("columns in another order, and columns side by side") {
  Run gather("gather_columns", {{"rows", 3}, {"cols", 7}, {"inputs", 9}});
  gather["order"] = {8, 0, -1, 9, 4, 4, 2};
  Numbers wanted(21, 0.0);
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    const double from = gather["order"][i % 7];
    if (from >= 0 && from < 9) wanted[i] = gather["x"][i / 7 * 9 + static_cast<std::size_t>(from)];
  }
  gather.go();
  check_close(gather["y"], wanted);

  Run join("concatenate_columns",
           {{"rows", 2}, {"cols", 9}, {"a_cols", 4}, {"b_cols", 2}, {"c_cols", 3}},
           {{"first_b", 4}, {"first_c", 6}});
  wanted.clear();
  for (std::size_t row = 0; row < 2; ++row)
    for (const auto& [name, cols] : {std::pair{"a", 4u}, {"b", 2u}, {"c", 3u}})
      for (std::size_t i = 0; i < cols; ++i) wanted.push_back(join[name][row * cols + i]);
  join.go();
  check_close(join["y"], wanted);
}
