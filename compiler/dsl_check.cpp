#include "compiler/dsl_check.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <set>

#include "compiler/dsl_builtins.h"
#include "compiler/dsl_levels.h"
#include "compiler/dsl_values.h"

namespace quern::dsl {
namespace {

constexpr std::size_t kMaxOperands = 64;
constexpr std::size_t kMaxAxes = 8;
constexpr double kMaxFixedExtent = 1 << 20;
constexpr std::int64_t kMaxWrittenPlaces = 64;  // of the fixed axes of an output
constexpr int kFaulty = Values::kFaulty;

class Checker {
 public:
  Checker(const ast::Kernel& source, const Library& library, Diagnostics& diagnostics)
      : source_(source),
        library_(library),
        diagnostics_(diagnostics),
        values_(tree_, diagnostics, library,
                [this](const ast::Pool&, const ast::Expr& e) { return resolve(e); }) {}

  std::shared_ptr<const Tree> run() {
    tree_.name = source_.name;
    if (source_.operands.size() + source_.scalars.size() > kMaxOperands) {
      error(source_.name, fmt::format("a kernel has at most {} parameters", kMaxOperands));
      return nullptr;
    }
    for (const ast::Operand& operand : source_.operands) declare(operand);
    for (const ast::Scalar& scalar : source_.scalars) declare(scalar);
    if (failed()) return nullptr;
    order_axes();
    if (failed()) return nullptr;
    for (const ast::Statement& statement : source_.statements) check(statement);
    check_use();
    if (failed()) return nullptr;
    const auto report = [this](int node, int operand, const std::string& sentence) {
      error(node >= 0 ? values_.where(node)
                      : source_.operands[static_cast<std::size_t>(operand)].axes_range,
            sentence);
    };
    if (!plan_levels(tree_, report)) return nullptr;
    return std::make_shared<Tree>(std::move(tree_));
  }

 private:
  struct Local {
    int value = kFaulty;
    std::string_view where;
    bool read = false;
  };
  struct OperandState {
    std::map<std::vector<std::int64_t>, int> values;  // that its name stands for, once assigned
    bool read = false;
  };

  void error(std::string_view at, const std::string& sentence) {
    faulty_ = true;
    diagnostics_.error(at, sentence);
  }
  bool failed() const { return faulty_ || values_.faulty(); }

  const ast::Expr& expr_at(int number) const {
    return source_.exprs[static_cast<std::size_t>(number)];
  }
  const Node& node(int number) const { return values_.node(number); }
  std::string spell(const Type& type) const { return values_.spell(type); }

  // Declarations.

  bool claim_name(std::string_view name) {
    if (library_.find_let(name) || library_.find_reduction(name))
      return error(name, fmt::format("`{}` is a function: choose another name", name)), false;
    if (is_builtin(name))
      return error(name, fmt::format("`{}` is a built-in function: choose another name", name)),
             false;
    if (parse_dtype(name))
      return error(name, fmt::format("`{}` is a dtype: choose another name", name)), false;
    if (!names_.insert(name).second)
      return error(name, fmt::format("`{}` is declared twice", name)), false;
    return true;
  }

