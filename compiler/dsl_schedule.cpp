#include "compiler/dsl_schedule.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <limits>

#include "compiler/dsl_access.h"
#include "runtime/base/error.h"

namespace quern::dsl {
namespace {

constexpr std::int64_t kMaxKeptElements = 64;    // per thread and kept value
constexpr std::int64_t kMaxKeptRegisters = 128;  // per thread, of 32 bits
constexpr std::int64_t kMaxAccessBytes = 64;     // four accesses of 16 bytes
constexpr int kMaxVector = 32;
constexpr int kMaxCluster = 8;  // what every device with clusters can run
constexpr int kMaxTurns = 64;
constexpr int kNumNamedBarriers = 15;    // the sixteenth is that of __syncthreads
constexpr std::int64_t kShortRow = 128;  // vectors: four for each thread of a warp

std::size_t at(int number) { return static_cast<std::size_t>(number); }
bool is_power_of_two(int n) { return n > 0 && (n & (n - 1)) == 0; }
std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return a / b + (a % b != 0); }

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

DType operand_dtype(const Tree& tree, const Binding& binding, int operand) {
  return resolve(tree, tree.operand_types[at(operand)], binding);
}

/// Several threads of a row would write and read such an operand at once if rows were not shared.
bool overwrites_row_values(const Tree& tree) {
  return std::any_of(tree.stores.begin(), tree.stores.end(), [&](const Store& store) {
    return tree.operands[at(store.operand)].role == OperandInfo::Role::inout &&
           tree.store_level(store) != Level::element;
  });
}

bool is_packed_vector_store(const Tree& tree, const Binding& binding, const Store& store) {
  return operand_dtype(tree, binding, store.operand) == DType::i4;
}

/// A packed operand is written along the innermost axis, which then always has an even extent.
bool stores_packed_along_last(const Tree& tree, const Binding& binding) {
  return std::any_of(tree.stores.begin(), tree.stores.end(), [&](const Store& store) {
    return is_packed_vector_store(tree, binding, store) &&
           access_of(tree, store, binding).parts == 1;
  });
}

/// Checks one schedule; each member returns a sentence or nothing.
class Rules {
 public:
  using Reason = std::optional<std::string>;

  Rules(const Tree& tree, const Binding& binding, const Schedule& schedule)
      : tree_(tree), binding_(binding), s_(schedule) {}

  Reason check() {
    if (auto reason = bound()) return reason;
    if (auto reason = threads()) return reason;
    if (auto reason = vector()) return reason;
    if (auto reason = packed()) return reason;
    if (auto reason = turns()) return reason;
    if (!tree_.reduces && !overwrites_row_values(tree_)) return std::nullopt;
    if (auto reason = kept()) return reason;
    return std::nullopt;
  }

 private:
  Reason bound() {
    try {
      for (const Type& type : tree_.operand_types) resolve(tree_, type, binding_);
    } catch (const CompileError& error) {
      return error.what();
    }
    for (const auto& [axis, extent] : binding_.extents)
      if (extent < 1) return fmt::format("axis {} has no elements", axis);
    return std::nullopt;
  }

  Reason threads() {
    if (s_.threads < 32 || s_.threads > 1024 || s_.threads % 32 != 0)
      return "threads should be a multiple of 32 from 32 to 1024";
    const int per_row = s_.threads_per_row;
    if (!tree_.reduces) {
      if (per_row != s_.threads)
        return fmt::format("{} has no reduction, so threads_per_row should be threads", tree_.name);
      if (s_.cluster != 1)
        return fmt::format("{} has no reduction, so cluster should be 1", tree_.name);
      if (s_.keep != Keep::none)
        return fmt::format("{} has no reduction, so keep should be none", tree_.name);
      return std::nullopt;
    }
    if (per_row != s_.threads && (!is_power_of_two(per_row) || s_.threads % per_row != 0))
      return "threads_per_row should be a power of two that divides threads, or all of them";
    if (!tree_.is_column() && per_row > 32 && per_row != s_.threads &&
        s_.threads / per_row > kNumNamedBarriers)
      return fmt::format("{} rows of more than a warp in one block need more than {} barriers",
                         s_.threads / per_row, kNumNamedBarriers);
    if (!is_power_of_two(s_.cluster) || s_.cluster > kMaxCluster)
      return fmt::format("cluster should be a power of two up to {}", kMaxCluster);
    if (s_.cluster > 1 && per_row != s_.threads)
      return "blocks of a cluster share a row, so threads_per_row should be threads";
    if (s_.cluster > 1 && tree_.is_column())
      return fmt::format("{} folds columns, so cluster should be 1", tree_.name);
    return std::nullopt;
  }

