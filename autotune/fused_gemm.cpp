#include "autotune/fused_gemm.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "compiler/dsl_tree.h"
#include "runtime/base/error.h"
#include "templates/gemm/gemm_wgmma.h"
#include "templates/row/row.h"

namespace quern {
namespace {

const std::set<std::string> kFields{"m",        "n",        "k",   "dtype",
                                    "prologue", "epilogue", "eps", "stream"};
constexpr const char* kRmsNorm = "rmsnorm";
/// That blocks take to read x and gamma before anything is multiplied and to add squares up.
constexpr double kNormaliseUs = 0.5;

}  // namespace

/// A problem's fields, checked against its epilogue.
struct FusedGemmFamily::Parsed {
  const GemmEpilogue* epilogue = nullptr;
  GemmProblem gemm;  // out_dtype: of the widest result, for the model
  std::optional<double> norm_eps;
  DType stream = DType::bf16;  // of x
  dsl::Binding binding;  // dtypes, and the columns of the result
  std::map<std::string, double> scalars;

  std::int64_t cols() const { return gemm.n / epilogue->parts(); }
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
    out.args_bytes = args(config, {}).size();
    return out;
  }
  std::vector<std::byte> args(const GemmConfig& config,
                              std::vector<std::uint64_t> addresses) const {
    addresses.resize(epilogue->operands().size());
    return epilogue->args(kernel_output(config), addresses, scalars, gemm.m, cols());
  }
  /// The problem of the kernel at hand: what it stores by itself is of the result's dtype.
  GemmProblem problem_of(const GemmConfig& config) const {
    GemmProblem out = gemm;
    const auto y = kernel_output(config);
    out.out_dtype = y ? epilogue->dtype(*y, binding) : DType::f32;
    return out;
  }
};

FusedGemmFamily::FusedGemmFamily(const std::map<std::string, std::string, std::less<>>& files) {
  const dsl::Includes includes = dsl::includes_from(files, "row");
  for (const auto& [path, text] : files) {
    if (!path.starts_with("epilogue/") || !path.ends_with(".qk")) continue;
    for (dsl::Kernel& kernel : dsl::parse(text, path, includes)) {
      const std::string name = kernel.name();
      for (const auto& field : kernel.dtype_params())
        if (kFields.contains(field))
          throw InputError(
              fmt::format("kernel {} cannot have a dtype of the name '{}'", name, field));
      for (const dsl::ScalarInfo& scalar : kernel.scalars())
        if (kFields.contains(scalar.name))
          throw InputError(
              fmt::format("kernel {} cannot have a scalar of the name '{}'", name, scalar.name));
      if (!epilogues_.emplace(name, GemmEpilogue(std::move(kernel))).second)
        throw InputError(fmt::format("{} defines kernel {}, which another file has", path, name));
    }
  }
}