  void declare(const ast::Operand& operand) {
    claim_name(operand.name);
    OperandInfo info;
    info.name = operand.name;
    info.role = operand.output  ? OperandInfo::Role::out
                : operand.inout ? OperandInfo::Role::inout
                                : OperandInfo::Role::in;
    if (operand.output && operand.inout)
      error(operand.name, fmt::format("`{}` is an output, so `inout` says nothing: declare it "
                                      "among the parameters if its old contents matter",
                                      operand.name));
    Type type;
    if (is_capitalised(operand.dtype)) {
      info.dtype_param = operand.dtype;
      const auto found =
          std::find(tree_.dtype_params.begin(), tree_.dtype_params.end(), info.dtype_param);
      type.param = static_cast<int>(found - tree_.dtype_params.begin());
      if (found == tree_.dtype_params.end()) tree_.dtype_params.push_back(info.dtype_param);
    } else if (const auto dtype = parse_dtype(operand.dtype); dtype && is_operand_dtype(*dtype)) {
      info.dtype = type.dtype = *dtype;
    } else {
      unknown_dtype(operand.dtype);
    }
    std::vector<Dimension> layout;
    std::set<std::string_view> seen;
    std::uint32_t gathered = 0;
    std::size_t num_iterated = 0;
    std::int64_t places = 1;
    for (const ast::BracketItem& item : operand.axes) {
      Dimension dimension;
      if (item.is_number) {
        if (item.number != std::floor(item.number) || item.number < 1 ||
            item.number > kMaxFixedExtent)
          error(item.text, "a fixed extent is a whole number from 1 to 1048576");
        dimension.extent = static_cast<std::int64_t>(std::clamp(item.number, 1.0, kMaxFixedExtent));
        places = std::min(places * dimension.extent, kMaxWrittenPlaces + 1);
        info.axes.push_back(std::to_string(dimension.extent));
      } else {
        if (!seen.insert(item.text).second)
          error(item.text, fmt::format("`{}` has axis {} twice", info.name, item.text));
        const auto found = std::find(axis_names_.begin(), axis_names_.end(), item.text);
        dimension.axis = static_cast<int>(found - axis_names_.begin());
        if (found == axis_names_.end()) axis_names_.push_back(item.text);
        info.axes.emplace_back(item.text);
        if (always_gathers(operand.name, item.text))
          gathered |= 1u << layout.size();
        else
          ++num_iterated;
      }
      layout.push_back(dimension);
    }
    if (num_iterated > kMaxRank || seen.size() > kMaxAxes || layout.size() > 2 * kMaxAxes) {
      error(operand.axes_range, fmt::format("an operand has at most {} named axes", kMaxRank));
      layout.clear();
    }
    if (places > kMaxWrittenPlaces && info.role != OperandInfo::Role::in)
      error(operand.axes_range, fmt::format("`{}` is written, so its fixed axes have at most {} "
                                            "places",
                                            info.name, kMaxWrittenPlaces));
    if (info.dtype == DType::i4 &&
        (layout.empty() || (layout.back().axis < 0 && layout.back().extent % 2 != 0)))
      error(operand.axes_range, fmt::format("`{}` is packed in pairs, so its last axis should have "
                                            "an even extent",
                                            info.name));
    tree_.operands.push_back(std::move(info));
    tree_.operand_types.push_back(type);
    tree_.layouts.push_back(std::move(layout));
    gathered_.push_back(gathered);
    states_.emplace_back();
  }

  /// True if the operand is read, and always through an index along this axis.
  bool always_gathers(std::string_view operand, std::string_view axis) const {
    bool read = false;
    for (const ast::Expr& e : source_.exprs) {
      if (e.kind != ast::Expr::Kind::name || e.text != operand) continue;
      read = true;
      if (std::none_of(e.bracket.begin(), e.bracket.end(), [&](const ast::BracketItem& item) {
            return item.text == axis && item.value >= 0;
          }))
        return false;
    }
    return read;
  }

  void declare(const ast::Scalar& scalar) {
    claim_name(scalar.name);
    const auto dtype = parse_dtype(scalar.dtype);
    if (!dtype || (*dtype != DType::f32 && *dtype != DType::i32))
      error(scalar.dtype, "a scalar is f32 or i32");
    tree_.scalars.push_back({std::string(scalar.name), dtype.value_or(DType::f32)});
    scalar_read_.push_back(false);
  }

  void unknown_dtype(std::string_view at) {
    const std::vector<std::string> known = operand_dtype_names();
    if (parse_dtype(at)) {
      error(at, fmt::format("kernels have no operands of dtype {}: use {}", at,
                            fmt::join(known, ", ")));
      return;
    }
    const std::string near = nearest_name(at, known);
    error(at, near.empty()
                  ? fmt::format("`{}` is not a dtype: use {}, or a capitalised dtype parameter", at,
                                fmt::join(known, ", "))
                  : fmt::format("`{}` is not a dtype: did you mean {}?", at, near));
  }

