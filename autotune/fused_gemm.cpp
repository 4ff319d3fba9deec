#include "autotune/fused_gemm.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "runtime/base/error.h"
#include "templates/gemm/gemm_wgmma.h"

namespace quern {
namespace {

const std::set<std::string> kFields{"m",        "n",        "k",   "dtype",
                                    "prologue", "epilogue", "eps", "stream"};
/// That blocks take to read x and gamma before anything is multiplied and to add squares up.
constexpr double kNormaliseUs = 0.5;

}  // namespace

/// A problem's fields, checked against its epilogue.
struct FusedGemmFamily::Parsed : EpilogueProblem, PrologueProblem {
  GemmProblem gemm;  // out_dtype: of the widest result, for the model

  /// The output that this config's kernel stores, if any.
  std::optional<int> kernel_output(const GemmConfig& config) const {
    return stores_y(config) ? epilogue->output_for_kernel(binding) : std::nullopt;
  }
  /// Without the text: all that reject_reason looks at.
  GemmFusion fusion(const GemmConfig& config) const {
    GemmFusion out;
    out.parts = epilogue->parts();
    out.leaves_y = kernel_output(config).has_value();
    out.norm_eps = norm_eps;
    out.f32_stream = norm_eps && stream == DType::f32;
    out.args_bytes = args(kernel_output(config), {}).size();
    return out;
  }
  /// The problem of the kernel at hand: what it stores by itself is of the result's dtype.
  GemmProblem problem_of(const GemmConfig& config) const {
    GemmProblem out = gemm;
    const auto y = kernel_output(config);
    out.out_dtype = y ? epilogue->dtype(*y, binding) : DType::f32;
    return out;
  }
};

FusedGemmFamily::FusedGemmFamily(const std::map<std::string, std::string, std::less<>>& files)
    : epilogues_(epilogues_among(files, kFields)) {}

FusedGemmFamily::Parsed FusedGemmFamily::parse(const Params& problem) const {
  if (!problem.is_object()) throw InputError("parameters should be an object");
  Parsed out;
  detail::take(problem, "m", out.gemm.m);
  detail::take(problem, "n", out.gemm.n);
  detail::take(problem, "k", out.gemm.k);
  detail::take(problem, "dtype", out.gemm.dtype);
  static_cast<EpilogueProblem&>(out) =
      epilogue_problem(problem, epilogues_, out.gemm.m, out.gemm.n);
  static_cast<PrologueProblem&>(out) = prologue_problem(problem, out.gemm.dtype);
  refuse_other_fields(problem, kFields, out, out);
  out.gemm.out_dtype = out.has_wide_result() ? DType::f32 : out.gemm.dtype;
  return out;
}

FusedGemmFamily::Parsed FusedGemmFamily::served(const Params& problem) const {
  if (const auto why = unsupported(problem, known_archs().front())) throw InputError(*why);
  return parse(problem);
}

std::optional<std::string> FusedGemmFamily::unsupported(const Params& problem,
                                                        const Arch& arch) const {
  const Parsed p = parse(problem);
  if (auto why = quern::unsupported(p.gemm, arch)) return why;
  GemmConfig reference;
  reference.kernel = "reference";
  return reject(p, reference, arch);
}

std::optional<std::string> FusedGemmFamily::reject(const Parsed& p, const GemmConfig& config,
                                                   const Arch& arch) const {
  return quern::reject_reason(p.problem_of(config), p.fusion(config), config, arch);
}

std::optional<std::string> FusedGemmFamily::reject_reason(const Params& problem,
                                                          const Params& config,
                                                          const Arch& arch) const {
  return reject(parse(problem), from_params<GemmConfig>(config), arch);
}

std::vector<Tunable> FusedGemmFamily::space(const Params& problem) const {
  std::vector<Tunable> out = GemmFamily().space(to_params(served(problem).gemm));
  for (Tunable& tunable : out)
    if (tunable.name == "kernel") std::erase(tunable.values, Params("cublaslt"));
  return out;
}

RankedSpace FusedGemmFamily::ranked_space(const Params& problem, const Arch& arch) const {
  const Parsed p = served(problem);
  RankedSpace out = narrowed(quern::ranked_space(p.gemm, arch), [&](const Params& config) {
    return reject(p, from_params<GemmConfig>(config), arch);
  });
  for (double& us : out.estimates_us) us += p.norm_eps ? kNormaliseUs : 0;
  add_reference_to_empty(out, *this, problem, arch);
  return out;
}

Params FusedGemmFamily::default_config(const Params& problem, const Arch& arch) const {
  const Parsed p = served(problem);
  const GemmConfig usual = quern::default_config(p.gemm, arch);
  if (!reject(p, usual, arch)) return to_params(usual);
  return ranked_space(problem, arch).configs.front();
}

double FusedGemmFamily::estimate_us(const Params& problem, const Params& config,
                                    const Arch& arch) const {
  const Parsed p = served(problem);
  const auto c = from_params<GemmConfig>(config);
  return quern::estimate_us(p.gemm, c, arch) + (p.norm_eps ? kNormaliseUs : 0);
}

std::optional<FamilyProblem> FusedGemmFamily::like(const Params& problem) const {
  return FamilyProblem{"gemm", to_params(served(problem).gemm)};
}

Params FusedGemmFamily::reference_config(const Params& problem) const {
  served(problem);
  GemmConfig config;
  config.kernel = "reference";
  return to_params(config);
}

KernelSource FusedGemmFamily::source(const Params& problem, const Params& config,
                                     const Arch& arch) const {
  const Parsed p = served(problem);
  const auto c = from_params<GemmConfig>(config);
  if (const auto why = reject(p, c, arch)) throw InputError(*why);
  GemmFusion fusion = p.fusion(c);
  fusion.text = p.epilogue->source(p.binding, p.kernel_output(c));
  return fused_source(p.problem_of(c), fusion, c, arch);
}

LaunchPlan FusedGemmFamily::plan(const Params& problem, const Params& config,
                                 const Arch& arch) const {
  const Parsed p = served(problem);
  const auto c = from_params<GemmConfig>(config);
  return fused_plan(p.problem_of(c), p.fusion(c), c, arch);
}

std::vector<OperandSpec> FusedGemmFamily::operands(const Params& problem) const {
  const Parsed p = served(problem);
  const GemmProblem& g = p.gemm;
  std::vector<OperandSpec> out;
  using Role = OperandSpec::Role;
  out.push_back({"x", p.stream, {g.m, g.k}, Role::in, 1.0, {}});
  // Sums of k products then have a standard deviation of 1, as tolerance() assumes.
  out.push_back({"w", g.dtype, {g.n, g.k}, Role::in, 1.0 / std::sqrt(g.k), {}});
  if (p.norm_eps) out.push_back({"gamma", g.dtype, {g.k}, Role::in, 1.0, {}});
  for (OperandSpec& spec : p.EpilogueProblem::operands()) out.push_back(std::move(spec));
  return out;
}

std::vector<TensorMapSpec> FusedGemmFamily::tensor_maps(const Params& problem,
                                                        const Params& config) const {
  const auto c = from_params<GemmConfig>(config);
  if (c.kernel != "wgmma") return {};
  return tensor_maps_wgmma(served(problem).gemm, c);
}

std::vector<std::byte> FusedGemmFamily::pack_args(const Params& problem, const Params& config,
                                                  std::span<const std::uint64_t> addresses,
                                                  std::uint64_t workspace) const {
  const Parsed p = served(problem);
  const auto c = from_params<GemmConfig>(config);
  const std::size_t first = p.norm_eps ? 3 : 2;
  if (addresses.size() != first + p.epilogue->operands().size())
    throw InputError(fmt::format("fused_gemm takes {} operands here, not {}",
                                 first + p.epilogue->operands().size(), addresses.size()));
  GemmAddresses given;
  given.x = addresses[0];
  given.w = addresses[1];
  if (p.norm_eps) given.gamma = addresses[2];
  given.workspace = workspace;
  const auto y = p.kernel_output(c);
  for (std::size_t i = 0; i < p.epilogue->operands().size(); ++i)
    if (p.epilogue->operands()[i] == y) given.y = addresses[first + i];
  return fused_args(
      p.problem_of(c), p.fusion(c), c, given,
      p.args(y, {addresses.begin() + static_cast<std::ptrdiff_t>(first), addresses.end()}));
}

Cost FusedGemmFamily::cost(const Params& problem) const {
  const Parsed p = served(problem);
  return p.EpilogueProblem::cost(operands(problem), p.gemm.k);
}

Tolerance FusedGemmFamily::tolerance(const Params& problem, std::size_t index) const {
  const Parsed p = served(problem);
  const std::size_t first = p.norm_eps ? 3 : 2;
  if (index < first) return {};
  return p.EpilogueProblem::tolerance(index - first, GemmFamily().tolerance(to_params(p.gemm), 2));
}

}  // namespace quern