  Reason turns() {
    if (!is_power_of_two(s_.turns) || s_.turns > kMaxTurns)
      return fmt::format("turns should be a power of two up to {}", kMaxTurns);
    if (s_.blocks_per_sm < 0 || s_.blocks_per_sm > 32)
      return "blocks_per_sm should be from 0 to 32";
    if (s_.turns == 1) return std::nullopt;
    if (tree_.leading() == 0)
      return fmt::format("{} has one row, so turns should be 1", tree_.name);
    if (s_.keep != Keep::registers || s_.cluster > 1)
      return "rows that are taken in turn need keep=registers and no cluster";
    return std::nullopt;
  }

  std::int64_t last_extent() const {
    return bound_extent(tree_, binding_, 1u << tree_.last_axis());
  }
  const std::string& last_axis() const { return tree_.axes[at(tree_.last_axis())]; }

  Reason vector() {
    if (!is_power_of_two(s_.vector) || s_.vector > kMaxVector)
      return fmt::format("vector should be a power of two up to {}", kMaxVector);
    if (s_.vector == 1) return std::nullopt;
    if (tree_.is_column() && tree_.varies_along_last(tree_.walked))
      return fmt::format(
          "{} folds axis {} and others that are not beside it, so vector should be 1", tree_.name,
          last_axis());
    const bool always_fits = s_.vector == 2 && stores_packed_along_last(tree_, binding_);
    if (last_extent() == 0 && !always_fits && (tree_.is_column() || tree_.segment != 0))
      return fmt::format("axis {} is not bound, so vector should be 1", last_axis());
    if (last_extent() % s_.vector != 0)
      return fmt::format("vector = {} does not divide axis {} of {} elements", s_.vector,
                         last_axis(), last_extent());
    for (const Node& node : tree_.nodes)
      if (node.op == Op::load)
        if (auto reason = access(access_of(tree_, node, binding_), node.index)) return reason;
    for (const Store& store : tree_.stores)
      if (auto reason = access(access_of(tree_, store, binding_), store.operand)) return reason;
    return std::nullopt;
  }

  Reason access(const Access& access, int operand) {
    if (access.kind != Access::Kind::vector) return std::nullopt;
    const std::size_t bytes =
        bytes_for(operand_dtype(tree_, binding_, operand), at(access.parts * s_.vector));
    if (static_cast<std::int64_t>(bytes) <= kMaxAccessBytes) return std::nullopt;
    return fmt::format("vector = {} moves {} bytes of {} at once, more than {}", s_.vector, bytes,
                       tree_.operands[at(operand)].name, kMaxAccessBytes);
  }

  /// Two elements of i4 share a byte, so one thread has to write both.
  Reason packed() {
    for (const Store& store : tree_.stores) {
      if (!is_packed_vector_store(tree_, binding_, store)) continue;
      const Access access = access_of(tree_, store, binding_);
      const std::string& name = tree_.operands[at(store.operand)].name;
      if (access.kind != Access::Kind::vector)
        return fmt::format("the pairs of {}, which is i4, are not written together", name);
      if (access.parts * s_.vector % 2 != 0)
        return fmt::format("{} is written in pairs, so vector should be even", name);
    }
    return std::nullopt;
  }

  Reason kept() {
    if (s_.keep == Keep::none) return std::nullopt;
    const std::string_view keep = name(s_.keep);
    if (tree_.is_column())
      return fmt::format("{} folds columns, so keep should be none", tree_.name);
    const std::int64_t length = bound_extent(tree_, binding_, tree_.walked);
    if (length == 0)
      return fmt::format("the length of a row is not bound, so keep={} is not possible", keep);
    const std::int64_t chunks =
        ceil_div(length, std::int64_t{s_.vector} * s_.threads_per_row * s_.cluster);
    const Passes passes = plan_passes(tree_, reuse_of(s_.keep));
    if (s_.keep == Keep::shared) return shared(passes, chunks);
    if (s_.keep == Keep::packed)
      if (auto reason = packed_row(passes)) return reason;
    return registers(passes, chunks);
  }