  bool is_iterated(std::size_t operand, std::size_t dimension) const {
    return tree_.layouts[operand][dimension].axis >= 0 && !((gathered_[operand] >> dimension) & 1u);
  }

  /// Numbers the axes so that every operand has them in the same order; ties go by appearance. Axes
  /// that are only gathered along come last.
  void order_axes() {
    const std::size_t count = axis_names_.size();
    for (const std::string_view axis : axis_names_)
      if (names_.count(axis))
        error(axis, fmt::format("`{}` is also the name of a parameter", axis));
    std::vector<bool> iterated(count, false);
    for (std::size_t i = 0; i < tree_.layouts.size(); ++i)
      for (std::size_t d = 0; d < tree_.layouts[i].size(); ++d)
        if (is_iterated(i, d)) iterated[static_cast<std::size_t>(tree_.layouts[i][d].axis)] = true;
    const auto num_iterated =
        static_cast<std::size_t>(std::count(iterated.begin(), iterated.end(), true));
    if (num_iterated == 0) return error(source_.name, "no operand has a named axis");
    if (count > kMaxAxes)
      return error(source_.name, fmt::format("a kernel has at most {} axes", kMaxAxes));
    std::vector<int> rank(count, -1);
    std::vector<int> order;
    while (order.size() < num_iterated) {
      std::optional<std::size_t> next;
      for (std::size_t axis = 0; axis < count && !next; ++axis)
        if (iterated[axis] && rank[axis] < 0 && !follows_unranked(static_cast<int>(axis), rank))
          next = axis;
      if (!next) return report_conflict(rank, iterated);
      rank[*next] = static_cast<int>(order.size());
      order.push_back(static_cast<int>(*next));
    }
    for (std::size_t axis = 0; axis < count; ++axis) {
      if (iterated[axis]) continue;
      rank[axis] = static_cast<int>(order.size());
      order.push_back(static_cast<int>(axis));
    }
    for (const int axis : order)
      tree_.axes.emplace_back(axis_names_[static_cast<std::size_t>(axis)]);
    tree_.num_iterated = static_cast<int>(num_iterated);
    for (std::size_t i = 0; i < tree_.layouts.size(); ++i) {
      AxisSet set = 0;
      for (std::size_t d = 0; d < tree_.layouts[i].size(); ++d) {
        Dimension& dimension = tree_.layouts[i][d];
        if (dimension.axis < 0) continue;
        const bool counts = is_iterated(i, d);
        dimension.axis = rank[static_cast<std::size_t>(dimension.axis)];
        if (counts) set |= 1u << dimension.axis;
      }
      operand_axes_.push_back(set);
    }
    if (num_iterated > kMaxRank || std::find(operand_axes_.begin(), operand_axes_.end(),
                                             tree_.iterated()) == operand_axes_.end()) {
      error(source_.name,
            fmt::format("no operand has all of {}", list_axes(values_.axes_in(tree_.iterated()))));
      for (const ast::Operand& operand : source_.operands)
        diagnostics_.note(operand.axes_range, fmt::format("`{}` has {}", operand.name,
                                                          list_axes(axes_as_written(operand))));
    }
  }

  bool follows_unranked(int axis, const std::vector<int>& rank) const {
    for (std::size_t i = 0; i < tree_.layouts.size(); ++i) {
      bool unranked_before = false;
      for (std::size_t d = 0; d < tree_.layouts[i].size(); ++d) {
        if (!is_iterated(i, d)) continue;
        const int other = tree_.layouts[i][d].axis;
        if (other == axis && unranked_before) return true;
        if (rank[static_cast<std::size_t>(other)] < 0) unranked_before = true;
      }
    }
    return false;
  }

  void report_conflict(const std::vector<int>& rank, const std::vector<bool>& iterated) {
    std::vector<std::string> names;
    for (std::size_t i = 0; i < rank.size(); ++i)
      if (iterated[i] && rank[i] < 0) names.emplace_back(axis_names_[i]);
    error(source_.name, fmt::format("operands disagree about the order of {}", list_axes(names)));
    for (const ast::Operand& operand : source_.operands)
      diagnostics_.note(operand.axes_range, fmt::format("`{}` has {}", operand.name,
                                                        list_axes(axes_as_written(operand))));
  }

