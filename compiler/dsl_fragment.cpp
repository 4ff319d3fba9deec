#include "compiler/dsl_fragment.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <set>
#include <vector>

#include "compiler/dsl_cuda_body.h"
#include "compiler/dsl_cuda_header.h"
#include "compiler/dsl_schedule.h"
#include "runtime/base/error.h"

namespace quern::dsl {
namespace {

std::size_t at(int number) { return static_cast<std::size_t>(number); }

int find_operand(const Tree& tree, const std::string& name) {
  for (std::size_t i = 0; i < tree.operands.size(); ++i)
    if (tree.operands[i].name == name) return static_cast<int>(i);
  return -1;
}

/// "ScoreModifier" becomes "score_modifier".
std::string lower_case(const std::string& name) {
  std::string out;
  for (const char c : name) {
    const auto u = static_cast<unsigned char>(c);
    if (std::isupper(u) && !out.empty()) out += '_';
    out += static_cast<char>(std::tolower(u));
  }
  return out;
}

bool is_type_name(const std::string& name) {
  if (name.empty() || !std::isupper(static_cast<unsigned char>(name[0]))) return false;
  for (const char c : name)
    if (!std::isalnum(static_cast<unsigned char>(c))) return false;
  return true;
}

/// Why an operand cannot be in registers, or nothing.
std::optional<std::string> register_reason(const Tree& tree, const Binding& binding, int operand) {
  const std::string& name = tree.operands[at(operand)].name;
  if (resolve(tree, tree.operand_types[at(operand)], binding) != DType::f32)
    return fmt::format("{} is not f32, and registers hold f32", name);
  if (tree.axes_of(operand) != tree.iterated())
    return fmt::format("{} lacks some of the axes, so it cannot be in registers", name);
  if (num_outer_picks(tree, operand) > 0)
    return fmt::format("fixed axes of {} should follow axis {}", name,
                       tree.axes[at(tree.last_axis())]);
  const auto is_wrong = [&](const Access& access) { return access.kind != Access::Kind::vector; };
  for (const Node& node : tree.nodes)
    if (node.op == Op::load && node.index == operand &&
        (node.gathered != 0 || is_wrong(access_of(tree, node, binding))))
      return fmt::format("{} is not read element by element", name);
  for (const Store& store : tree.stores)
    if (store.operand == operand && is_wrong(access_of(tree, store, binding)))
      return fmt::format("{} has too many places for each element", name);
  return std::nullopt;
}

/// Registers for each position: the product of the fixed axes.
int parts_of(const Tree& tree, int operand) {
  std::int64_t parts = 1;
  for (const Dimension& dimension : tree.layouts[at(operand)])
    if (dimension.axis < 0) parts *= dimension.extent;
  return static_cast<int>(parts);
}

/// A value without the casts of f32 to f32 around it.
int without_casts(const Tree& tree, const Binding& binding, int number) {
  const auto is_f32 = [&](int n) {
    const Type& type = tree.nodes[at(n)].type;
    return type.dtype != DType::boolean && resolve(tree, type, binding) == DType::f32;
  };
  while (tree.nodes[at(number)].op == Op::cast && is_f32(number) &&
         is_f32(tree.nodes[at(number)].args[0]))
    number = tree.nodes[at(number)].args[0];
  return number;
}

/// The operands of f32 that something is added to and that nothing else is done with: their stores
/// then have what is added. Memory can add it without a thread's waiting for what is there.
std::set<int> take_accumulations(Tree& tree, const Binding& binding) {
  std::set<int> out;
  for (Store& store : tree.stores) {
    const OperandInfo& operand = tree.operands[at(store.operand)];
    if (operand.role != OperandInfo::Role::inout ||
        resolve(tree, tree.operand_types[at(store.operand)], binding) != DType::f32 ||
        access_of(tree, store, binding).kind != Access::Kind::vector)
      continue;
    const auto is_own = [&](const Node& n) { return n.op == Op::load && n.index == store.operand; };
    const bool once = std::ranges::count_if(tree.nodes, is_own) == 1 &&
                      std::ranges::count(tree.stores, store.operand, &Store::operand) == 1;
    const Node& sum = tree.nodes[at(without_casts(tree, binding, store.value))];
    if (!once || sum.op != Op::add) continue;
    for (const int side : {0, 1}) {
      const Node& own = tree.nodes[at(without_casts(tree, binding, sum.args[at(side)]))];
      const int added = sum.args[at(1 - side)];
      if (!is_own(own) || own.gathered != 0 || own.picked != store.picked) continue;
      // Nothing else reads it: what is added, and what other stores have, does without it.
      std::vector<int> rest{added};
      for (const Store& other : tree.stores)
        if (other.operand != store.operand) rest.push_back(other.value);
      bool reads = false;
      while (!rest.empty()) {
        const Node& n = tree.nodes[at(rest.back())];
        rest.pop_back();
        reads |= is_own(n);
        for (const int arg : n.args)
          if (arg >= 0) rest.push_back(arg);
      }
      if (reads) continue;
      store.value = added;
      out.insert(store.operand);
      break;
    }
  }
  return out;
}

std::string array_size(int parts) { return parts == 1 ? "N" : fmt::format("N * {}", parts); }

}  // namespace

std::optional<std::string> fragment_reason(const Kernel& kernel, const Binding& binding,
                                           const Fragment& fragment) {
  const Tree& tree = kernel.tree();
  if (!is_type_name(fragment.name))
    return fmt::format("`{}` is no name of a fragment: use letters and digits, a capital first",
                       fragment.name);
  if (tree.reduces)
    return fmt::format("{} has reductions, which a fragment cannot have", tree.name);
  Schedule schedule;  // its rules about dtypes and extents
  if (const auto reason = schedule_reason(kernel, binding, schedule)) return reason;
  const int input = find_operand(tree, fragment.input);
  if (input < 0 || tree.operands[at(input)].role != OperandInfo::Role::in)
    return fmt::format("{} has no input {}", tree.name, fragment.input);
  if (auto reason = register_reason(tree, binding, input)) return reason;
  const int output = find_operand(tree, fragment.output);
  if (!fragment.output.empty()) {
    if (output < 0 || tree.operands[at(output)].role != OperandInfo::Role::out)
      return fmt::format("{} has no output {}", tree.name, fragment.output);
    if (auto reason = register_reason(tree, binding, output)) return reason;
  }
  for (const Store& store : tree.stores)
    if (tree.store_level(store) != Level::element)
      return fmt::format("{} is written once for a row, which a fragment does not see as a whole",
                         tree.operands[at(store.operand)].name);
  return std::nullopt;
}

std::string emit_fragment(const Kernel& kernel, const Binding& binding, const Fragment& fragment) {
  if (const auto reason = fragment_reason(kernel, binding, fragment)) throw InputError(*reason);
  Tree tree = kernel.tree();
  const std::set<int> accumulated =
      fragment.whole ? take_accumulations(tree, binding) : std::set<int>{};
  const int input = find_operand(tree, fragment.input);
  const int output = fragment.output.empty() ? -1 : find_operand(tree, fragment.output);

  Names names;
  Helpers helpers;
  Text text;
  const std::string function = names.take(lower_case(fragment.name)), args = fragment.name + "Args";
  CudaIndices indices(tree, binding, names);
  indices.make_wide();
  indices.add(tree.leading(), "row");
  indices.add(tree.walked, "col");
  CudaBody body(tree, binding, text, names, helpers, indices, nullptr);
  CudaBody::Registers registers{{input, names.take(fragment.input)}};
  if (output >= 0) registers[output] = names.take(fragment.output);
  body.set_registers(registers);
  body.set_accumulated(accumulated);
  if (!fragment.whole) body.set_count("count");
  body.set_vector(2, "N");  // a number that stands for several

  const std::string indent(std::string("__device__ inline void (").size() + function.size(), ' ');
  std::string signature = fmt::format(
      "template <int N>\n__device__ inline void {}(const {}& args, long long row, long long col,\n"
      "{}const float (&{})[{}]",
      function, args, indent, registers[input], array_size(parts_of(tree, input)));
  if (output >= 0)
    signature +=
        fmt::format(", float (&{})[{}]", registers[output], array_size(parts_of(tree, output)));
  text.open(signature + ")");
  const std::size_t top = text.mark();
  const Passes passes = plan_passes(tree, Reuse::none);
  CudaBody::Work work;
  work.nodes = passes.passes.front().walks.front().element_nodes;
  for (const Store& store : tree.stores) work.stores.push_back(&store);
  body.emit({passes.passes.front().row_nodes, {}, {}});
  body.emit(work);
  indices.declare(text, top, "row");
  if (mentions(text.since(top), "count"))
    text.insert(top, fmt::format("const long long count = {} - col;  // elements that exist",
                                 indices.extent(tree.last_axis())));
  indices.declare_extents(text, top);
  text.close();

  std::set<int> in_registers{input};
  if (output >= 0) in_registers.insert(output);
  const std::string fields = args_struct(tree, binding, args, in_registers, helpers);
  return fmt::format(
      "// {0}, as a fragment.\nnamespace {1}_fragment {{\n\n{2}{3}{4}\n}}\n"
      "using {1}_fragment::{5};\nusing {1}_fragment::{1};\n",
      title(tree, binding), function, helpers.write(), fields, text.str(), args);
}

std::vector<int> fragment_operands(const Kernel& kernel, const Fragment& fragment) {
  std::vector<int> out;
  for (std::size_t i = 0; i < kernel.operands().size(); ++i)
    if (kernel.operands()[i].name != fragment.input && kernel.operands()[i].name != fragment.output)
      out.push_back(static_cast<int>(i));
  return out;
}

std::vector<std::byte> fragment_args(const Kernel& kernel, const Fragment& fragment,
                                     std::span<const std::uint64_t> addresses,
                                     const std::map<std::string, double>& scalars,
                                     const std::map<std::string, std::int64_t>& extents) {
  const std::size_t wanted = fragment_operands(kernel, fragment).size();
  if (addresses.size() != wanted)
    throw InputError(fmt::format("fragment {} of kernel {} takes {} operands, not {}",
                                 fragment.name, kernel.name(), wanted, addresses.size()));
  return pack(kernel, addresses, scalars, extents);
}

}  // namespace quern::dsl
