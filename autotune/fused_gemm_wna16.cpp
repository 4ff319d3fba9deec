#include "autotune/fused_gemm_wna16.h"

#include <algorithm>
#include <set>

#include "runtime/base/error.h"
#include "templates/common/stub.h"
#include "templates/gemm_wna16/gemm_wna16_fusion.h"
#include "templates/gemm_wna16/gemm_wna16_wgmma.h"

namespace quern {
namespace {

const std::set<std::string> kFields{"m",        "n",          "k",           "dtype",
                                    "bits",     "group_size", "zero_points", "epilogue",
                                    "prologue", "eps",        "stream"};
/// That blocks take to read gamma and to tell each other what squares add up to.
constexpr double kNormaliseUs = 0.4;

}  // namespace

/// A problem's fields, checked against its epilogue.
struct FusedGemmWna16Family::Parsed : EpilogueProblem, PrologueProblem {
  GemmWna16Problem gemm;  // out_dtype: of the widest result, for the model

  /// Operands of the product itself, and gamma.
  std::size_t num_inputs() const { return (gemm.zero_points ? 4 : 3) + (norm_eps ? 1 : 0); }
  /// Without the text: all that reject_reason looks at.
  GemmFusion fusion() const {
    GemmFusion out;
    out.parts = epilogue->parts();
    out.norm_eps = norm_eps;
    out.f32_stream = norm_eps && stream == DType::f32;
    out.args_bytes = args({}, {}).size();
    return out;
  }
};

FusedGemmWna16Family::FusedGemmWna16Family(
    const std::map<std::string, std::string, std::less<>>& files)
    : epilogues_(epilogues_among(files, kFields)) {}

FusedGemmWna16Family::Parsed FusedGemmWna16Family::parse(const Params& problem) const {
  if (!problem.is_object()) throw InputError("parameters should be an object");
  Parsed out;
  GemmWna16Problem& g = out.gemm;
  detail::take(problem, "m", g.m);
  detail::take(problem, "n", g.n);
  detail::take(problem, "k", g.k);
  detail::take(problem, "dtype", g.dtype);
  detail::take(problem, "bits", g.bits);
  detail::take(problem, "group_size", g.group_size);
  detail::take(problem, "zero_points", g.zero_points);
  static_cast<EpilogueProblem&>(out) = epilogue_problem(problem, epilogues_, g.m, g.n);
  static_cast<PrologueProblem&>(out) = prologue_problem(problem, g.dtype);
  refuse_other_fields(problem, kFields, out, out);
  g.out_dtype = out.has_wide_result() ? DType::f32 : g.dtype;
  return out;
}

FusedGemmWna16Family::Parsed FusedGemmWna16Family::served(const Params& problem) const {
  if (const auto why = unsupported(problem, known_archs().front())) throw InputError(*why);
  return parse(problem);
}

std::optional<std::string> FusedGemmWna16Family::unsupported(const Params& problem,
                                                             const Arch& arch) const {
  const Parsed p = parse(problem);
  if (auto why = quern::unsupported(p.gemm, arch)) return why;
  GemmWna16Config reference;
  reference.kernel = "reference";
  return quern::reject_reason(p.gemm, p.fusion(), reference, arch);
}

std::optional<std::string> FusedGemmWna16Family::reject_reason(const Params& problem,
                                                               const Params& config,
                                                               const Arch& arch) const {
  const Parsed p = parse(problem);
  return quern::reject_reason(p.gemm, p.fusion(), from_params<GemmWna16Config>(config), arch);
}

std::vector<Tunable> FusedGemmWna16Family::space(const Params& problem) const {
  std::vector<Tunable> out = GemmWna16Family().space(to_params(served(problem).gemm));
  for (Tunable& tunable : out)
    if (tunable.name == "tma_store") tunable.values = {Params(0)};
  return out;
}

RankedSpace FusedGemmWna16Family::ranked_space(const Params& problem, const Arch& arch) const {
  const Parsed p = served(problem);
  RankedSpace out = narrowed(quern::ranked_space(p.gemm, arch), [&](const Params& config) {
    return quern::reject_reason(p.gemm, p.fusion(), from_params<GemmWna16Config>(config), arch);
  });
  for (double& us : out.estimates_us) us += p.norm_eps ? kNormaliseUs : 0;
  add_reference_to_empty(out, *this, problem, arch);
  return out;
}

Params FusedGemmWna16Family::default_config(const Params& problem, const Arch& arch) const {
  const Parsed p = served(problem);
  const GemmWna16Config usual = quern::default_config(p.gemm, arch);
  if (!quern::reject_reason(p.gemm, p.fusion(), usual, arch)) return to_params(usual);
  return ranked_space(problem, arch).configs.front();
}

double FusedGemmWna16Family::estimate_us(const Params& problem, const Params& config,
                                         const Arch& arch) const {
  const Parsed p = served(problem);
  return quern::estimate_us(p.gemm, from_params<GemmWna16Config>(config), arch) +
         (p.norm_eps ? kNormaliseUs : 0);
}

std::optional<FamilyProblem> FusedGemmWna16Family::like(const Params& problem) const {
  return FamilyProblem{"gemm_wna16", to_params(served(problem).gemm)};
}

Params FusedGemmWna16Family::reference_config(const Params& problem) const {
  return GemmWna16Family().reference_config(to_params(served(problem).gemm));
}

KernelSource FusedGemmWna16Family::source(const Params& problem, const Params& config,
                                          const Arch& arch) const {
  const Parsed p = served(problem);
  GemmFusion fusion = p.fusion();
  fusion.text = p.epilogue->source(p.binding, {});
  return fused_source(p.gemm, fusion, from_params<GemmWna16Config>(config), arch);
}

LaunchPlan FusedGemmWna16Family::plan(const Params& problem, const Params& config,
                                      const Arch& arch) const {
  const Parsed p = served(problem);
  return fused_plan(p.gemm, p.fusion(), from_params<GemmWna16Config>(config), arch);
}

std::vector<OperandSpec> FusedGemmWna16Family::operands(const Params& problem) const {
  const Parsed p = served(problem);
  std::vector<OperandSpec> out = GemmWna16Family().operands(to_params(p.gemm));
  out.pop_back();  // y
  out.front().dtype = p.stream;
  if (p.norm_eps)
    out.push_back({"gamma", p.gemm.dtype, {p.gemm.k}, OperandSpec::Role::in, 1.0, {}});
  for (OperandSpec& spec : p.EpilogueProblem::operands()) out.push_back(std::move(spec));
  return out;
}

std::vector<std::byte> FusedGemmWna16Family::pack_args(const Params& problem, const Params& config,
                                                       std::span<const std::uint64_t> addresses,
                                                       std::uint64_t workspace) const {
  const Parsed p = served(problem);
  const std::size_t first = p.num_inputs();
  require_operands(name(), addresses, first + p.epilogue->operands().size());
  GemmWna16Addresses given{addresses[0], addresses[1], addresses[2]};
  if (p.gemm.zero_points) given.zeros = addresses[3];
  if (p.norm_eps) given.gamma = addresses[first - 1];
  given.workspace = workspace;
  return fused_args(
      p.gemm, p.fusion(), from_params<GemmWna16Config>(config), given,
      p.args({}, {addresses.begin() + static_cast<std::ptrdiff_t>(first), addresses.end()}));
}

std::vector<TensorMapSpec> FusedGemmWna16Family::tensor_maps(const Params& problem,
                                                             const Params& config) const {
  return GemmWna16Family().tensor_maps(to_params(served(problem).gemm), config);
}

Cost FusedGemmWna16Family::cost(const Params& problem) const {
  return served(problem).EpilogueProblem::cost(operands(problem), served(problem).gemm.k);
}

Tolerance FusedGemmWna16Family::tolerance(const Params& problem, std::size_t index) const {
  const Parsed p = served(problem);
  if (index < p.num_inputs()) return {};
  return p.EpilogueProblem::tolerance(
      index - p.num_inputs(), GemmWna16Family().tolerance(to_params(p.gemm), p.num_inputs()));
}

}  // namespace quern
