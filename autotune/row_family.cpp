#include "autotune/row_family.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <set>

#include "compiler/dsl_tree.h"
#include "runtime/base/error.h"
#include "runtime/base/hash.h"

namespace quern {
namespace {

constexpr std::int64_t kMaxElements = std::int64_t{1} << 40;  // of one operand
/// Elements that configs are checked at. What more rows could show, indices that overflow, does not
/// depend on the config.
constexpr std::int64_t kMaxCheckElements = std::int64_t{1} << 23;

dsl::Schedule schedule_of(const RowConfig& c) {
  const auto keep = dsl::parse_keep(c.keep);
  if (!keep) throw InputError("'keep' should be none, registers, packed or shared");
  return {c.threads, c.threads_per_row, c.vector,       *keep, c.cluster,
          c.pdl,     c.turns,           c.blocks_per_sm};
}

dsl::Schedule schedule_of(const Params& config) {
  return schedule_of(from_params<RowConfig>(config));
}

RowConfig config_of(const dsl::Schedule& s) {
  return {s.threads, s.threads_per_row, s.vector,       std::string(dsl::name(s.keep)), s.cluster,
          s.pdl,     s.turns,           s.blocks_per_sm};
}

/// Axes whose extent may vary by request, where they number the rows.
bool may_vary(const std::string& axis) { return axis == "rows" || axis == "tokens"; }

}  // namespace

/// A problem's fields, checked against its kernel.
struct RowFamily::Parsed {
  const dsl::Kernel* kernel = nullptr;
  const Entry* entry = nullptr;
  std::map<std::string, std::int64_t> extents;
  std::map<std::string, double> scalars;
  dsl::Binding binding;  // dtypes, and the extents that are compile-time constants

  const dsl::Tree& tree() const { return kernel->tree(); }
  DType dtype(const dsl::OperandInfo& info) const {
    return info.dtype ? *info.dtype : binding.dtypes.at(info.dtype_param);
  }
  std::int64_t extent(const std::string& axis) const {
    const auto named = extents.find(axis);
    return named != extents.end() ? named->second : std::stoll(axis);
  }
  std::int64_t extent(int axis) const {
    return extents.at(kernel->axes()[static_cast<std::size_t>(axis)]);
  }
  std::int64_t product(dsl::AxisSet axes) const {
    std::int64_t out = 1;
    for (int axis = 0; axis < tree().num_iterated; ++axis)
      if ((axes >> axis) & 1u) out *= extent(axis);
    return out;
  }
  std::int64_t elements() const { return product(tree().iterated()); }

  /// The operand has the innermost axis, and its neighbours along it are neighbours in memory.
  bool is_along_row(std::size_t operand) const {
    const auto& layout = tree().layouts[operand];
    return !layout.empty() && tree().num_iterated > 0 && layout.back().axis == tree().last_axis();
  }