FusedGemmFamily::Parsed FusedGemmFamily::parse(const Params& problem) const {
  if (!problem.is_object()) throw InputError("parameters should be an object");
  Parsed out;
  std::string name, prologue;
  detail::take(problem, "m", out.gemm.m);
  detail::take(problem, "n", out.gemm.n);
  detail::take(problem, "k", out.gemm.k);
  detail::take(problem, "dtype", out.gemm.dtype);
  detail::take(problem, "prologue", prologue);
  detail::take(problem, "epilogue", name);
  const auto found = epilogues_.find(name);
  if (found == epilogues_.end()) throw InputError(fmt::format("there is no epilogue '{}'", name));
  out.epilogue = &found->second;
  const dsl::Kernel& kernel = out.epilogue->kernel();
  out.stream = out.gemm.dtype;
  std::size_t known = 6 + kernel.dtype_params().size() + kernel.scalars().size();
  if (prologue == kRmsNorm) {
    double& eps = out.norm_eps.emplace();
    detail::take(problem, "eps", eps);
    if (!(eps >= 0 && eps <= 1)) throw InputError("'eps' should be between 0 and 1");
    detail::take(problem, "stream", out.stream);
    if (out.stream != out.gemm.dtype && out.stream != DType::f32)
      throw InputError(fmt::format("'stream' should be {} or f32", quern::name(out.gemm.dtype)));
    known += 2;
  } else if (!prologue.empty()) {
    throw InputError(fmt::format("there is no prologue '{}'", prologue));
  }
  for (const std::string& param : kernel.dtype_params()) {
    DType& dtype = out.binding.dtypes[param];
    detail::take(problem, param.c_str(), dtype);
    if (!dsl::is_operand_dtype(dtype) || dtype == DType::i4)
      throw InputError(
          fmt::format("epilogue {} cannot have {} = {}", name, param, quern::name(dtype)));
  }
  for (const dsl::ScalarInfo& scalar : kernel.scalars())
    detail::take(problem, scalar.name.c_str(), out.scalars[scalar.name]);
  if (problem.size() != known)
    for (const auto& [key, value] : problem.items())
      if ((!kFields.contains(key) || ((key == "eps" || key == "stream") && !out.norm_eps)) &&
          !out.binding.dtypes.contains(key) && !out.scalars.contains(key))
        throw InputError(
            fmt::format("a product with epilogue '{}' and prologue '{}' has no field '{}'", name,
                        prologue, key));
  out.gemm.out_dtype = out.gemm.dtype;
  for (const int i : out.epilogue->operands())
    if (kernel.operands()[static_cast<std::size_t>(i)].role != dsl::OperandInfo::Role::in &&
        size_bits(out.epilogue->dtype(i, out.binding)) == 32)
      out.gemm.out_dtype = DType::f32;
  if (out.gemm.n >= out.epilogue->parts()) out.binding.extents[out.epilogue->cols()] = out.cols();
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
  const RankedSpace all = quern::ranked_space(p.gemm, arch);
  RankedSpace out;
  out.num_points = all.num_points;
  PruneCount refused;
  for (std::size_t i = 0; i < all.configs.size(); ++i) {
    if (auto why = reject(p, from_params<GemmConfig>(all.configs[i]), arch)) {
      refused.add(*std::move(why));
    } else {
      out.configs.push_back(all.configs[i]);
      out.estimates_us.push_back(all.estimates_us[i] + (p.norm_eps ? kNormaliseUs : 0));
    }
  }
  if (out.configs.empty()) {
    out.configs.push_back(reference_config(problem));
    out.estimates_us.push_back(estimate_us(problem, out.configs.front(), arch));
    ++out.num_points;
  }
  out.pruned = all.pruned;
  for (Pruned& pruned : refused.take()) out.pruned.push_back(std::move(pruned));
  std::stable_sort(out.pruned.begin(), out.pruned.end(),
                   [](const Pruned& a, const Pruned& b) { return a.count > b.count; });
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
  for (const int i : p.epilogue->operands()) {
    const dsl::OperandInfo& info = p.epilogue->kernel().operands()[static_cast<std::size_t>(i)];
    OperandSpec spec;
    spec.name = info.name;
    spec.dtype = p.epilogue->dtype(i, p.binding);
    for (const std::string& axis : info.axes)
      spec.shape.push_back(axis == p.epilogue->rows()   ? g.m
                           : axis == p.epilogue->cols() ? p.cols()
                                                        : std::stoll(axis));
    spec.role = static_cast<Role>(info.role);
    spec.positive = p.epilogue->traits(i).positive;
    // A factor of the whole tensor takes results over the range of the codes they are rounded to.
    if (spec.shape.empty()) spec.stddev = 32;
    if (spec.dtype == DType::i32) spec.range = {-100, 100};
    out.push_back(std::move(spec));
  }
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
      p.args(c, {addresses.begin() + static_cast<std::ptrdiff_t>(first), addresses.end()}));
}

Cost FusedGemmFamily::cost(const Params& problem) const {
  const Parsed p = served(problem);
  const double m = p.gemm.m, n = p.gemm.n, k = p.gemm.k;
  Cost out{0, 2 * m * n * k + m * static_cast<double>(p.cols()) *
                                  p.epilogue->kernel().operations_per_element()};
  for (const OperandSpec& spec : operands(problem))
    out.bytes +=
        static_cast<double>(spec.size_bytes()) * (spec.role == OperandSpec::Role::inout ? 2 : 1);
  return out;
}

Tolerance FusedGemmFamily::tolerance(const Params& problem, std::size_t index) const {
  const Parsed p = served(problem);
  const std::size_t first = p.norm_eps ? 3 : 2;
  if (index < first) return {};
  const int operand = p.epilogue->operands().at(index - first);
  RowOutput output;
  output.dtype = p.epilogue->dtype(operand, p.binding);
  output.exact = false;
  Tolerance out = row_tolerance(output);
  // What sums of all orders of addition differ by, and what an expression makes of that: results
  // change up to 1.13 times as much as the one sum they depend on, and as many times as the other
  // part is large where there are two, 6 standard deviations.
  const Tolerance sums = GemmFamily().tolerance(to_params(p.gemm), 2);
  double factor = p.epilogue->parts() == 2 ? 8 : 1.2;
  // Several standard deviations of the factor of the whole tensor (operands()).
  for (const OperandSpec& spec : operands(problem))
    if (spec.shape.empty()) factor *= 4 * spec.stddev;
  if (out.share > 0)
    out.share = std::min(1.0 / 64, out.share + factor * sums.abs);
  else
    out.abs += factor * sums.abs;
  return out;
}

}  // namespace quern
