#include "model/cli_products.h"

#include <algorithm>
#include <cstdio>
#include <map>
#include <set>

#include "autotune/problem.h"
#include "autotune/product_bench.h"
#include "model/cli_tune.h"
#include "model/gpu_session.h"
#include "model/table.h"
#include "runtime/base/error.h"

namespace quern::cli {
namespace {

constexpr int kMostRowsOfHead = 256;  // a step needs no more logits

/// What a family is asked to compute, besides m, n and k.
struct Variant {
  std::string family, name;
  Params fields;
};

std::vector<Variant> variants() {
  const auto w8a8 = [](const char* name, const char* dtype, const char* x_scale,
                       const char* w_scale) {
    return Variant{
        "gemm_w8a8", name, {{"dtype", dtype}, {"x_scale", x_scale}, {"w_scale", w_scale}}};
  };
  const auto wna16 = [](const char* name, int bits, bool zero_points) {
    return Variant{
        "gemm_wna16",
        name,
        {{"dtype", "bf16"}, {"bits", bits}, {"group_size", 128}, {"zero_points", zero_points}}};
  };
  // Codes of a checkpoint to kernel order, when a model is loaded: no product, and no rows of x.
  const auto repack = [](const char* name, const char* source, bool act_order) {
    return Variant{"wna16_repack",
                   name,
                   {{"part", "codes"},
                    {"source", source},
                    {"group_size", 128},
                    {"act_order", act_order},
                    {"interleaved", false}}};
  };
  // As the forward pass has them: 16-bit results (Y), codes of 8 (Q), a residual stream of f32 (R).
  const auto dtype_of_result = [](std::string_view result) {
    return result == "Q" ? "e4m3" : result == "R" ? "f32" : "bf16";
  };
  const auto fuse = [&](Variant variant, const char* prologue, const char* epilogue,
                        const char* result) {
    variant.fields.update(
        {{"prologue", prologue}, {"epilogue", epilogue}, {result, dtype_of_result(result)}});
    if (*prologue != 0) variant.fields.update({{"eps", 1e-5}, {"stream", "f32"}});
    return variant;
  };
  const auto fused_wna16 = [&](const char* name, const char* prologue, const char* epilogue,
                               const char* result) {
    Variant variant = wna16(name, 4, false);
    variant.family = "fused_gemm_wna16";
    return fuse(variant, prologue, epilogue, result);
  };
  const auto fused = [&](const char* name, const char* prologue, const char* epilogue,
                         const char* result) {
    return fuse({"fused_gemm", name, {{"dtype", "bf16"}}}, prologue, epilogue, result);
  };
  return {fused("gelu", "", "gelu", "Y"),
          fused("silu", "", "silu", "Y"),
          fused("swiglu", "", "swiglu", "Y"),
          fused("swiglu-quantise", "", "swiglu_quantise", "Q"),
          fused("add", "", "add", "R"),
          fused("rmsnorm", "rmsnorm", "cast", "Y"),
          fused("rmsnorm-swiglu", "rmsnorm", "swiglu", "Y"),
          {"gemm", "bf16", {{"dtype", "bf16"}}},
          wna16("w4a16", 4, false),
          wna16("w4a16-zero-points", 4, true),
          wna16("w8a16", 8, false),
          fused_wna16("w4a16-swiglu", "", "swiglu", "Y"),
          fused_wna16("w4a16-add", "", "add", "R"),
          fused_wna16("w4a16-rmsnorm", "rmsnorm", "cast", "Y"),
          fused_wna16("w4a16-rmsnorm-swiglu", "rmsnorm", "swiglu", "Y"),
          repack("awq", "awq", false),
          repack("gptq", "gptq_v2", false),
          repack("gptq-act-order", "gptq_v2", true),
          w8a8("int8", "i8", "token", "channel"),
          w8a8("fp8", "e4m3", "tensor", "tensor"),
          w8a8("fp8-token", "e4m3", "token", "channel"),
          w8a8("fp8-block", "e4m3", "group", "block")};
}

Variant variant_of(const ProductOptions& options) {
  std::vector<std::string> names;
  for (Variant& variant : variants())
    if (variant.family == options.family) {
      if (options.variant.empty() || variant.name == options.variant) return std::move(variant);
      names.push_back(variant.name);
    }
  if (names.empty()) {
    std::set<std::string> families{"row"};
    for (const Variant& variant : variants()) families.insert(variant.family);
    throw InputError(fmt::format("'{}' is not a family whose kernels are measured: {}",
                                 options.family, fmt::join(families, ", ")));
  }
  throw InputError(fmt::format("'{}' is not one of {}'s: {}", options.variant, options.family,
                               fmt::join(names, ", ")));
}

struct NamedProduct {
  Product product;
  DType out;  // as the forward pass has it
};

std::vector<NamedProduct> products_of(const ModelConfig& config, DType dtype) {
  const auto hidden = static_cast<int>(config.hidden_size);
  const auto heads = static_cast<int>(config.num_heads * config.head_dim);
  const auto kv = static_cast<int>(config.num_kv_heads * config.head_dim);
  const auto inner = static_cast<int>(config.intermediate_size);
  return {{{"qkv", heads + 2 * kv, hidden}, DType::f32},
          {{"o", hidden, heads}, DType::f32},
          {{"gate_up", 2 * inner, hidden}, dtype},
          {{"down", hidden, inner}, DType::f32},
          {{"lm_head", static_cast<int>(config.vocab_size), hidden}, DType::f32}};
}

/// n x k, with outputs of 16 bits.
NamedProduct product_of(const std::string& size, DType dtype) {
  int n = 0, k = 0, end = 0;
  if (std::sscanf(size.c_str(), "%9dx%9d%n", &n, &k, &end) != 2 || end != std::ssize(size) ||
      n < 1 || k < 1)
    throw InputError(fmt::format("'{}' is not a size such as 4096x14336", size));
  return {{size, n, k}, dtype};
}

std::string us(const Timing& timing) {
  return timing.num_samples == 0 ? "-" : fmt::format("{:.2f}", timing.median_us);
}
std::string ratio(double a, double b) {
  return a > 0 && b > 0 ? fmt::format("{:.3f}", a / b) : "-";
}

/// Only what differs from the family's other configs in a table: tunables that are not 0.
std::string short_config(const Params& config) {
  Params used = Params::object();
  for (const auto& [name, value] : config.items())
    if (value != 0 && value != false) used[name] = value;
  return to_text(used);
}

std::string product_table(const std::vector<ProductResult>& results, const Roofs& roofs,
                          const Family& family) {
  Table table(
      {"product", "rows", "n", "k", "us", "+-", "TB/s", "TFLOP/s", "% of roof", "of reading",
       "cuBLASLt us", "of cuBLASLt", "quick us", "of quick", "of its bf16", "of alone", "config"},
      true);
  for (const ProductResult& r : results) {
    const double least = roofs.least_us(family, r.problem), own = r.timing.median_us;
    table.add({r.name, r.problem.contains("m") ? to_text(r.problem.at("m")) : "-",
               to_text(r.problem.at("n")),
               to_text(r.problem.at("k")), us(r.timing), fmt::format("{:.2f}", r.timing.spread_us),
               fmt::format("{:.2f}", r.bytes_per_second() / 1e12),
               fmt::format("{:.1f}", r.flops_per_second() / 1e12),
               least > 0 ? fmt::format("{:.1f}", 100 * least / own) : "-", ratio(own, r.read_us),
               us(r.library), ratio(r.library.median_us, own), us(r.quick),
               ratio(r.quick.median_us, own), ratio(r.dense.median_us, own),
               ratio(own, r.alone.median_us), short_config(r.config)});
  }
  return table.text();
}

}  // namespace

void bench_products(const Common& common, const ProductOptions& options) {
  const Variant variant = variant_of(options);
  const ModelConfig config = load_config(model_folder(common, options.model));
  const int ordinal = gpu_to_use(common, "kernels are measured on a GPU: name one with --device");
  GpuSession session({ordinal, cache_root(common), common.library_dirs, templates_of(common),
                      common.worker_command, common.system_cache});
  const Family& family = session.kernels().families().at(variant.family);

  std::map<std::string, std::string> names;  // by problem, as it is tuned
  std::vector<KernelRequest> requests;
  std::vector<NamedProduct> products;
  for (const std::string& size : options.sizes)
    products.push_back(product_of(size, gpu_dtype(config)));
  if (products.empty()) products = products_of(config, gpu_dtype(config));
  for (const std::string& wanted : options.products)
    if (std::none_of(products.begin(), products.end(),
                     [&](const NamedProduct& p) { return p.product.name == wanted; }))
      throw InputError(fmt::format("'{}' is not a product of a layer", wanted));
  const bool has_rows = !family.dynamic_fields().empty();
  for (const int rows : has_rows ? options.rows : std::vector<int>{0})
    for (const auto& [product, out] : products) {
      const auto& only = options.products;
      if (!only.empty() && std::find(only.begin(), only.end(), product.name) == only.end())
        continue;
      if (product.name == "lm_head" && rows > kMostRowsOfHead) continue;
      Params problem = Params::object();
      if (has_rows) problem["m"] = rows;
      problem.update(Params{{"n", product.n}, {"k", product.k}});
      problem.update(variant.fields);
      if (has_rows && !variant.family.starts_with("fused_")) problem["out_dtype"] = name(out);
      if (const auto reason = family.unsupported(problem, session.kernels().arch()))
        throw InputError(fmt::format("{}: {}", to_text(problem), *reason));
      names[to_key(bucketed(family, problem))] = product.name;
      if (auto plain = family.like(problem))
        requests.push_back({std::move(plain->family), std::move(plain->problem)});
      requests.push_back({variant.family, std::move(problem)});
    }
  TuneOptions tuning;
  tuning.force = true;  // what lost the race is to be known too
  tuning.search.strategy = parse_search_strategy(options.search).value();
  const TuneReport report = tune_with_progress(common, session.kernels(), requests, tuning);
  ProductBench bench(session.kernels());
  std::vector<ProductResult> results;
  ordered_json rows = ordered_json::array();
  ProgressLine line(common);
  for (std::size_t i = 0; i < report.problems.size(); ++i) {
    const ProblemReport& tuned = report.problems[i];
    if (tuned.family != variant.family) continue;  // what a fused product is held against
    line.update(
        fmt::format("measuring {}/{}  {}", i + 1, report.problems.size(), to_text(tuned.problem)));
    results.push_back(bench.measure(names.at(to_key(tuned.problem)), tuned));
    rows.push_back(quern::to_json(results.back()));
  }
  line.clear();
  const DeviceInfo& device = session.context().device();
  const Roofs roofs = roofs_of(session);
  if (common.json)
    print_json({{"device", device.name},
                {"fingerprint", device.fingerprint()},
                {"nvrtc", session.kernels().nvrtc().version()},
                {"variant", variant.name},
                {"tune_seconds", report.seconds},
                {"read_roof_bytes_per_second", roofs.bytes_per_s},
                {"results", rows}});
  else
    print_text(fmt::format(
        "{}, {}, {}; tuned in {:.1f} s; of reading: time over that of a kernel that only reads as "
        "many bytes; of cuBLASLt: its time over ours; quick: cuBLASLt's for less than is asked, "
        "INT8 without scales and FP8 without promotion; of alone: a fused product's time over "
        "that of the product alone\n{}",
        device.name, variant.family, variant.name, report.seconds,
        product_table(results, roofs, family)));
}

}  // namespace quern::cli
