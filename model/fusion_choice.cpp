#include "model/fusion_choice.h"

#include <fmt/format.h>

#include <map>
#include <utility>

#include "autotune/problem.h"

namespace quern {
namespace {

/// What a launch costs a step beyond its own time: the kernel before drains, and the one after can
/// fetch weights only then. 8B steps of an H200 gained 0.4 to 0.6 us for each kernel that fusing
/// saved, besides the times of those kernels.
constexpr double kBetweenKernelsUs = 0.4;

/// Remembers what was asked: ways of fusing share most of their problems.
class Remembered {
 public:
  explicit Remembered(const ProblemTime& time) : time_(time) {}
  std::optional<double> operator()(const ModelProblem& p) {
    const auto [at, fresh] = known_.try_emplace(p.family + to_key(p.problem));
    if (fresh) at->second = time_(p.family, p.problem);
    return at->second;
  }

 private:
  const ProblemTime& time_;
  std::map<std::string, std::optional<double>> known_;
};

/// One way of fusing, with its launches.
struct Way {
  StepFusion fusion;
  std::map<std::string, ModelProblem> problems;
};

/// What one way launches more often than the other, with how much more often.
std::vector<ModelProblem> launched_more(const Way& way, const Way& other) {
  std::vector<ModelProblem> out;
  for (const auto& [key, problem] : way.problems) {
    const auto found = other.problems.find(key);
    const int count = problem.count - (found == other.problems.end() ? 0 : found->second.count);
    if (count > 0) out.push_back({problem.family, problem.problem, count});
  }
  return out;
}

/// Microseconds of all launches, or nothing if one is unknown.
std::optional<double> sum(const std::vector<ModelProblem>& launches, Remembered& time) {
  double out = 0;
  for (const ModelProblem& p : launches) {
    const auto us = time(p);
    if (!us) return std::nullopt;
    out += p.count * (*us + kBetweenKernelsUs);
  }
  return out;
}

}  // namespace

std::string saving_text(double saved_us, bool measured) {
  if (saved_us <= 0) return "";
  return fmt::format(" | saves {:.1f} us of a step, {}", saved_us,
                     measured ? "measured" : "by estimate");
}

std::string to_text(const FusionChoice& choice) {
  return to_text(choice.fusion) + saving_text(choice.saved_us, choice.measured);
}

FusionChoice choose_fusion(const ModelConfig& config, DType dtype, const ModelAddresses& layout,
                           const StepShape& shape, const ProblemTime& measured,
                           const ProblemTime& estimated) {
  Remembered measured_us(measured), estimated_us(estimated);
  const auto way_of = [&](const StepFusion& fusion) {
    Way way{fusion, {}};
    for (ModelProblem& p : step_problems(config, dtype, layout, shape, fusion)) {
      std::string key = p.family + to_key(p.problem);
      way.problems.emplace(std::move(key), std::move(p));
    }
    return way;
  };
  /// How much less time `a` takes than `b`, and whether that was measured; nothing if only one of
  /// them has been measured, and then whether it is `a`.
  struct Comparison {
    double saved_us = 0;
    bool a_known = false, b_known = false;
    bool a_is_better() const { return a_known == b_known ? saved_us > 0 : a_known; }
  };
  const auto compare = [&](const Way& a, const Way& b) {
    const auto more_a = launched_more(a, b), more_b = launched_more(b, a);
    auto us_a = sum(more_a, measured_us), us_b = sum(more_b, measured_us);
    Comparison out{0, us_a.has_value(), us_b.has_value()};
    if (!us_a && !us_b) {
      us_a = sum(more_a, estimated_us);
      us_b = sum(more_b, estimated_us);
    }
    if (us_a && us_b) out.saved_us = *us_b - *us_a;
    return out;
  };
  const std::vector<StepFusion> fusions = step_fusions(dtype, layout, shape.num_tokens);
  const Way unfused = way_of(fusions.front());
  Way best = unfused;
  for (std::size_t i = 1; i < fusions.size(); ++i)
    if (Way way = way_of(fusions[i]); compare(way, best).a_is_better()) best = std::move(way);
  const Comparison in_all = compare(best, unfused);
  return {best.fusion, in_all.saved_us, in_all.a_known && in_all.b_known};
}

FusionChoice choose_fusion(KernelLibrary& kernels, const ModelConfig& config, DType dtype,
                           const ModelAddresses& layout, const StepShape& shape) {
  const auto measured = [&](const std::string& family, const Params& problem) {
    const auto record = kernels.recorded(family, problem);
    return record ? std::optional(record->median_us) : std::nullopt;
  };
  const auto estimated = [&](const std::string& name, const Params& problem) {
    const Family& family = kernels.families().at(name);
    return std::optional(family.estimate_us(problem, kernels.default_config(family, problem),
                                            kernels.arch()));
  };
  return choose_fusion(config, dtype, layout, shape, measured, estimated);
}

}  // namespace quern
