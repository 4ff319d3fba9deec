#include "compiler/dsl_check.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <optional>
#include <set>
#include <tuple>

namespace quern::dsl {
namespace {

constexpr std::size_t kMaxOperands = 64;
constexpr std::size_t kMaxNodes = 4000;
constexpr double kMaxFixedExtent = 1 << 20;
constexpr int kFaulty = -1;  // a value whose fault has been reported

constexpr DType kOperandDTypes[] = {DType::f32, DType::f16, DType::bf16,
                                    DType::i32, DType::i8,  DType::u8};

struct Function {
  std::string_view name;
  Op op;
  std::size_t num_args;
};
constexpr Function kFunctions[] = {
    {"abs", Op::abs, 1},       {"sqrt", Op::sqrt, 1}, {"rsqrt", Op::rsqrt, 1},
    {"exp", Op::exp, 1},       {"log", Op::log, 1},   {"tanh", Op::tanh, 1},
    {"erf", Op::erf, 1},       {"sin", Op::sin, 1},   {"cos", Op::cos, 1},
    {"min", Op::min, 2},       {"max", Op::max, 2},   {"sigmoid", Op::sigmoid, 1},
    {"select", Op::select, 3},
};
constexpr Function kReductions[] = {
    {"sum", Op::reduce_sum, 1},
    {"mean", Op::reduce_mean, 1},
    {"min", Op::reduce_min, 1},
    {"max", Op::reduce_max, 1},
};
constexpr Function kOperators[] = {
    {"+", Op::add, 2},        {"-", Op::subtract, 2},       {"*", Op::multiply, 2},
    {"/", Op::divide, 2},     {"<", Op::less, 2},           {"<=", Op::less_equal, 2},
    {">", Op::greater, 2},    {">=", Op::greater_equal, 2}, {"==", Op::equal, 2},
    {"!=", Op::not_equal, 2},
};

template <std::size_t N>
const Function* find(const Function (&table)[N], std::string_view name) {
  for (const Function& function : table)
    if (function.name == name) return &function;
  return nullptr;
}

bool is_capitalised(std::string_view name) { return name[0] >= 'A' && name[0] <= 'Z'; }

std::string list(const std::vector<std::string>& names) {
  return names.empty()
             ? "no axes"
             : fmt::format("{} {}", names.size() == 1 ? "axis" : "axes", fmt::join(names, ", "));
}

class Checker {
 public:
  Checker(const ast::Kernel& source, Diagnostics& diagnostics)
      : source_(source), diagnostics_(diagnostics) {}

  std::shared_ptr<const Tree> run() {
    tree_.name = source_.name;
    if (source_.operands.size() + source_.scalars.size() > kMaxOperands) {
      error(source_.name, fmt::format("a kernel has at most {} parameters", kMaxOperands));
      return nullptr;
    }
    for (const ast::Operand& operand : source_.operands) declare(operand);
    for (const ast::Scalar& scalar : source_.scalars) declare(scalar);
    if (faulty_) return nullptr;
    order_axes();
    if (faulty_) return nullptr;
    for (const ast::Statement& statement : source_.statements) {
      check(statement);
      if (tree_.nodes.size() > kMaxNodes) {
        error(statement.target, "this kernel is too large: split it");
        return nullptr;
      }
    }
    check_use();
    if (faulty_) return nullptr;
    return std::make_shared<Tree>(std::move(tree_));
  }

 private:
  struct Local {
    int value = kFaulty;
    std::string_view where;
    bool read = false;
  };
  struct OperandState {
    int value = kFaulty;  // what its name now stands for, once assigned
    bool assigned = false, read = false;
  };

  void error(std::string_view at, const std::string& sentence) {
    faulty_ = true;
    diagnostics_.error(at, sentence);
  }

  const ast::Expr& expr_at(int number) const {
    return source_.exprs[static_cast<std::size_t>(number)];
  }
  const Node& node(int number) const { return tree_.nodes[static_cast<std::size_t>(number)]; }

