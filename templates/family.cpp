#include "templates/family.h"

#include <algorithm>
#include <functional>
#include <numeric>

namespace quern {

std::size_t OperandSpec::num_elements() const {
  return static_cast<std::size_t>(
      std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>()));
}

std::vector<std::string> Family::dynamic_fields_of(const Params&) const { return dynamic_fields(); }

Params Family::check_problem(const Params& problem) const { return problem; }

RankedSpace Family::ranked_space(const Params& problem, const Arch& arch) const {
  constexpr std::size_t kMaxPoints = 1000000;
  std::vector<Params> points{Params::object()};
  for (const Tunable& tunable : space(problem)) {
    if (points.size() * tunable.values.size() > kMaxPoints)
      throw InputError(fmt::format("the space of {} has more than {} points", name(), kMaxPoints));
    std::vector<Params> longer;
    for (const Params& point : points)
      for (const Params& value : tunable.values) {
        longer.push_back(point);
        longer.back()[tunable.name] = value;
      }
    points = std::move(longer);
  }
  RankedSpace out;
  out.num_points = points.size();
  PruneCount pruned;
  std::vector<std::pair<double, Params>> kept;
  for (Params& point : points) {
    if (auto reason = reject_reason(problem, point, arch))
      pruned.add(*std::move(reason));
    else
      kept.emplace_back(estimate_us(problem, point, arch), std::move(point));
  }
  std::stable_sort(kept.begin(), kept.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
  for (auto& [us, config] : kept) {
    out.configs.push_back(std::move(config));
    out.estimates_us.push_back(us);
  }
  out.pruned = pruned.take();
  return out;
}

Params Family::default_config(const Params& problem, const Arch& arch) const {
  RankedSpace ranked = ranked_space(problem, arch);
  if (ranked.configs.empty())
    throw InputError(
        fmt::format("{} {} has no kernel on {}", name(), to_text(problem), arch.name()));
  return std::move(ranked.configs.front());
}

std::optional<FamilyProblem> Family::like(const Params&) const { return std::nullopt; }

double Family::estimate_us(const Params& problem, const Params&, const Arch& arch) const {
  const Cost least = cost(problem);
  return std::max(least.bytes / (arch.dram_gbps * 1e3), least.flops / (arch.tensor_tflops * 1e6));
}

void Family::cpu_reference(const Params&, std::span<HostTensor>) const {
  throw InputError(fmt::format("{} has its reference on the device", name()));
}

std::vector<TensorMapSpec> Family::tensor_maps(const Params&, const Params&) const { return {}; }

bool Family::is_library(const Params&) const { return false; }

LibraryMatmul Family::library_matmul(const Params& problem, const Params& config) const {
  LibraryMatmul matmul;
  detail::take(problem, "m", matmul.m);
  detail::take(problem, "n", matmul.n);
  detail::take(problem, "k", matmul.k);
  detail::take(problem, "dtype", matmul.input);
  detail::take(problem, "out_dtype", matmul.output);
  detail::take(config, "algorithm", matmul.rank);
  return matmul;
}

}  // namespace quern