  static std::vector<std::string> axes_as_written(const ast::Operand& operand) {
    std::vector<std::string> out;
    for (const ast::BracketItem& item : operand.axes) out.emplace_back(item.text);
    return out;
  }

  // Values.

  int resolve(const ast::Expr& e) {
    for (std::size_t i = 0; i < tree_.operands.size(); ++i)
      if (tree_.operands[i].name == e.text) return resolve_operand(e, i);
    if (e.has_bracket && !known_name(e.text)) return unknown_name(e.text);
    if (e.has_bracket) {
      error(e.range, fmt::format("`{}` has no fixed axis to index", e.text));
      return kFaulty;
    }
    for (std::size_t i = 0; i < tree_.scalars.size(); ++i)
      if (tree_.scalars[i].name == e.text) {
        scalar_read_[i] = true;
        Node out;
        out.op = Op::scalar;
        out.type.dtype = tree_.scalars[i].dtype;
        out.index = static_cast<int>(i);
        out.name = e.text;
        return values_.add(std::move(out), e.range);
      }
    if (const auto found = locals_.find(e.text); found != locals_.end()) {
      found->second.read = true;
      return found->second.value;
    }
    return unknown_name(e.text);
  }

  bool known_name(std::string_view name) const {
    return names_.count(name) > 0 || locals_.count(name) > 0;
  }

  int unknown_name(std::string_view at) {
    if (std::find(tree_.axes.begin(), tree_.axes.end(), at) != tree_.axes.end()) {
      error(at, fmt::format("`{}` is an axis, not a value", at));
      return kFaulty;
    }
    if (is_builtin(at) || library_.find_let(at) || library_.find_reduction(at)) {
      error(at, fmt::format("`{}` is a function: it needs arguments", at));
      return kFaulty;
    }
    std::vector<std::string> known;
    for (const OperandInfo& operand : tree_.operands) known.push_back(operand.name);
    for (const ScalarInfo& scalar : tree_.scalars) known.push_back(scalar.name);
    for (const auto& [local, _] : locals_) known.emplace_back(local);
    const std::string near = nearest_name(at, known);
    error(at, near.empty() ? fmt::format("`{}` is not declared", at)
                           : fmt::format("`{}` is not declared: did you mean `{}`?", at, near));
    return kFaulty;
  }

  /// The fixed extents of an operand, outermost first.
  std::vector<std::int64_t> fixed_extents(std::size_t operand) const {
    std::vector<std::int64_t> out;
    for (const Dimension& dimension : tree_.layouts[operand])
      if (dimension.axis < 0) out.push_back(dimension.extent);
    return out;
  }

  /// The constant indices in a bracket, one for each fixed axis; nothing after reporting a fault.
  std::optional<std::vector<std::int64_t>> picked(const std::vector<ast::BracketItem>& items,
                                                  std::string_view range, std::size_t operand) {
    const std::string& name = tree_.operands[operand].name;
    const std::vector<std::int64_t> fixed = fixed_extents(operand);
    if (items.size() != fixed.size()) {
      error(range,
            fixed.empty()
                ? fmt::format("`{}` has no fixed axis to index: named axes match by name", name)
                : fmt::format("`{}` has {} fixed {}: index {} with whole numbers, as in {}[{}]",
                              name, fixed.size(), fixed.size() == 1 ? "axis" : "axes",
                              fixed.size() == 1 ? "it" : "them", name,
                              fmt::join(std::vector<int>(fixed.size(), 0), ", ")));
      return std::nullopt;
    }
    std::vector<std::int64_t> out;
    for (std::size_t i = 0; i < fixed.size(); ++i) {
      const ast::BracketItem& item = items[i];
      if (!item.is_number || item.number != std::floor(item.number) ||
          item.number >= static_cast<double>(fixed[i])) {
        error(item.text, fmt::format("an index of `{}` here is a whole number from 0 to {}", name,
                                     fixed[i] - 1));
        return std::nullopt;
      }
      out.push_back(static_cast<std::int64_t>(item.number));
    }
    return out;
  }