  RowProblem shape() const {
    const dsl::Tree& t = tree();
    RowProblem out;
    out.rows = product(t.leading());
    out.row = product(t.walked);
    out.inner = t.num_iterated > 0 ? extent(t.last_axis()) : 1;
    out.segment = t.segment == 0 ? 0 : product(t.segment);
    out.reduces = t.reduces;
    out.column = t.reduces && t.is_column();
    std::size_t narrow = 32, wide = 0;
    out.loaded_bytes = 0;
    for (std::size_t i = 0; i < t.operands.size(); ++i) {
      const std::size_t bits = size_bits(dtype(t.operands[i]));
      if (is_along_row(i)) {
        narrow = std::min(narrow, bits);
        wide = std::max(wide, bits);
      }
      // What all rows share stays in the caches and is not kept.
      const bool own = (t.axes_of(static_cast<int>(i)) & t.leading()) != 0 || t.leading() == 0;
      if (own && (t.axes_of(static_cast<int>(i)) & t.walked) != 0)
        out.loaded_bytes += entry->traits.operands[i].num_picks * static_cast<double>(bits) / 8;
    }
    out.narrow_bits = static_cast<int>(narrow);
    out.wide_bits = static_cast<int>(std::max(narrow, wide));
    return out;
  }
};

RowFamily::RowFamily(const std::map<std::string, std::string, std::less<>>& files) {
  const dsl::Includes includes = dsl::includes_from(files, "row");
  for (const auto& [path, text] : files) {
    if (!path.ends_with(".qk") || path.starts_with("epilogue/")) continue;
    for (dsl::Kernel& kernel : dsl::parse(text, path, includes)) {
      if (kernels_.contains(kernel.name()))
        throw InputError(
            fmt::format("{} defines kernel {}, which another file has", path, kernel.name()));
      insert(std::move(kernel), "");
    }
  }
}

std::vector<std::string> RowFamily::add(std::string_view text, std::string_view file_name,
                                        const dsl::Includes& includes) {
  std::string all = fmt::format("{}:{}", text.size(), text);
  const dsl::Includes noted = [&](const std::string& file) {
    auto used = includes ? includes(file) : std::optional<std::string>();
    if (used) all += fmt::format("{}:{}{}:{}", file.size(), file, used->size(), *used);
    return used;
  };
  std::vector<dsl::Kernel> kernels = dsl::parse(text, file_name, noted);
  if (kernels.empty()) throw InputError(fmt::format("{} has no kernel", file_name));
  std::vector<std::string> names;
  for (const dsl::Kernel& kernel : kernels) {
    const auto known = entries_.find(kernel.name());
    if (known != entries_.end() && !known->second.text_hash.empty())
      throw InputError(
          fmt::format("{} defines kernel {}, which another file has", file_name, kernel.name()));
    names.push_back(kernel.name());
  }
  const std::string hash = content_hash(all).substr(0, 16);
  for (dsl::Kernel& kernel : kernels) insert(std::move(kernel), hash);
  return names;
}

void RowFamily::insert(dsl::Kernel kernel, std::string_view text_hash) {
  oracles_->kernels.clear();  // a kernel of this name may have been another
  const std::string name = kernel.name();
  std::set<std::string> fields{"kernel", "text"};
  const auto claim = [&](const std::string& field) {
    if (!fields.insert(field).second)
      throw InputError(fmt::format(
          "kernel {} cannot have an axis, dtype or scalar of the name '{}'", name, field));
  };
  for (const std::string& axis : kernel.axes()) claim(axis);
  for (const std::string& param : kernel.dtype_params()) claim(param);
  for (const dsl::ScalarInfo& scalar : kernel.scalars()) claim(scalar.name);
  Entry entry{row_traits(kernel), std::string(text_hash), std::nullopt};
  const std::vector<std::string> row_axes = kernel.row_axes();
  if (!row_axes.empty() && row_axes.front() == kernel.axes().front() && may_vary(row_axes.front()))
    entry.dynamic_axis = row_axes.front();
  entries_.insert_or_assign(name, std::move(entry));
  kernels_.insert_or_assign(name, std::move(kernel));
}

const dsl::Kernel& RowFamily::kernel(std::string_view name) const {
  const auto found = kernels_.find(name);
  if (found == kernels_.end()) throw InputError(fmt::format("there is no kernel '{}'", name));
  return found->second;
}

Params RowFamily::problem(std::string_view name, const RowValues& values) const {
  const dsl::Kernel& k = kernel(name);
  Params out = {{"kernel", k.name()}};
  if (const std::string& hash = entries_.find(name)->second.text_hash; !hash.empty())
    out["text"] = hash;
  const auto missing = [&](const char* kind, const std::string& which) {
    throw InputError(fmt::format("kernel {} needs a value for its {} '{}'", name, kind, which));
  };
  for (const std::string& axis : k.axes()) {
    const auto found = values.axes.find(axis);
    if (found == values.axes.end()) missing("axis", axis);
    out[axis] = found->second;
  }
  for (const std::string& param : k.dtype_params()) {
    const auto found = values.dtypes.find(param);
    if (found == values.dtypes.end()) missing("dtype parameter", param);
    out[param] = std::string(quern::name(found->second));
  }
  for (const dsl::ScalarInfo& scalar : k.scalars()) {
    const auto found = values.scalars.find(scalar.name);
    if (found == values.scalars.end()) missing("scalar", scalar.name);
    out[scalar.name] = found->second;
  }
  const auto refuse_others = [&](const char* kind, const auto& map) {
    for (const auto& [key, value] : map)
      if (!out.contains(key) || key == "kernel" || key == "text")
        throw InputError(fmt::format("kernel {} has no {} '{}'", name, kind, key));
  };
  refuse_others("axis", values.axes);
  refuse_others("dtype parameter", values.dtypes);
  refuse_others("scalar", values.scalars);
  parse(out);
  return out;
}

RowFamily::Parsed RowFamily::parse(const Params& problem) const {
  if (!problem.is_object()) throw InputError("parameters should be an object");
  std::string name;
  detail::take(problem, "kernel", name);
  Parsed out;
  out.kernel = &kernel(name);
  out.entry = &entries_.find(name)->second;
  const dsl::Kernel& kernel = *out.kernel;
  std::size_t known = 1;
  if (!out.entry->text_hash.empty()) {
    std::string hash;
    detail::take(problem, "text", hash);
    if (hash != out.entry->text_hash)
      throw InputError(fmt::format("the problem is of another kernel {} than is at hand", name));
    ++known;
  }
  for (const std::string& axis : kernel.axes()) {
    std::int64_t& extent = out.extents[axis];
    detail::take(problem, axis.c_str(), extent);
    if (extent < 1 || extent > kMaxElements)
      throw InputError(fmt::format("'{}' should be from 1 to 2^40", axis));
    if (axis != out.entry->dynamic_axis) out.binding.extents[axis] = extent;
  }
  for (const std::string& param : kernel.dtype_params()) {
    DType& dtype = out.binding.dtypes[param];
    detail::take(problem, param.c_str(), dtype);
    if (!dsl::is_operand_dtype(dtype) || dtype == DType::i4)
      throw InputError(
          fmt::format("kernel {} cannot have {} = {}", name, param, quern::name(dtype)));
  }
  for (const dsl::ScalarInfo& scalar : kernel.scalars())
    detail::take(problem, scalar.name.c_str(), out.scalars[scalar.name]);
  known += kernel.axes().size() + kernel.dtype_params().size() + kernel.scalars().size();
  if (problem.size() != known)
    for (const auto& [key, value] : problem.items())
      if (key != "kernel" && !(key == "text" && !out.entry->text_hash.empty()) &&
          !out.extents.contains(key) && !out.binding.dtypes.contains(key) &&
          !out.scalars.contains(key))
        throw InputError(fmt::format("kernel {} has no parameter '{}'", name, key));
  std::int64_t iterated = 1;
  const auto grow = [&](std::int64_t& count, std::int64_t extent, const std::string& what) {
    if (count > kMaxElements / extent)
      throw InputError(fmt::format("{} of kernel {} is too large", what, name));
    count *= extent;
  };
  for (int axis = 0; axis < kernel.num_iterated_axes(); ++axis)
    grow(iterated, out.extent(axis), "the shape");
  for (const dsl::OperandInfo& info : kernel.operands()) {
    std::int64_t count = 1;
    for (const std::string& axis : info.axes) grow(count, out.extent(axis), "operand " + info.name);
  }
  return out;
}

std::vector<std::string> RowFamily::dynamic_fields_of(const Params& problem) const {
  const auto name = problem.is_object() ? problem.find("kernel") : problem.end();
  if (name == problem.end() || !name->is_string()) return {};
  const auto entry = entries_.find(name->get<std::string>());
  if (entry == entries_.end() || !entry->second.dynamic_axis) return {};
  return {*entry->second.dynamic_axis};
}

Params RowFamily::check_problem(const Params& problem) const {
  const Parsed parsed = parse(problem);
  if (!parsed.entry->dynamic_axis || parsed.elements() <= kMaxCheckElements) return problem;
  const std::string& axis = *parsed.entry->dynamic_axis;
  const std::int64_t each = parsed.elements() / parsed.extent(axis);
  const auto enough =
      static_cast<std::uint64_t>(std::max<std::int64_t>(1, kMaxCheckElements / each));
  Params out = problem;
  out[axis] = std::min(parsed.extent(axis), static_cast<std::int64_t>(std::bit_floor(enough)));
  return out;
}

std::vector<Tunable> RowFamily::space(const Params&) const { return row_space(); }

RankedSpace RowFamily::ranked_space(const Params& problem, const Arch& arch) const {
  const Parsed parsed = parse(problem);
  const RowProblem shape = parsed.shape();
  const Cost least = cost_of(parsed);
  return rank_points(
      usual_config(parsed, arch), row_points(shape, arch),
      [&](const RowConfig& config) -> std::optional<std::string> {
        if (auto waste = row_reject_reason(shape, config, arch)) return waste;
        return dsl::reject_reason(*parsed.kernel, parsed.binding, schedule_of(config), arch);
      },
      [&](const RowConfig& config) { return row_estimate_us(shape, least, config, arch); });
}

RowConfig RowFamily::usual_config(const Parsed& parsed, const Arch& arch) const {
  for (const RowConfig& config : row_defaults(parsed.shape(), arch))
    if (!dsl::reject_reason(*parsed.kernel, parsed.binding, schedule_of(config), arch))
      return config;
  return config_of(dsl::default_schedule(*parsed.kernel, parsed.binding));
}

Params RowFamily::default_config(const Params& problem, const Arch& arch) const {
  return to_params(usual_config(parse(problem), arch));
}

double RowFamily::estimate_us(const Params& problem, const Params& config, const Arch& arch) const {
  const Parsed parsed = parse(problem);
  return row_estimate_us(parsed.shape(), cost_of(parsed), from_params<RowConfig>(config), arch);
}

std::optional<std::string> RowFamily::unsupported(const Params& problem, const Arch& arch) const {
  const Parsed parsed = parse(problem);
  try {
    return dsl::reject_reason(*parsed.kernel, parsed.binding,
                              dsl::default_schedule(*parsed.kernel, parsed.binding), arch);
  } catch (const CompileError& error) {
    return error.what();
  }
}

std::optional<std::string> RowFamily::reject_reason(const Params& problem, const Params& config,
                                                    const Arch& arch) const {
  const Parsed parsed = parse(problem);
  const auto reason = dsl::reject_reason(*parsed.kernel, parsed.binding, schedule_of(config), arch);
  if (reason) return reason;
  if (const auto waste = row_reject_reason(parsed.shape(), from_params<RowConfig>(config), arch))
    // What runs where nothing better is legal is never refused.
    if (to_params(config_of(dsl::default_schedule(*parsed.kernel, parsed.binding))) != config)
      return waste;
  return std::nullopt;
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
  oracle(problem, *parsed.kernel, parsed.binding)->run(pointers, scalars, extents);
}

std::shared_ptr<const dsl::CpuKernel> RowFamily::oracle(const Params& problem,
                                                        const dsl::Kernel& kernel,
                                                        const dsl::Binding& binding) const {
  Params constants = problem;
  for (const std::string& field : dynamic_fields_of(problem)) constants.erase(field);
  const std::string key = to_key(constants);
  const std::lock_guard lock(oracles_->mutex);
  auto& built = oracles_->kernels[key];
  if (!built) built = std::make_shared<const dsl::CpuKernel>(kernel, binding);
  return built;
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
  return operands_of(parse(problem));
}

std::vector<OperandSpec> RowFamily::operands_of(const Parsed& parsed) const {
  std::vector<OperandSpec> out;
  for (std::size_t i = 0; i < parsed.kernel->operands().size(); ++i) {
    const dsl::OperandInfo& info = parsed.kernel->operands()[i];
    const RowTraits::Operand& traits = parsed.entry->traits.operands[i];
    OperandSpec spec;
    spec.name = info.name;
    spec.dtype = parsed.dtype(info);
    for (const std::string& axis : info.axes) spec.shape.push_back(parsed.extent(axis));
    spec.role = static_cast<OperandSpec::Role>(info.role);
    spec.positive = traits.positive;
    if (!traits.indexed_axes.empty()) {
      std::int64_t shortest = 0x7fffffff;
      for (const int axis : traits.indexed_axes) shortest = std::min(shortest, parsed.extent(axis));
      // A few indices on either side are outside of the axis and read as 0.
      const auto beyond = static_cast<std::int32_t>(std::min<std::int64_t>(shortest / 32, 64) + 1);
      spec.range = {-beyond, static_cast<std::int32_t>(
                                 std::min<std::int64_t>(shortest - 1 + beyond, 0x7fffffff))};
    } else if (spec.dtype == DType::i32 || (traits.positive && spec.dtype == DType::i8)) {
      spec.range = {traits.positive ? 0 : -100, 100};
    }
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

Cost RowFamily::cost(const Params& problem) const { return cost_of(parse(problem)); }

Cost RowFamily::cost_of(const Parsed& parsed) const {
  const std::vector<OperandSpec> specs = operands_of(parsed);
  Cost out;
  for (std::size_t i = 0; i < specs.size(); ++i) {
    const bool both_ways = specs[i].role == OperandSpec::Role::inout;
    double bytes = static_cast<double>(specs[i].size_bytes()) * (both_ways ? 2 : 1);
    // Of a table only what is gathered has to move.
    double gathered = 0;
    for (const dsl::AxisSet axes : parsed.entry->traits.operands[i].gathers)
      gathered += static_cast<double>(parsed.product(axes)) *
                  static_cast<double>(size_bits(specs[i].dtype)) / 8;
    if (gathered > 0) bytes = std::min(bytes, gathered);
    out.bytes += bytes;
  }
  out.flops = static_cast<double>(parsed.elements()) * parsed.kernel->operations_per_element();
  return out;
}

Tolerance RowFamily::tolerance(const Params& problem, std::size_t index) const {
  const Parsed parsed = parse(problem);
  const RowTraits::Operand& traits = parsed.entry->traits.operands.at(index);
  RowOutput output;
  output.dtype = parsed.dtype(parsed.kernel->operands().at(index));
  output.row = parsed.kernel->has_reduction() ? parsed.product(parsed.tree().walked) : 1;
  output.exact = traits.exact;
  output.sum = traits.sum && !traits.per_element;
  output.position = traits.position;
  return row_tolerance(output);
}

}  // namespace quern