  // Declarations.

  bool claim_name(std::string_view name) {
    if (find(kFunctions, name) || find(kReductions, name))
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
    for (const ast::BracketItem& item : operand.axes) {
      Dimension dimension;
      if (item.is_number) {
        if (item.number != std::floor(item.number) || item.number < 1 ||
            item.number > kMaxFixedExtent)
          error(item.text, "a fixed extent is a whole number from 1 to 1048576");
        if (operand.output || operand.inout)
          error(item.text, fmt::format("`{}` is written, so all its axes need names", info.name));
        dimension.extent = static_cast<std::int64_t>(std::clamp(item.number, 1.0, kMaxFixedExtent));
        info.axes.push_back(std::to_string(dimension.extent));
      } else {
        if (!seen.insert(item.text).second)
          error(item.text, fmt::format("`{}` has axis {} twice", info.name, item.text));
        const auto found = std::find(axis_names_.begin(), axis_names_.end(), item.text);
        dimension.axis = static_cast<int>(found - axis_names_.begin());
        if (found == axis_names_.end()) axis_names_.push_back(item.text);
        info.axes.emplace_back(item.text);
      }
      layout.push_back(dimension);
    }
    if (seen.size() > kMaxRank)
      error(operand.axes_range, fmt::format("an operand has at most {} named axes", kMaxRank));
    tree_.operands.push_back(std::move(info));
    tree_.operand_types.push_back(type);
    tree_.layouts.push_back(std::move(layout));
    states_.emplace_back();
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
    std::vector<std::string> known;
    for (const DType dtype : kOperandDTypes) known.emplace_back(quern::name(dtype));
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

  /// Numbers the axes so that every operand has them in the same order; ties go by appearance.
  void order_axes() {
    const std::size_t count = axis_names_.size();
    for (const std::string_view axis : axis_names_)
      if (names_.count(axis))
        error(axis, fmt::format("`{}` is also the name of a parameter", axis));
    if (count == 0) return error(source_.name, "no operand has a named axis");
    std::vector<int> rank(count, -1);
    std::vector<int> order;
    while (order.size() < count) {
      std::optional<std::size_t> next;
      for (std::size_t axis = 0; axis < count && !next; ++axis)
        if (rank[axis] < 0 && !follows_unranked(static_cast<int>(axis), rank)) next = axis;
      if (!next) return report_conflict(rank);
      rank[*next] = static_cast<int>(order.size());
      order.push_back(static_cast<int>(*next));
    }
    for (const int axis : order)
      tree_.axes.emplace_back(axis_names_[static_cast<std::size_t>(axis)]);
    for (auto& layout : tree_.layouts) {
      AxisSet set = 0;
      for (Dimension& dimension : layout)
        if (dimension.axis >= 0) {
          dimension.axis = rank[static_cast<std::size_t>(dimension.axis)];
          set |= 1u << dimension.axis;
        }
      operand_axes_.push_back(set);
    }
    const AxisSet all = (1u << count) - 1;
    if (count > kMaxRank ||
        std::find(operand_axes_.begin(), operand_axes_.end(), all) == operand_axes_.end()) {
      error(source_.name, fmt::format("no operand has all of {}", list(tree_.axes)));
      for (const ast::Operand& operand : source_.operands)
        diagnostics_.note(operand.axes_range,
                          fmt::format("`{}` has {}", operand.name, list(axes_as_written(operand))));
      return;
    }
    // Every row is computed on its own, so what is written must belong to one row.
    const AxisSet leading = all & ~(1u << tree_.last_axis());
    for (std::size_t i = 0; i < operand_axes_.size(); ++i)
      if (tree_.operands[i].role != OperandInfo::Role::in && (leading & ~operand_axes_[i]) != 0)
        error(source_.operands[i].axes_range,
              fmt::format("`{}` is written for each of {}, so it must have {}",
                          tree_.operands[i].name, names_of(leading),
                          list(axes_in(leading & ~operand_axes_[i]))));
  }

  bool follows_unranked(int axis, const std::vector<int>& rank) const {
    for (const auto& layout : tree_.layouts) {
      bool unranked_before = false;
      for (const Dimension& dimension : layout) {
        if (dimension.axis == axis && unranked_before) return true;
        if (dimension.axis >= 0 && rank[static_cast<std::size_t>(dimension.axis)] < 0)
          unranked_before = true;
      }
    }
    return false;
  }

  void report_conflict(const std::vector<int>& rank) {
    std::vector<std::string> names;
    for (std::size_t i = 0; i < rank.size(); ++i)
      if (rank[i] < 0) names.emplace_back(axis_names_[i]);
    error(source_.name, fmt::format("operands disagree about the order of {}", list(names)));
    for (const ast::Operand& operand : source_.operands)
      diagnostics_.note(operand.axes_range,
                        fmt::format("`{}` has {}", operand.name, list(axes_as_written(operand))));
  }

  static std::vector<std::string> axes_as_written(const ast::Operand& operand) {
    std::vector<std::string> out;
    for (const ast::BracketItem& item : operand.axes) out.emplace_back(item.text);
    return out;
  }

  std::vector<std::string> axes_in(AxisSet set) const {
    std::vector<std::string> out;
    for (std::size_t i = 0; i < tree_.axes.size(); ++i)
      if ((set >> i) & 1u) out.push_back(tree_.axes[i]);
    return out;
  }
  std::string names_of(AxisSet set) const {
    return fmt::format("{}", fmt::join(axes_in(set), ", "));
  }

  // Values.

  std::string spell(const Type& type) const {
    if (type.param >= 0) return tree_.dtype_params[static_cast<std::size_t>(type.param)];
    return std::string(quern::name(type.dtype));
  }

  /// "`x` has axes rows, cols" or "this has no axes".
  std::string describe(const ast::Expr& e, int value) const {
    const std::string who =
        e.kind == ast::Expr::Kind::name ? fmt::format("`{}`", e.text) : std::string("this");
    return fmt::format("{} has {}", who, list(axes_in(node(value).axes)));
  }

  int add(Node wanted) {
    const auto key =
        std::tuple{wanted.op,     wanted.type.dtype, wanted.type.param,
                   wanted.args,   wanted.index,      std::bit_cast<std::uint32_t>(wanted.value),
                   wanted.picked, wanted.reduced};
    const auto [found, fresh] = known_.emplace(key, static_cast<int>(tree_.nodes.size()));
    if (fresh) tree_.nodes.push_back(std::move(wanted));
    return found->second;
  }

  int add(Op op, Type type, const std::vector<int>& args) {
    Node out;
    out.op = op;
    out.type = type;
    for (std::size_t i = 0; i < args.size(); ++i) {
      out.args[i] = args[i];
      out.axes |= node(args[i]).axes;
    }
    return add(std::move(out));
  }

  int evaluate(int number) {
    const ast::Expr& e = expr_at(number);
    switch (e.kind) {
      case ast::Expr::Kind::number: {
        Node out;
        out.value = static_cast<float>(e.number);
        return add(std::move(out));
      }
      case ast::Expr::Kind::name:
        return evaluate_name(e);
      case ast::Expr::Kind::unary: {
        const int arg = f32_value(e.args[0]);
        return arg == kFaulty ? kFaulty : add(Op::negate, Type{}, {arg});
      }
      case ast::Expr::Kind::binary: {
        const Function& function = *find(kOperators, e.text);
        return apply(function, e);
      }
      case ast::Expr::Kind::call:
        return evaluate_call(e);
    }
    return kFaulty;
  }

  /// Evaluates an operand of arithmetic, which is f32 throughout.
  int f32_value(int number) {
    const int value = evaluate(number);
    if (value == kFaulty || node(value).type == Type{}) return value;
    const ast::Expr& e = expr_at(number);
    if (node(value).type.dtype == DType::boolean)
      error(e.range, "a comparison is no number: choose between two with select(condition, a, b)");
    else if (e.kind == ast::Expr::Kind::name)
      error(e.range, fmt::format("`{}` is {} and arithmetic is in f32: write f32({})", e.text,
                                 spell(node(value).type), e.range));
    else
      error(e.range, fmt::format("this is {} and arithmetic is in f32: cast it with f32(...)",
                                 spell(node(value).type)));
    return kFaulty;
  }

  int evaluate_name(const ast::Expr& e) {
    for (std::size_t i = 0; i < tree_.operands.size(); ++i)
      if (tree_.operands[i].name == e.text) return evaluate_operand(e, i);
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
        return add(std::move(out));
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
    if (find(kFunctions, at) || find(kReductions, at)) {
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

  int evaluate_operand(const ast::Expr& e, std::size_t index) {
    const OperandInfo& info = tree_.operands[index];
    OperandState& state = states_[index];
    if (state.assigned) {
      if (e.has_bracket)
        return error(e.range, fmt::format("`{}` has no fixed axis to index", info.name)), kFaulty;
      return state.value;
    }
    if (info.role == OperandInfo::Role::out) {
      error(e.range, fmt::format("`{}` is an output and has no value yet", info.name));
      return kFaulty;
    }
    state.read = true;
    Node out;
    out.op = Op::load;
    out.type = tree_.operand_types[index];
    out.axes = operand_axes_[index];
    out.index = static_cast<int>(index);
    out.name = info.name;
    std::vector<std::int64_t> fixed;
    for (const Dimension& dimension : tree_.layouts[index])
      if (dimension.axis < 0) fixed.push_back(dimension.extent);
    if (e.bracket.size() != fixed.size()) {
      error(
          e.range,
          fixed.empty()
              ? fmt::format("`{}` has no fixed axis to index: named axes match by name", info.name)
              : fmt::format("`{}` has {} fixed {}: index {} with whole numbers, as in {}[{}]",
                            info.name, fixed.size(), fixed.size() == 1 ? "axis" : "axes",
                            fixed.size() == 1 ? "it" : "them", info.name,
                            fmt::join(std::vector<int>(fixed.size(), 0), ", ")));
      return kFaulty;
    }
    for (std::size_t i = 0; i < fixed.size(); ++i) {
      const ast::BracketItem& item = e.bracket[i];
      if (!item.is_number || item.number != std::floor(item.number) ||
          item.number >= static_cast<double>(fixed[i])) {
        error(item.text, fmt::format("an index of `{}` here is a whole number from 0 to {}",
                                     info.name, fixed[i] - 1));
        return kFaulty;
      }
      out.picked.push_back(static_cast<std::int64_t>(item.number));
    }
    return add(std::move(out));
  }

  int evaluate_call(const ast::Expr& e) {
    if (e.has_bracket) return evaluate_reduction(e);
    if (const Function* function = find(kFunctions, e.text)) return apply(*function, e);
    if (const auto type = cast_type(e.text)) return evaluate_cast(e, *type);
    if (find(kReductions, e.text)) {
      error(e.text,
            fmt::format("say which axis to reduce, as in {}[{}](...)", e.text, tree_.axes.back()));
      return kFaulty;
    }
    if (known_name(e.text)) {
      error(e.text, fmt::format("`{}` is not a function", e.text));
      return kFaulty;
    }
    if (is_capitalised(e.text) || parse_dtype(e.text)) {
      error(e.text, is_capitalised(e.text)
                        ? fmt::format("no operand has dtype `{}`", e.text)
                        : fmt::format("values cannot be cast to {} in kernels", e.text));
      return kFaulty;
    }
    std::vector<std::string> known = tree_.dtype_params;
    for (const Function& function : kFunctions) known.emplace_back(function.name);
    for (const Function& function : kReductions) known.emplace_back(function.name);
    for (const DType dtype : kOperandDTypes) known.emplace_back(quern::name(dtype));
    const std::string near = nearest_name(e.text, known);
    error(e.text, near.empty()
                      ? fmt::format("there is no function `{}`", e.text)
                      : fmt::format("there is no function `{}`: did you mean `{}`?", e.text, near));
    return kFaulty;
  }

  std::optional<Type> cast_type(std::string_view name) const {
    for (std::size_t i = 0; i < tree_.dtype_params.size(); ++i)
      if (tree_.dtype_params[i] == name) return Type{DType::f32, static_cast<int>(i)};
    const auto dtype = parse_dtype(name);
    if (dtype && is_operand_dtype(*dtype)) return Type{*dtype, -1};
    return std::nullopt;
  }

  bool has_args(const ast::Expr& e, std::size_t wanted) {
    if (e.args.size() == wanted) return true;
    error(e.range, fmt::format("`{}` takes {} argument{}, not {}", e.text, wanted,
                               wanted == 1 ? "" : "s", e.args.size()));
    return false;
  }

  int evaluate_cast(const ast::Expr& e, Type type) {
    if (!has_args(e, 1)) return kFaulty;
    const int arg = evaluate(e.args[0]);
    if (arg == kFaulty) return kFaulty;
    if (node(arg).type == type) return arg;
    if (node(arg).type.dtype == DType::boolean) {
      error(e.range, "a comparison is no number: choose between two with select(condition, a, b)");
      return kFaulty;
    }
    return add(Op::cast, type, {arg});
  }

  int evaluate_reduction(const ast::Expr& e) {
    const Function* function = find(kReductions, e.text);
    if (!function) {
      std::vector<std::string> known;
      for (const Function& reduction : kReductions) known.emplace_back(reduction.name);
      error(e.text,
            fmt::format("there is no reduction `{}`: use {}", e.text, fmt::join(known, ", ")));
      return kFaulty;
    }
    if (!has_args(e, 1)) return kFaulty;
    const int arg = f32_value(e.args[0]);
    AxisSet reduced = 0;
    for (const ast::BracketItem& item : e.bracket) {
      const auto found = std::find(tree_.axes.begin(), tree_.axes.end(), item.text);
      if (found == tree_.axes.end()) {
        const std::string near = nearest_name(item.text, tree_.axes);
        error(item.text,
              near.empty() ? fmt::format("there is no axis {}", item.text)
                           : fmt::format("there is no axis {}: did you mean {}?", item.text, near));
        return kFaulty;
      }
      reduced |= 1u << (found - tree_.axes.begin());
    }
    if (reduced != 1u << tree_.last_axis()) {
      error(e.range, fmt::format("only the innermost axis, {}, can be reduced", tree_.axes.back()));
      return kFaulty;
    }
    if (arg == kFaulty) return kFaulty;
    if ((node(arg).axes & reduced) != reduced) {
      error(e.range, fmt::format("what is reduced over {} does not vary along it: {}",
                                 tree_.axes.back(), describe(expr_at(e.args[0]), arg)));
      return kFaulty;
    }
    Node out;
    out.op = function->op;
    out.args[0] = arg;
    out.axes = node(arg).axes & ~reduced;
    out.reduced = reduced;
    return add(std::move(out));
  }

  /// A function or operator, element by element; operands broadcast along axes that they lack.
  int apply(const Function& function, const ast::Expr& e) {
    if (!has_args(e, function.num_args)) return kFaulty;
    std::vector<int> args;
    for (std::size_t i = 0; i < e.args.size(); ++i)
      args.push_back(function.op == Op::select ? evaluate(e.args[i]) : f32_value(e.args[i]));
    if (std::find(args.begin(), args.end(), kFaulty) != args.end()) return kFaulty;
    Type type;
    if (function.op == Op::select) {
      if (node(args[0]).type.dtype != DType::boolean) {
        error(expr_at(e.args[0]).range, "the condition of select is a comparison, as in a < b");
        return kFaulty;
      }
      type = node(args[1]).type;
      if (!(type == node(args[2]).type) || type.dtype == DType::boolean) {
        error(e.range, fmt::format("select needs two values of one dtype, not {} and {}",
                                   spell(type), spell(node(args[2]).type)));
        return kFaulty;
      }
    } else if (function.op >= Op::less && function.op <= Op::not_equal) {
      type.dtype = DType::boolean;
    }
    AxisSet axes = 0;
    for (const int arg : args) axes |= node(arg).axes;
    const bool fits = axes == 0 || std::any_of(operand_axes_.begin(), operand_axes_.end(),
                                               [&](AxisSet set) { return (axes & ~set) == 0; });
    if (!fits) {
      std::string sides;
      for (std::size_t i = 0; i < args.size(); ++i)
        sides += (i ? ", " : "") + describe(expr_at(e.args[i]), args[i]);
      error(e.range, fmt::format("axes do not match: {}", sides));
      return kFaulty;
    }
    return add(function.op, type, args);
  }

  // Statements.

  void check(const ast::Statement& statement) {
    const int value = evaluate(statement.value);
    for (std::size_t i = 0; i < tree_.operands.size(); ++i)
      if (tree_.operands[i].name == statement.target) return assign(statement, i, value);
    if (const auto found = locals_.find(statement.target); found != locals_.end()) {
      error(statement.target,
            fmt::format("`{}` already has a value: choose another name", statement.target));
      diagnostics_.note(found->second.where, "it was introduced here");
      return;
    }
    if (!claim_name(statement.target)) {
      return;
    }
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
    if (state.assigned)
      return error(statement.target, fmt::format("`{}` is assigned twice", info.name));
    state.assigned = true;
    state.value = value;
    if (value == kFaulty) return;
    const ast::Expr& e = expr_at(statement.value);
    if (!(node(value).type == tree_.operand_types[index])) {
      const std::string wanted = spell(tree_.operand_types[index]);
      error(e.range,
            node(value).type.dtype == DType::boolean
                ? fmt::format("`{}` is {} but the value is a comparison: use select", info.name,
                              wanted)
                : fmt::format("`{}` is {} but the value is {}: write {} = {}(...)", info.name,
                              wanted, spell(node(value).type), info.name, wanted));
      state.value = kFaulty;
      return;
    }
    if ((node(value).axes & ~operand_axes_[index]) != 0) {
      error(e.range,
            fmt::format("`{}` has {}, but the value has {}", info.name,
                        list(axes_in(operand_axes_[index])), list(axes_in(node(value).axes))));
      return;
    }
    tree_.stores.push_back({static_cast<int>(index), value});
  }

  void check_use() {
    bool any_written = false;
    for (std::size_t i = 0; i < tree_.operands.size(); ++i) {
      const OperandInfo& info = tree_.operands[i];
      const std::string_view where = source_.operands[i].name;
      const bool written = info.role != OperandInfo::Role::in;
      any_written = any_written || written;
      if (written && !states_[i].assigned)
        error(where, fmt::format("`{}` is never assigned", info.name));
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
  Diagnostics& diagnostics_;
  Tree tree_;
  bool faulty_ = false;
  std::set<std::string_view> names_;  // of operands, scalars and locals
  std::vector<std::string_view> axis_names_;
  std::vector<AxisSet> operand_axes_;
  std::vector<OperandState> states_;
  std::vector<bool> scalar_read_;
  std::map<std::string_view, Local> locals_;
  std::map<std::tuple<Op, DType, int, std::array<int, 3>, int, std::uint32_t,
                      std::vector<std::int64_t>, AxisSet>,
           int>
      known_;
};

}  // namespace

std::shared_ptr<const Tree> check_kernel(const ast::Kernel& kernel, Diagnostics& diagnostics) {
  return Checker(kernel, diagnostics).run();
}

}  // namespace quern::dsl