  Reason registers(const Passes& passes, std::int64_t chunks) {
    if (tree_.segment != 0) {
      const std::int64_t segment = bound_extent(tree_, binding_, tree_.segment);
      const std::int64_t lanes = segment / s_.vector;
      if (lanes > 32 || !is_power_of_two(static_cast<int>(lanes)))
        return fmt::format(
            "a segment of {} elements is {} vectors: keep=registers needs a power of two up to 32",
            segment, lanes);
      if (s_.threads_per_row % lanes != 0)
        return fmt::format("{} threads that hold a segment do not divide threads_per_row", lanes);
    }
    if (chunks * s_.vector > kMaxKeptElements)
      return fmt::format("each thread would keep {} elements of a row, more than {}",
                         chunks * s_.vector, kMaxKeptElements);
    std::int64_t total = 0;
    for (const int n : passes.kept) {
      const Node& node = tree_.nodes[at(n)];
      if (node.op == Op::index) continue;
      std::int64_t count = tree_.varies_along_last(node.axes) ? s_.vector : 1;
      if (node.op == Op::load) {
        const Access access = access_of(tree_, node, binding_);
        if (access.kind == Access::Kind::vector)
          count = ceil_div(static_cast<std::int64_t>(bytes_for(
                               operand_dtype(tree_, binding_, node.index), at(s_.vector))),
                           4);
      }
      total += chunks * count;
    }
    if (tree_.segment != 0)
      total += chunks * std::count(tree_.levels.begin(), tree_.levels.end(), Level::segment);
    if (total > kMaxKeptRegisters)
      return fmt::format("what each thread would keep takes {} registers, more than {}", total,
                         kMaxKeptRegisters);
    return std::nullopt;
  }

  Reason packed_row(const Passes& passes) {
    if (tree_.segment != 0)
      return fmt::format("{} works on segments of a row, so keep should be none or registers",
                         tree_.name);
    if (staged_loads(tree_, passes, binding_).empty())
      return fmt::format("{} loads nothing twice, so keep=packed would hold nothing", tree_.name);
    return std::nullopt;
  }

  Reason shared(const Passes& passes, std::int64_t chunks) {
    if (tree_.segment != 0)
      return fmt::format("{} works on segments of a row, so keep should be none or registers",
                         tree_.name);
    const std::vector<int> staged = staged_loads(tree_, passes, binding_);
    if (staged.empty())
      return fmt::format("{} loads nothing twice, so keep=shared would hold nothing", tree_.name);
    for (const int n : passes.kept)
      for (const int arg : tree_.nodes[at(n)].args)
        if (arg >= 0 && tree_.level(arg) == Level::element)
          return fmt::format(
              "what is gathered from {} is used twice, and shared memory holds whole "
              "vectors alone",
              tree_.operands[at(tree_.nodes[at(n)].index)].name);
    if (chunks > std::numeric_limits<int>::max()) return "the row is too long";
    std::int64_t bytes = 0;
    for (const int n : staged) bytes += staged_bytes(tree_, binding_, s_, chunks, n);
    // More than any GPU has; reject_reason knows the exact limit.
    if (bytes > (1 << 20)) return fmt::format("keep=shared needs {} bytes of shared memory", bytes);
    return std::nullopt;
  }

  const Tree& tree_;
  const Binding& binding_;
  const Schedule& s_;
};

}  // namespace

std::string_view name(Keep keep) {
  switch (keep) {
    case Keep::none:
      return "none";
    case Keep::registers:
      return "registers";
    case Keep::packed:
      return "packed";
    case Keep::shared:
      return "shared";
  }
  return "unknown";
}

std::optional<Keep> parse_keep(std::string_view text) {
  for (const Keep keep : {Keep::none, Keep::registers, Keep::packed, Keep::shared})
    if (name(keep) == text) return keep;
  return std::nullopt;
}

Reuse reuse_of(Keep keep) {
  return keep == Keep::none ? Reuse::none : keep == Keep::registers ? Reuse::all : Reuse::loads;
}

