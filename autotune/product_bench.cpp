#include "autotune/product_bench.h"

#include <algorithm>
#include <span>

#include "runtime/base/error.h"
#include "templates/gemm/gemm.h"
#include "templates/gemm_w8a8/gemm_w8a8.h"
#include "templates/utility/library_product.h"
#include "templates/utility/utility.h"

namespace quern {
namespace {

// That take part, the best by the tuner's trials: those of a race that they lost are of few
// samples.
constexpr std::size_t kOwnConfigs = 5, kLibraryConfigs = 3;
constexpr std::size_t kStreamConfigs = 8;  // the best of so many is what reading takes

/// Candidates by the tuner's own times, those without one last.
std::vector<std::size_t> by_time(const ProblemReport& tuned) {
  std::vector<std::size_t> order;
  for (const Trial& trial : tuned.search.trials)
    if (trial.verdict.status == TrialStatus::ok && trial.timing.num_samples > 0)
      order.push_back(trial.candidate);
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return tuned.search.trials[a].timing.median_us < tuned.search.trials[b].timing.median_us;
  });
  return order;
}

ordered_json to_json(const Timing& timing) {
  return {{"median_us", timing.median_us}, {"spread_us", timing.spread_us}};
}

/// The place of the least median.
std::size_t fastest(std::span<const Timing> timings) {
  const auto least = std::ranges::min_element(timings, {}, &Timing::median_us);
  return static_cast<std::size_t>(least - timings.begin());
}
double least_us(std::span<const Timing> timings) { return timings[fastest(timings)].median_us; }

}  // namespace

ordered_json to_json(const ProductResult& r) {
  ordered_json out = {{"name", r.name},
                      {"family", r.family},
                      {"problem", r.problem},
                      {"config", r.config},
                      {"median_us", r.timing.median_us},
                      {"spread_us", r.timing.spread_us},
                      {"bytes", r.cost.bytes},
                      {"flops", r.cost.flops},
                      {"read_us", r.read_us},
                      {"library_won", r.library_won}};
  if (r.library.num_samples > 0) {
    out["cublaslt"] = to_json(r.library);
    out["cublaslt"]["config"] = r.library_config;
  }
  if (r.quick.num_samples > 0) {
    out["cublaslt_quick"] = to_json(r.quick);
    out["cublaslt_quick"]["config"] = r.quick_config;
  }
  if (r.dense.num_samples > 0) out["cublaslt_dense"] = to_json(r.dense);
  return out;
}

Timing ProductBench::dense(const Params& problem) {
  GemmProblem p;
  p.m = problem.at("m"), p.n = problem.at("n"), p.k = problem.at("k");
  p.dtype = problem.contains("dtype") && problem.at("dtype") == "f16" ? DType::f16 : DType::bf16;
  p.out_dtype = problem.at("out_dtype") == "f32" ? DType::f32 : p.dtype;
  const Params same = to_params(p);
  const auto known = dense_.find(to_key(same));
  if (known != dense_.end()) return known->second;
  const Family& family = library_.families().at("gemm");
  std::vector<Params> configs;
  for (int algorithm = 0; algorithm < 8; ++algorithm) {
    GemmConfig config;
    config.kernel = "cublaslt", config.algorithm = algorithm;
    if (!library_.refusal(family, same, to_params(config))) configs.push_back(to_params(config));
  }
  Timing timing;
  if (!configs.empty()) {
    const std::vector<Timing> timings = time_configs(library_, family, same, configs);
    timing = timings[fastest(timings)];
  }
  return dense_[to_key(same)] = timing;
}

std::vector<Contender> ProductBench::quick(const Params& problem) {
  LibraryProductProblem p;
  p.m = problem.at("m"), p.n = problem.at("n"), p.k = problem.at("k");
  if (problem.at("dtype") == "e4m3") {
    p.dtype = DType::e4m3;
    p.out_dtype = from_params<GemmW8A8Problem>(problem).out_dtype;
  }
  const Family& family = library_.families().at("library_product");
  const Params same = to_params(p);
  std::vector<Contender> out;
  for (int algorithm = 0; algorithm < 8; ++algorithm) {
    const Params config = {{"algorithm", algorithm}};
    if (!library_.refusal(family, same, config)) out.push_back({&family, same, config});
  }
  return out;
}

double ProductBench::read_us(double bytes) {
  StreamProblem p;
  p.words = std::max<std::int64_t>(1, static_cast<std::int64_t>(bytes / 16));
  const auto known = reads_.find(p.words);
  if (known != reads_.end()) return known->second;
  const Family& family = library_.families().at("stream");
  const Params problem = to_params(p);
  std::vector<Params> configs = family.candidates(problem, library_.arch());
  configs.resize(std::min(configs.size(), kStreamConfigs));
  return reads_[p.words] = least_us(time_configs(library_, family, problem, configs));
}

ProductResult ProductBench::measure(const std::string& name, const ProblemReport& tuned) {
  const Family& family = library_.families().at(tuned.family);
  ProductResult out;
  out.name = name;
  out.family = tuned.family;
  out.problem = tuned.problem;
  out.cost = family.cost(tuned.problem);
  const bool has_record = tuned.outcome == ProblemReport::Outcome::tuned ||
                          tuned.outcome == ProblemReport::Outcome::recorded;
  out.library_won = has_record && family.is_library(tuned.record.config);
  std::vector<Params> own{library_.default_config(family, tuned.problem)}, libraries;
  if (has_record && !out.library_won && tuned.record.config != own.front())
    own.push_back(tuned.record.config);
  for (const std::size_t i : by_time(tuned)) {
    const Params& config = tuned.configs[i];
    const bool known = std::find(own.begin(), own.end(), config) != own.end();
    if (!family.is_library(config) && !known && own.size() < kOwnConfigs)
      own.push_back(config);
    else if (family.is_library(config) && libraries.size() < kLibraryConfigs)
      libraries.push_back(config);
  }
  std::vector<Contender> contenders;
  for (const Params& config : own) contenders.push_back({&family, tuned.problem, config});
  for (const Params& config : libraries) contenders.push_back({&family, tuned.problem, config});
  const std::vector<Contender> quicker =
      tuned.family == "gemm_w8a8" ? quick(tuned.problem) : std::vector<Contender>{};
  contenders.insert(contenders.end(), quicker.begin(), quicker.end());
  const std::vector<Timing> timings = time_in_turns(library_, contenders, 21);
  const std::span<const Timing> all = timings;
  const std::size_t best_own = fastest(all.first(own.size()));
  out.config = own[best_own];
  out.timing = timings[best_own];
  if (!libraries.empty()) {
    const auto of_libraries = all.subspan(own.size(), libraries.size());
    const std::size_t best_library = fastest(of_libraries);
    out.library_config = libraries[best_library];
    out.library = of_libraries[best_library];
  }
  if (!quicker.empty()) {
    const auto of_quicker = all.last(quicker.size());
    const std::size_t best_quick = fastest(of_quicker);
    out.quick_config = quicker[best_quick].config;
    out.quick = of_quicker[best_quick];
  }
  out.dense = tuned.family == "gemm" ? out.library : dense(tuned.problem);
  out.read_us = read_us(out.cost.bytes);
  return out;
}

}  // namespace quern