  int resolve_operand(const ast::Expr& e, std::size_t index) {
    const OperandInfo& info = tree_.operands[index];
    OperandState& state = states_[index];
    std::vector<ast::BracketItem> constants, gathers;
    for (const ast::BracketItem& item : e.bracket)
      (item.value >= 0 ? gathers : constants).push_back(item);
    const auto places = picked(constants, e.range, index);
    if (!places) return kFaulty;
    if (!gathers.empty() && info.role != OperandInfo::Role::in) {
      error(e.range, fmt::format("`{}` is written, so it cannot be gathered from", info.name));
      return kFaulty;
    }
    if (const auto assigned = state.values.find(*places); assigned != state.values.end())
      return assigned->second;
    if (info.role == OperandInfo::Role::out) {
      error(e.range, fmt::format("`{}` is an output and has no value yet", info.name));
      return kFaulty;
    }
    state.read = true;
    Node out;
    out.op = Op::load;
    out.type = tree_.operand_types[index];
    out.index = static_cast<int>(index);
    out.name = info.name;
    out.picked = *places;
    return add_gathers(std::move(out), gathers, e, index);
  }

  int add_gathers(Node out, const std::vector<ast::BracketItem>& gathers, const ast::Expr& e,
                  std::size_t operand) {
    const auto& layout = tree_.layouts[operand];
    std::map<std::size_t, int> indices;  // by dimension
    for (const ast::BracketItem& item : gathers) {
      std::size_t d = 0;
      while (d < layout.size() &&
             !(layout[d].axis >= 0 &&
               tree_.axes[static_cast<std::size_t>(layout[d].axis)] == item.text))
        ++d;
      if (d == layout.size()) {
        error(item.text, fmt::format("`{}` has no axis {}", e.text, item.text));
        return kFaulty;
      }
      if (indices.count(d)) {
        error(item.text, fmt::format("axis {} is indexed twice", item.text));
        return kFaulty;
      }
      const int value = values_.evaluate_i32(source_.exprs, item.value);
      if (value == kFaulty) return kFaulty;
      indices[d] = value;
    }
    if (indices.size() > out.args.size()) {
      error(e.range, fmt::format("at most {} axes can be indexed at once", out.args.size()));
      return kFaulty;
    }
    std::size_t arg = 0;
    for (const auto& [d, value] : indices) {
      out.gathered |= 1u << d;
      out.args[arg++] = value;
      out.axes |= node(value).axes;
    }
    for (std::size_t d = 0; d < layout.size(); ++d)
      if (layout[d].axis >= 0 && !indices.count(d)) out.axes |= 1u << layout[d].axis;
    return values_.add(std::move(out), e.range);
  }

  // Statements.

  void check(const ast::Statement& statement) {
    const int value = values_.evaluate(source_.exprs, statement.value);
    for (std::size_t i = 0; i < tree_.operands.size(); ++i)
      if (tree_.operands[i].name == statement.target) return assign(statement, i, value);
    if (!statement.bracket.empty())
      return error(statement.target_range,
                   fmt::format("`{}` is no operand, so it has no fixed axis", statement.target));
    if (const auto found = locals_.find(statement.target); found != locals_.end()) {
      error(statement.target,
            fmt::format("`{}` already has a value: choose another name", statement.target));
      diagnostics_.note(found->second.where, "it was introduced here");
      return;
    }
    if (!claim_name(statement.target)) return;
    if (std::find(tree_.axes.begin(), tree_.axes.end(), statement.target) != tree_.axes.end())
      return error(statement.target, fmt::format("`{}` is the name of an axis", statement.target));
    locals_[statement.target] = {value, statement.target, false};
    if (value != kFaulty && tree_.nodes[static_cast<std::size_t>(value)].name.empty())
      tree_.nodes[static_cast<std::size_t>(value)].name = statement.target;
  }