std::int64_t bound_extent(const Tree& tree, const Binding& binding, AxisSet axes) {
  std::int64_t out = 1;
  for (std::size_t axis = 0; axis < tree.axes.size(); ++axis) {
    if (!((axes >> axis) & 1u)) continue;
    const auto found = binding.extents.find(tree.axes[axis]);
    if (found == binding.extents.end()) return 0;
    out = product(out, found->second);
  }
  return out;
}

std::vector<int> staged_loads(const Tree& tree, const Passes& passes, const Binding& binding) {
  std::vector<int> out;
  for (const int n : passes.kept) {
    const Node& node = tree.nodes[at(n)];
    if (node.op != Op::load) continue;
    const Access access = access_of(tree, node, binding);
    if (access.kind != Access::Kind::vector) continue;
    if (std::none_of(out.begin(), out.end(),
                     [&](int other) { return same_vector(tree, tree.nodes[at(other)], node); }))
      out.push_back(n);
  }
  return out;
}

std::int64_t staged_bytes(const Tree& tree, const Binding& binding, const Schedule& schedule,
                          std::int64_t chunks, int load) {
  const Node& node = tree.nodes[at(load)];
  const int parts = access_of(tree, node, binding).parts;
  const auto vector_bytes = static_cast<std::int64_t>(
      bytes_for(operand_dtype(tree, binding, node.index), at(parts * schedule.vector)));
  return ceil_div(product(chunks * schedule.threads, vector_bytes), 16) * 16;
}

CudaShape cuda_shape(const Tree& tree, const Binding& binding, const Schedule& schedule) {
  CudaShape shape;
  shape.shares_rows = tree.reduces || overwrites_row_values(tree);
  shape.lanes = shape.shares_rows ? schedule.threads_per_row * schedule.cluster : 1;
  if (bound_extent(tree, binding, 1u << tree.last_axis()) == 0) {
    shape.narrow = stores_packed_along_last(tree, binding) ? 2 : 1;
    if (shape.narrow >= schedule.vector) shape.narrow = 0;
  }
  shape.takes_segments_in_turn = tree.segment != 0;
  if (schedule.keep == Keep::none) return shape;
  shape.chunks = static_cast<int>(ceil_div(bound_extent(tree, binding, tree.walked),
                                           std::int64_t{schedule.vector} * shape.lanes));
  if (schedule.keep == Keep::registers && tree.segment != 0) {
    shape.takes_segments_in_turn = false;
    shape.lanes_per_segment =
        static_cast<int>(bound_extent(tree, binding, tree.segment) / schedule.vector);
  }
  if (schedule.keep == Keep::shared)
    for (const int n : staged_loads(tree, plan_passes(tree, Reuse::loads), binding))
      shape.smem_bytes +=
          static_cast<unsigned>(staged_bytes(tree, binding, schedule, shape.chunks, n));
  return shape;
}

std::string entry_name(const Kernel& kernel) { return "quern_" + kernel.name(); }

std::optional<std::string> schedule_reason(const Kernel& kernel, const Binding& binding,
                                           const Schedule& schedule) {
  return Rules(kernel.tree(), binding, schedule).check();
}

void check_schedule(const Kernel& kernel, const Binding& binding, const Schedule& schedule) {
  if (const auto reason = schedule_reason(kernel, binding, schedule)) throw InputError(*reason);
}

std::optional<std::string> reject_reason(const Kernel& kernel, const Binding& binding,
                                         const Schedule& schedule, const Arch& arch) {
  if (arch.cc() < 80) return fmt::format("{} has no conversions to bf16", arch.name());
  if (schedule.pdl && !arch.has_pdl())
    return fmt::format("{} has no programmatic dependent launch", arch.name());
  if (schedule.blocks_per_sm * schedule.threads > arch.max_threads_per_sm)
    return fmt::format("an SM of {} holds {} threads", arch.name(), arch.max_threads_per_sm);
  if (schedule.cluster > 1 && arch.cc() < 90)
    return fmt::format("{} has no clusters of blocks", arch.name());
  if (auto reason = schedule_reason(kernel, binding, schedule)) return reason;
  // A place for each warp in every reduction, at most 8 bytes.
  const auto reductions = std::count_if(kernel.tree().nodes.begin(), kernel.tree().nodes.end(),
                                        [](const Node& node) { return is_reduction(node.op); });
  const long bytes = static_cast<long>(cuda_shape(kernel.tree(), binding, schedule).smem_bytes) +
                     static_cast<long>(reductions) * 8 * (32 + kMaxCluster);
  if (bytes > arch.smem_per_block_bytes)
    return fmt::format("{} bytes of shared memory are more than the {} of {}", bytes,
                       arch.smem_per_block_bytes, arch.name());
  return std::nullopt;
}

