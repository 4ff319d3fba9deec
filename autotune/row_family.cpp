#include "autotune/row_family.h"

#include <algorithm>

#include "runtime/base/error.h"

namespace quern {
namespace {

constexpr std::int64_t kMaxElements = std::int64_t{1} << 40;  // of one operand

dsl::Schedule schedule_of(const Params& config) {
  const auto c = from_params<RowConfig>(config);
  return {c.threads, c.threads_per_row, c.vector_bytes, c.pdl};
}

}  // namespace

/// A problem's fields, checked against its kernel.
struct RowFamily::Parsed {
  const dsl::Kernel* kernel = nullptr;
  std::map<std::string, std::int64_t> extents;
  std::map<std::string, double> scalars;
  dsl::Binding binding;  // dtypes, and the extents that are compile-time constants

  DType dtype(const dsl::OperandInfo& info) const {
    return info.dtype ? *info.dtype : binding.dtypes.at(info.dtype_param);
  }
  std::int64_t extent(const std::string& axis) const {
    const auto named = extents.find(axis);
    return named != extents.end() ? named->second : std::stoll(axis);
  }
  bool spans_row(const dsl::OperandInfo& info) const {
    return std::find(info.axes.begin(), info.axes.end(), kernel->axes().back()) != info.axes.end();
  }

