#include "compiler/dsl_schedule.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <limits>

#include "runtime/base/error.h"

namespace quern::dsl {
namespace {

constexpr std::int64_t kMaxKeptElements = 64;  // per thread and kept value: registers

bool is_power_of_two(int n) { return n > 0 && (n & (n - 1)) == 0; }

std::int64_t extent_of(const std::string& axis, const std::map<std::string, std::int64_t>& extents,
                       const std::string& kernel) {
  const auto found = extents.find(axis);
  if (found == extents.end())
    throw InputError(fmt::format("kernel {} needs the extent of axis {}", kernel, axis));
  if (found->second < 0)
    throw InputError(
        fmt::format("axis {} of kernel {} cannot have {} elements", axis, kernel, found->second));
  return found->second;
}

std::int64_t product(std::int64_t a, std::int64_t b) {
  if (a > 0 && b > std::numeric_limits<std::int64_t>::max() / a)
    throw InputError("the extents of a kernel are too large");
  return a * b;
}

}  // namespace

std::int64_t bound_row_length(const Tree& tree, const Binding& binding) {
  const auto found = binding.extents.find(tree.axes.back());
  return found == binding.extents.end() ? 0 : found->second;
}

std::int64_t stride_along_last(const Tree& tree, int operand) {
  std::int64_t stride = 0;
  for (const Dimension& dimension : tree.layouts[static_cast<std::size_t>(operand)]) {
    if (dimension.axis == tree.last_axis()) stride = 1;
    if (dimension.axis < 0) stride *= dimension.extent;
  }
  return stride;
}

CudaShape cuda_shape(const Tree& tree, const Binding& binding, const Schedule& schedule) {
  CudaShape shape;
  shape.reduces = std::any_of(tree.nodes.begin(), tree.nodes.end(),
                              [](const Node& node) { return is_reduction(node.op); });
  const std::int64_t cols = bound_row_length(tree, binding);
  if (cols == 0) return shape;
  std::size_t narrowest = 32;  // bits
  for (std::size_t i = 0; i < tree.operands.size(); ++i)
    if (stride_along_last(tree, static_cast<int>(i)) == 1)
      narrowest = std::min(narrowest, size_bits(resolve(tree, tree.operand_types[i], binding)));
  shape.vector = std::max(1, schedule.vector_bytes * 8 / static_cast<int>(narrowest));
  while (cols % shape.vector != 0) shape.vector /= 2;
  const std::int64_t step = std::int64_t{shape.vector} * std::max(1, schedule.threads_per_row);
  const std::int64_t chunks = (cols + step - 1) / step;
  if (shape.reduces && chunks * shape.vector <= kMaxKeptElements) {
    shape.keeps = true;
    shape.chunks = static_cast<int>(chunks);
  }
  return shape;
}

std::string entry_name(const Kernel& kernel) { return "quern_" + kernel.name(); }

std::optional<std::string> schedule_reason(const Kernel& kernel, const Binding& binding,
                                           const Schedule& schedule) {
  const Tree& tree = kernel.tree();
  try {
    for (const Type& type : tree.operand_types) resolve(tree, type, binding);
  } catch (const CompileError& error) {
    return error.what();
  }
  for (const auto& [axis, extent] : binding.extents)
    if (extent < 1) return fmt::format("axis {} has no elements", axis);
  if (schedule.threads < 32 || schedule.threads > 1024 || schedule.threads % 32 != 0)
    return "threads should be a multiple of 32 from 32 to 1024";
  if (!is_power_of_two(schedule.vector_bytes) || schedule.vector_bytes > 16)
    return "vector_bytes should be 1, 2, 4, 8 or 16";
  if (kernel.has_reduction()) {
    const int per_row = schedule.threads_per_row;
    if (per_row != schedule.threads && (per_row > 32 || !is_power_of_two(per_row)))
      return "threads_per_row should be a power of two up to 32, or all threads";
  } else if (schedule.threads_per_row != schedule.threads) {
    return fmt::format("{} has no reduction, so threads_per_row should be threads", kernel.name());
  }
  return std::nullopt;
}

void check_schedule(const Kernel& kernel, const Binding& binding, const Schedule& schedule) {
  if (const auto reason = schedule_reason(kernel, binding, schedule)) throw InputError(*reason);
}

std::optional<std::string> reject_reason(const Kernel& kernel, const Binding& binding,
                                         const Schedule& schedule, const Arch& arch) {
  if (arch.cc() < 80) return fmt::format("{} has no conversions to bf16", arch.name());
  if (schedule.pdl && !arch.has_pdl())
    return fmt::format("{} has no programmatic dependent launch", arch.name());
  return schedule_reason(kernel, binding, schedule);
}

LaunchPlan plan(const Kernel& kernel, const Binding& binding, const Schedule& schedule,
                const std::map<std::string, std::int64_t>& extents) {
  check_schedule(kernel, binding, schedule);
  const Tree& tree = kernel.tree();
  const CudaShape shape = cuda_shape(tree, binding, schedule);
  std::int64_t rows = 1;
  for (int axis = 0; axis < tree.last_axis(); ++axis)
    rows = product(rows, extent_of(tree.axes[static_cast<std::size_t>(axis)], extents, tree.name));
  std::int64_t units = rows;  // rows, or vectors of rows
  std::int64_t units_per_block = std::max(1, schedule.threads / schedule.threads_per_row);
  if (!shape.reduces) {
    const std::int64_t cols = extent_of(tree.axes.back(), extents, tree.name);
    units = product(rows, cols / shape.vector);
    units_per_block = schedule.threads;
  }
  const std::int64_t blocks = units / units_per_block + (units % units_per_block != 0);
  constexpr std::int64_t max_blocks = 0x7fffffff;
  if (shape.reduces && blocks > max_blocks)
    throw InputError(fmt::format("{} rows are more than kernel {} can take", rows, tree.name));
  LaunchPlan out;
  out.grid[0] = static_cast<unsigned>(std::clamp<std::int64_t>(blocks, 1, max_blocks));
  out.block[0] = static_cast<unsigned>(schedule.threads);
  out.pdl = schedule.pdl;
  return out;
}

std::vector<std::byte> pack_args(const Kernel& kernel, std::span<const std::uint64_t> addresses,
                                 const std::map<std::string, double>& scalars,
                                 const std::map<std::string, std::int64_t>& extents) {
  if (addresses.size() != kernel.operands().size())
    throw InputError(fmt::format("kernel {} takes {} operands, not {}", kernel.name(),
                                 kernel.operands().size(), addresses.size()));
  std::vector<std::byte> out;
  const auto append = [&](const auto value) {
    while (out.size() % sizeof value != 0) out.push_back(std::byte{0});
    out.resize(out.size() + sizeof value);
    std::memcpy(out.data() + out.size() - sizeof value, &value, sizeof value);
  };
  for (const std::uint64_t address : addresses) append(address);
  for (const ScalarInfo& scalar : kernel.scalars()) {
    const auto found = scalars.find(scalar.name);
    if (found == scalars.end())
      throw InputError(fmt::format("kernel {} needs scalar {}", kernel.name(), scalar.name));
    if (scalar.dtype != DType::i32) {
      append(static_cast<float>(found->second));
    } else if (found->second >= -2147483648.0 && found->second <= 2147483647.0) {
      append(static_cast<std::int32_t>(found->second));
    } else {
      throw InputError(fmt::format("scalar {} of kernel {} is outside the range of i32",
                                   scalar.name, kernel.name()));
    }
  }
  for (const std::string& axis : kernel.axes()) append(extent_of(axis, extents, kernel.name()));
  return out;
}

}  // namespace quern::dsl