  void assign(const ast::Statement& statement, std::size_t index, int value) {
    const OperandInfo& info = tree_.operands[index];
    OperandState& state = states_[index];
    if (info.role == OperandInfo::Role::in)
      return error(statement.target,
                   fmt::format("`{}` is an input: declare it `inout` to overwrite it", info.name));
    const auto places = picked(statement.bracket, statement.target_range, index);
    if (!places) return;
    const auto [known, fresh] = state.values.emplace(*places, value);
    if (!fresh)
      return error(statement.target_range,
                   fmt::format("`{}` is assigned twice", statement.target_range));
    if (value == kFaulty) return;
    const ast::Expr& e = expr_at(statement.value);
    if (!(node(value).type == tree_.operand_types[index])) {
      const std::string wanted = spell(tree_.operand_types[index]);
      error(e.range,
            node(value).type.dtype == DType::boolean
                ? fmt::format("`{}` is {} but the value is a comparison: use select", info.name,
                              wanted)
                : fmt::format("`{}` is {} but the value is {}: write {} = {}(...)", info.name,
                              wanted, spell(node(value).type), statement.target_range, wanted));
      known->second = kFaulty;
      return;
    }
    if ((node(value).axes & ~operand_axes_[index]) != 0) {
      error(e.range, fmt::format("`{}` has {}, but the value has {}", info.name,
                                 list_axes(values_.axes_in(operand_axes_[index])),
                                 list_axes(values_.axes_in(node(value).axes))));
      return;
    }
    tree_.stores.push_back({static_cast<int>(index), value, *places});
  }

  /// A place of the operand's fixed axes that nothing was assigned to, as it would be written.
  std::optional<std::string> unassigned(std::size_t operand) const {
    const std::vector<std::int64_t> extents = fixed_extents(operand);
    std::vector<std::int64_t> places(extents.size(), 0);
    for (;;) {
      if (!states_[operand].values.contains(places))
        return places.empty()
                   ? tree_.operands[operand].name
                   : fmt::format("{}[{}]", tree_.operands[operand].name, fmt::join(places, ", "));
      std::size_t i = places.size();
      while (i > 0 && ++places[i - 1] == extents[i - 1]) places[--i] = 0;
      if (i == 0) return std::nullopt;
    }
  }

  void check_use() {
    bool any_written = false;
    for (std::size_t i = 0; i < tree_.operands.size(); ++i) {
      const OperandInfo& info = tree_.operands[i];
      const std::string_view where = source_.operands[i].name;
      const bool written = info.role != OperandInfo::Role::in;
      any_written = any_written || written;
      const auto missing = written ? unassigned(i) : std::nullopt;
      if (missing)
        error(where, fmt::format("`{}` is never assigned", *missing));
      else if (info.role == OperandInfo::Role::in && !states_[i].read)
        error(where, fmt::format("`{}` is never used", info.name));
      else if (info.role == OperandInfo::Role::inout && !states_[i].read)
        error(where, fmt::format("`{}` is overwritten without being read: declare it as an output",
                                 info.name));
    }
    if (!any_written) error(source_.name, "this kernel writes nothing: it needs an output");
    for (std::size_t i = 0; i < tree_.scalars.size(); ++i)
      if (!scalar_read_[i])
        error(source_.scalars[i].name, fmt::format("`{}` is never used", tree_.scalars[i].name));
    for (const auto& [local, state] : locals_)
      if (!state.read) error(state.where, fmt::format("`{}` is never used", local));
  }

  const ast::Kernel& source_;
  const Library& library_;
  Diagnostics& diagnostics_;
  Tree tree_;
  Values values_;
  bool faulty_ = false;
  std::set<std::string_view> names_;  // of operands, scalars and locals
  std::vector<std::string_view> axis_names_;
  std::vector<AxisSet> operand_axes_;    // that each operand is iterated along
  std::vector<std::uint32_t> gathered_;  // of each operand: dimensions that are only gathered along
  std::vector<OperandState> states_;
  std::vector<bool> scalar_read_;
  std::map<std::string_view, Local> locals_;
};

}  // namespace

std::shared_ptr<const Tree> check_kernel(const ast::Kernel& kernel, const Library& library,
                                         Diagnostics& diagnostics) {
  return Checker(kernel, library, diagnostics).run();
}

}  // namespace quern::dsl