  RowProblem shape() const {
    RowProblem out;
    for (const std::string& axis : kernel->axes())
      if (axis != kernel->axes().back()) out.rows *= extent(axis);
    out.cols = extent(kernel->axes().back());
    out.element_bytes = 4;
    for (const dsl::OperandInfo& info : kernel->operands())
      if (spans_row(info))
        out.element_bytes =
            std::min(out.element_bytes, static_cast<int>(size_bits(dtype(info)) / 8));
    out.reduces = kernel->has_reduction();
    return out;
  }
};

RowFamily::RowFamily(const std::map<std::string, std::string, std::less<>>& files) {
  for (const auto& [path, text] : files) {
    if (!path.ends_with(".qk")) continue;
    for (dsl::Kernel& kernel : dsl::parse(text, path)) {
      const std::string name = kernel.name();
      if (!kernels_.emplace(name, std::move(kernel)).second)
        throw InputError(fmt::format("{} defines kernel {}, which another file has", path, name));
    }
  }
}

RowFamily::Parsed RowFamily::parse(const Params& problem) const {
  if (!problem.is_object()) throw InputError("parameters should be an object");
  std::string name;
  detail::take(problem, "kernel", name);
  const auto found = kernels_.find(name);
  if (found == kernels_.end()) throw InputError(fmt::format("there is no kernel '{}'", name));
  Parsed out;
  out.kernel = &found->second;
  const dsl::Kernel& kernel = *out.kernel;
  for (const std::string& axis : kernel.axes()) {
    std::int64_t& extent = out.extents[axis];
    detail::take(problem, axis.c_str(), extent);
    if (extent < 1 || extent > kMaxElements)
      throw InputError(fmt::format("'{}' should be from 1 to 2^40", axis));
    if (axis != "rows") out.binding.extents[axis] = extent;
  }
  for (const std::string& param : kernel.dtype_params())
    detail::take(problem, param.c_str(), out.binding.dtypes[param]);
  for (const dsl::ScalarInfo& scalar : kernel.scalars())
    detail::take(problem, scalar.name.c_str(), out.scalars[scalar.name]);
  const std::size_t known =
      1 + kernel.axes().size() + kernel.dtype_params().size() + kernel.scalars().size();
  if (problem.size() != known)
    for (const auto& [key, value] : problem.items())
      if (key != "kernel" && !out.extents.contains(key) && !out.binding.dtypes.contains(key) &&
          !out.scalars.contains(key))
        throw InputError(fmt::format("kernel {} has no parameter '{}'", name, key));
  if (const auto reason =
          dsl::reject_reason(kernel, out.binding, dsl::Schedule(), known_archs().back()))
    throw InputError(*reason);
  for (const dsl::OperandInfo& info : kernel.operands()) {
    std::int64_t count = 1;
    for (const std::string& axis : info.axes) {
      if (count > kMaxElements / out.extent(axis))
        throw InputError(fmt::format("operand {} of kernel {} is too large", info.name, name));
      count *= out.extent(axis);
    }
  }
  return out;
}

std::vector<Tunable> RowFamily::space(const Params&) const { return row_space(); }

std::vector<Params> RowFamily::candidates(const Params& problem, const Arch& arch) const {
  std::vector<Params> out;
  for (const RowConfig& config : row_candidates(parse(problem).shape(), arch))
    out.push_back(to_params(config));
  return out;
}

std::optional<std::string> RowFamily::unsupported(const Params& problem, const Arch& arch) const {
  const Parsed parsed = parse(problem);
  return dsl::reject_reason(*parsed.kernel, parsed.binding, {}, arch);
}

std::optional<std::string> RowFamily::reject_reason(const Params& problem, const Params& config,
                                                    const Arch& arch) const {
  const Parsed parsed = parse(problem);
  const auto reason = dsl::reject_reason(*parsed.kernel, parsed.binding, schedule_of(config), arch);
  return reason ? reason : row_reject_reason(parsed.shape(), from_params<RowConfig>(config), arch);
}

Params RowFamily::reference_config(const Params&) const { return nullptr; }

void RowFamily::cpu_reference(const Params& problem, std::span<HostTensor> operands) const {
  const Parsed parsed = parse(problem);
  const std::vector<OperandSpec> specs = this->operands(problem);
  if (operands.size() != specs.size())
    throw InputError(fmt::format("kernel {} takes {} operands, not {}", parsed.kernel->name(),
                                 specs.size(), operands.size()));
  std::vector<void*> pointers;
  for (std::size_t i = 0; i < specs.size(); ++i) {
    if (operands[i].data.size() != specs[i].size_bytes())
      throw InputError(fmt::format("operand {} of kernel {} has {} bytes, not {}", specs[i].name,
                                   parsed.kernel->name(), operands[i].data.size(),
                                   specs[i].size_bytes()));
    pointers.push_back(operands[i].data.data());
  }
  std::vector<double> scalars;
  for (const dsl::ScalarInfo& scalar : parsed.kernel->scalars())
    scalars.push_back(parsed.scalars.at(scalar.name));
  std::vector<std::int64_t> extents;
  for (const std::string& axis : parsed.kernel->axes()) extents.push_back(parsed.extent(axis));
  dsl::CpuKernel(*parsed.kernel, parsed.binding).run(pointers, scalars, extents);
}

KernelSource RowFamily::source(const Params& problem, const Params& config, const Arch&) const {
  const Parsed parsed = parse(problem);
  return {dsl::emit_cuda(*parsed.kernel, parsed.binding, schedule_of(config)),
          dsl::entry_name(*parsed.kernel),
          {}};
}

LaunchPlan RowFamily::plan(const Params& problem, const Params& config, const Arch&) const {
  const Parsed parsed = parse(problem);
  return dsl::plan(*parsed.kernel, parsed.binding, schedule_of(config), parsed.extents);
}

std::vector<OperandSpec> RowFamily::operands(const Params& problem) const {
  const Parsed parsed = parse(problem);
  std::vector<OperandSpec> out;
  for (const dsl::OperandInfo& info : parsed.kernel->operands()) {
    OperandSpec spec;
    spec.name = info.name;
    spec.dtype = parsed.dtype(info);
    for (const std::string& axis : info.axes) spec.shape.push_back(parsed.extent(axis));
    spec.role = static_cast<OperandSpec::Role>(info.role);
    out.push_back(std::move(spec));
  }
  return out;
}

std::vector<std::byte> RowFamily::pack_args(const Params& problem, const Params&,
                                            std::span<const std::uint64_t> addresses,
                                            std::uint64_t) const {
  const Parsed parsed = parse(problem);
  return dsl::pack_args(*parsed.kernel, addresses, parsed.scalars, parsed.extents);
}

Cost RowFamily::cost(const Params& problem) const {
  Cost out;
  for (const OperandSpec& spec : operands(problem)) {
    const bool both_ways = spec.role == OperandSpec::Role::inout;
    out.bytes += static_cast<double>(spec.size_bytes()) * (both_ways ? 2 : 1);
  }
  const Parsed parsed = parse(problem);
  const RowProblem shape = parsed.shape();
  out.flops = static_cast<double>(shape.rows) * static_cast<double>(shape.cols) *
              parsed.kernel->operations_per_element();
  return out;
}

Tolerance RowFamily::tolerance(const Params& problem, std::size_t index) const {
  const Parsed parsed = parse(problem);
  return row_tolerance(parsed.dtype(parsed.kernel->operands().at(index)), parsed.shape().cols);
}

}  // namespace quern
