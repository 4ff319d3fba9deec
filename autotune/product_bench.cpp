#include "autotune/product_bench.h"

#include <algorithm>
#include <numeric>
#include <span>

#include "autotune/trial_order.h"
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
constexpr int kAlgorithms = 8;                 // of cuBLASLt's heuristics
constexpr std::size_t kDenseRivals = 2;        // that take turns with a kernel of another family
constexpr int kRounds = 21, kQuickRounds = 3;  // of what is reported, and to find rivals
constexpr std::size_t kStreamConfigs = 8;      // the best of so many is what reading takes

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
  if (r.alone.num_samples > 0) out["alone"] = to_json(r.alone);
  return out;
}

Params plain_product(const Params& problem) {
  GemmProblem p;
  p.m = problem.at("m"), p.n = problem.at("n"), p.k = problem.at("k");
  p.dtype = problem.at("dtype") == "f16" ? DType::f16 : DType::bf16;
  p.out_dtype =
      problem.contains("out_dtype") && problem.at("out_dtype") == "f32" ? DType::f32 : p.dtype;
  return to_params(p);
}

/// The best of cuBLASLt's algorithms for the plain product.
std::vector<Contestant> ProductBench::dense_rivals(const Params& problem) {
  const Params same = plain_product(problem);
  const auto known = dense_rivals_.find(to_key(same));
  if (known != dense_rivals_.end()) return known->second;
  const Family& family = library_.families().at("gemm");
  std::vector<Contestant> rivals;
  for (int algorithm = 0; algorithm < kAlgorithms; ++algorithm) {
    GemmConfig config;
    config.kernel = "cublaslt", config.algorithm = algorithm;
    if (!library_.refusal(family, same, to_params(config)))
      rivals.push_back({&family, same, to_params(config)});
  }
  const std::vector<Timing> timings = time_in_turns(library_, rivals, kQuickRounds);
  std::vector<std::size_t> order(rivals.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::ranges::stable_sort(order, {}, [&](std::size_t i) { return timings[i].median_us; });
  std::vector<Contestant> best;
  for (const std::size_t i : order)
    if (best.size() < kDenseRivals) best.push_back(rivals[i]);
  return dense_rivals_[to_key(same)] = best;
}

/// cuBLASLt's algorithms for less than the problem asks, where it has some.
std::vector<Contestant> ProductBench::quick_rivals(const Params& problem) {
  LibraryProductProblem p;
  p.m = problem.at("m"), p.n = problem.at("n"), p.k = problem.at("k");
  if (problem.at("dtype") == "e4m3") {
    p.dtype = DType::e4m3;
    p.out_dtype = from_params<GemmW8A8Problem>(problem).out_dtype;
  }
  const Family& family = library_.families().at("library_product");
  const Params same = to_params(p);
  std::vector<Contestant> out;
  for (int algorithm = 0; algorithm < kAlgorithms; ++algorithm) {
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
  for (const Trial* trial : fastest_trials(tuned.search)) {
    const Params& config = tuned.configs[trial->candidate];
    const bool known = std::find(own.begin(), own.end(), config) != own.end();
    if (!family.is_library(config) && !known && own.size() < kOwnConfigs)
      own.push_back(config);
    else if (family.is_library(config) && libraries.size() < kLibraryConfigs)
      libraries.push_back(config);
  }
  std::vector<Contestant> all;
  for (const Params& config : own) all.push_back({&family, tuned.problem, config});
  for (const Params& config : libraries) all.push_back({&family, tuned.problem, config});
  const auto join = [&](const std::vector<Contestant>& rivals) {
    all.insert(all.end(), rivals.begin(), rivals.end());
    return rivals.size();
  };
  const std::size_t num_quick = tuned.family == "gemm_w8a8" ? join(quick_rivals(tuned.problem)) : 0;
  const bool is_product = tuned.problem.contains("m");
  const std::size_t num_dense =
      tuned.family == "gemm" || !is_product ? 0 : join(dense_rivals(tuned.problem));
  if (const auto plain = family.like(tuned.problem))
    join({{&library_.families().at(plain->family), plain->problem,
           library_.get(plain->family, plain->problem).config()}});
  const std::vector<Timing> timings = time_in_turns(library_, all, kRounds);
  std::span<const Timing> left = timings;
  const auto next = [&](std::size_t count) {
    const auto some = left.first(count);
    left = left.subspan(count);
    return some;
  };
  const auto of_own = next(own.size()), of_libraries = next(libraries.size());
  out.config = own[fastest(of_own)];
  out.timing = of_own[fastest(of_own)];
  if (!of_libraries.empty()) {
    out.library_config = libraries[fastest(of_libraries)];
    out.library = of_libraries[fastest(of_libraries)];
  }
  if (const auto of_quick = next(num_quick); !of_quick.empty()) {
    out.quick = of_quick[fastest(of_quick)];
    out.quick_config = all[own.size() + libraries.size() + fastest(of_quick)].config;
  }
  const auto of_dense = next(num_dense);
  out.dense = tuned.family == "gemm" ? out.library
              : of_dense.empty()     ? Timing{}
                                     : of_dense[fastest(of_dense)];
  if (!left.empty()) out.alone = left.front();
  out.read_us = read_us(out.cost.bytes);
  return out;
}

}  // namespace quern