Schedule default_schedule(const Kernel& kernel, const Binding& binding) {
  const Tree& tree = kernel.tree();
  // Vectors of the narrowest operand fill 16 bytes.
  std::size_t narrowest = 32;
  for (std::size_t i = 0; i < tree.operands.size(); ++i)
    if (const auto& param = tree.operands[i].dtype_param;
        (param.empty() || binding.dtypes.count(param)) &&
        tree.varies_along_last(tree.axes_of(static_cast<int>(i))))
      narrowest = std::min(
          narrowest, size_bits(param.empty() ? *tree.operands[i].dtype : binding.dtypes.at(param)));
  for (const Keep keep : {Keep::registers, Keep::none})
    for (int vector = kMaxVector; vector > 0; vector /= 2) {
      Schedule out;
      out.vector = vector;
      out.keep = tree.reduces ? keep : Keep::none;
      if (tree.is_column()) {
        out.threads_per_row = 8;
        if (vector > 4) continue;
      } else if (tree.reduces) {
        const std::int64_t length = bound_extent(tree, binding, tree.walked);
        if (length > 0 && length / vector <= kShortRow) out.threads_per_row = 32;
      }
      if (at(vector) * narrowest > 128 && vector > 1) continue;
      if (!schedule_reason(kernel, binding, out)) return out;
    }
  return {};
}

LaunchPlan plan(const Kernel& kernel, const Binding& binding, const Schedule& schedule,
                const std::map<std::string, std::int64_t>& extents) {
  check_schedule(kernel, binding, schedule);
  const Tree& tree = kernel.tree();
  const CudaShape shape = cuda_shape(tree, binding, schedule);
  std::int64_t rows = 1;
  for (int axis = 0; axis < tree.num_iterated; ++axis)
    if ((tree.leading() >> axis) & 1u)
      rows = product(rows, extent_of(tree.axes[at(axis)], extents, tree.name));
  std::int64_t blocks;
  if (shape.shares_rows) {
    if (tree.is_column()) rows = ceil_div(rows, schedule.vector);
    const int rows_per_block = schedule.threads / schedule.threads_per_row * schedule.turns;
    blocks = product(ceil_div(rows, rows_per_block), schedule.cluster);
  } else {
    const std::int64_t cols = extent_of(tree.axes[at(tree.last_axis())], extents, tree.name);
    const int vector = cols % schedule.vector == 0 ? schedule.vector : shape.narrow;
    blocks = ceil_div(product(rows, cols / std::max(1, vector)), schedule.threads);
  }
  constexpr std::int64_t max_blocks = 0x7fffffff;
  if ((shape.shares_rows || shape.narrow == 0) && blocks > max_blocks)
    throw InputError(fmt::format("{} rows are more than kernel {} can take", rows, tree.name));
  LaunchPlan out;
  out.grid[0] =
      static_cast<unsigned>(std::clamp<std::int64_t>(blocks, schedule.cluster, max_blocks));
  out.block[0] = static_cast<unsigned>(schedule.threads);
  out.smem_bytes = shape.smem_bytes;
  out.cluster = static_cast<unsigned>(schedule.cluster);
  out.pdl = schedule.pdl;
  return out;
}

std::vector<std::byte> pack_args(const Kernel& kernel, std::span<const std::uint64_t> addresses,
                                 const std::map<std::string, double>& scalars,
                                 const std::map<std::string, std::int64_t>& extents) {
  if (addresses.size() != kernel.operands().size())
    throw InputError(fmt::format("kernel {} takes {} operands, not {}", kernel.name(),
                                 kernel.operands().size(), addresses.size()));
  return pack(kernel, addresses, scalars, extents);
}

std::vector<std::byte> pack(const Kernel& kernel, std::span<const std::uint64_t> addresses,
                            const std::map<std::string, double>& scalars,
                            const std::map<std::string, std::int64_t>& extents) {
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
