#include "compiler/dsl_values.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <utility>

namespace quern::dsl {
namespace {

constexpr std::size_t kMaxNodes = 4000;
constexpr std::size_t kMaxCalls = 32;  // of functions by functions

const Type kF32{};
const Type kI32{DType::i32, -1};
const Type kCondition{DType::boolean, -1};

const ast::Expr& at(const ast::Pool& pool, int number) {
  return pool[static_cast<std::size_t>(number)];
}

}  // namespace

std::string list_axes(const std::vector<std::string>& names) {
  return names.empty()
             ? "no axes"
             : fmt::format("{} {}", names.size() == 1 ? "axis" : "axes", fmt::join(names, ", "));
}

void Values::error(std::string_view at, const std::string& sentence) {
  faulty_ = true;
  diagnostics_.error(at, sentence);
  if (!calls_.empty()) diagnostics_.note(calls_.front(), "in what this stands for");
}

std::string Values::spell(const Type& type) const {
  if (type.param >= 0) return tree_.dtype_params[static_cast<std::size_t>(type.param)];
  return std::string(quern::name(type.dtype));
}

std::vector<std::string> Values::axes_in(AxisSet set) const {
  std::vector<std::string> out;
  for (std::size_t i = 0; i < tree_.axes.size(); ++i)
    if ((set >> i) & 1u) out.push_back(tree_.axes[i]);
  return out;
}

/// "`x` has axes rows, cols" or "this has no axes".
std::string Values::describe(const ast::Expr& e, int value) const {
  const std::string who =
      e.kind == ast::Expr::Kind::name ? fmt::format("`{}`", e.text) : std::string("this");
  return fmt::format("{} has {}", who, list_axes(axes_in(node(value).axes)));
}

int Values::add(Node wanted, std::string_view where) {
  const auto key =
      std::tuple{wanted.op,     wanted.type.dtype, wanted.type.param,
                 wanted.args,   wanted.index,      std::bit_cast<std::uint64_t>(wanted.value),
                 wanted.picked, wanted.gathered,   wanted.reduced};
  const auto [found, fresh] = known_.emplace(key, static_cast<int>(tree_.nodes.size()));
  if (!fresh) return found->second;
  if (tree_.nodes.size() == kMaxNodes) error(where, "this kernel is too large: split it");
  tree_.nodes.push_back(std::move(wanted));
  where_.push_back(where);
  return found->second;
}

int Values::add(Op op, Type type, const std::vector<int>& args, std::string_view where) {
  Node out;
  out.op = op;
  out.type = type;
  for (std::size_t i = 0; i < args.size(); ++i) {
    out.args[i] = args[i];
    out.axes |= node(args[i]).axes;
  }
  return add(std::move(out), where);
}

int Values::evaluate(const ast::Pool& pool, int number_in_pool) {
  const ast::Expr& e = at(pool, number_in_pool);
  if (tree_.nodes.size() > kMaxNodes) return kFaulty;
  switch (e.kind) {
    case ast::Expr::Kind::number:
      return number(e);
    case ast::Expr::Kind::name:
      return name(pool, e);
    case ast::Expr::Kind::unary:
    case ast::Expr::Kind::binary:
      return apply(*find_operator(e.text, e.kind == ast::Expr::Kind::unary), pool, e);
    case ast::Expr::Kind::call:
      return call(pool, e);
  }
  return kFaulty;
}

int Values::number(const ast::Expr& e) {
  Node out;
  out.value = static_cast<double>(static_cast<float>(e.number));
  // Kept exactly where it may turn out to be an i32.
  if (e.number == std::floor(e.number) && e.number <= std::numeric_limits<std::int32_t>::max())
    out.value = e.number;
  return add(std::move(out), e.range);
}

int Values::name(const ast::Pool& pool, const ast::Expr& e) {
  if (e.text == "inf" && !e.has_bracket) {
    Node out;
    out.value = std::numeric_limits<double>::infinity();
    return add(std::move(out), e.range);
  }
  if (!scope_) return resolve_(pool, e);
  if (const auto found = scope_->params.find(e.text); found != scope_->params.end()) {
    if (!e.has_bracket) return found->second;
    error(e.range, fmt::format("`{}` is a value of a function, which cannot be indexed", e.text));
    return kFaulty;
  }
  if (is_builtin(e.text) || library_.find_let(e.text))
    error(e.text, fmt::format("`{}` is a function: it needs arguments", e.text));
  else
    error(e.text, fmt::format("a function is made of its parameters: there is no `{}`", e.text));
  return kFaulty;
}

int Values::evaluate_f32(const ast::Pool& pool, int number_in_pool) {
  const int value = evaluate(pool, number_in_pool);
  return value == kFaulty ? kFaulty : number_of_type(value, at(pool, number_in_pool), kF32);
}

int Values::evaluate_i32(const ast::Pool& pool, int number_in_pool) {
  const int value = evaluate(pool, number_in_pool);
  if (value == kFaulty) return kFaulty;
  const ast::Expr& e = at(pool, number_in_pool);
  if (node(value).type == kI32) return value;
  if (is_whole_number(value)) return as_i32(value, e.range);
  error(e.range, node(value).type == kCondition
                     ? "a comparison is no index: choose between two with select(condition, a, b)"
                     : fmt::format("this is {} and an index is i32: cast it with i32(...)",
                                   spell(node(value).type)));
  return kFaulty;
}

bool Values::is_whole_number(int value) const {
  const Node& n = node(value);
  return n.op == Op::constant && n.type == kF32 && n.value == std::floor(n.value) &&
         std::abs(n.value) <= std::numeric_limits<std::int32_t>::max();
}

int Values::as_i32(int value, std::string_view where) {
  Node out;
  out.type = kI32;
  out.value = node(value).value;
  return add(std::move(out), where);
}

/// A value of arithmetic in this type, which is f32 or i32.
int Values::number_of_type(int value, const ast::Expr& e, const Type& wanted) {
  const Type type = node(value).type;
  if (type == wanted) return value;
  if (wanted == kI32 && is_whole_number(value)) return as_i32(value, e.range);
  if (type == kCondition)
    error(e.range, "a comparison is no number: choose between two with select(condition, a, b)");
  else if (wanted == kI32)
    error(e.range,
          fmt::format("this is {} and the other one is i32: cast one of them", spell(type)));
  else if (e.kind == ast::Expr::Kind::name)
    error(e.range, fmt::format("`{}` is {} and arithmetic is in f32: write f32({})", e.text,
                               spell(type), e.range));
  else
    error(e.range,
          fmt::format("this is {} and arithmetic is in f32: cast it with f32(...)", spell(type)));
  return kFaulty;
}

int Values::call(const ast::Pool& pool, const ast::Expr& e) {
  if (e.text == "index" || e.text == "extent") return axis_function(pool, e);
  if (const ast::Let* let = library_.find_let(e.text, scope_ ? scope_->let : nullptr))
    return call_let(*let, pool, e);
  if (e.has_bracket) return reduction(pool, e);
  if (const Function* function = find_function(e.text)) return apply(*function, pool, e);
  if (const auto type = cast_type(e.text)) return cast(pool, e, *type);
  return unknown_function(e);
}

int Values::unknown_function(const ast::Expr& e) {
  if (find_reduction(e.text) || library_.find_reduction(e.text)) {
    error(e.text, fmt::format("say which axis to reduce, as in {}[{}](...)", e.text,
                              tree_.num_iterated > 0
                                  ? tree_.axes[static_cast<std::size_t>(tree_.last_axis())]
                                  : "cols"));
    return kFaulty;
  }
  if (library_.find_let(e.text)) {
    error(e.text,
          fmt::format("`{}` is defined further down: a function is made of earlier ones", e.text));
    return kFaulty;
  }
  if (is_capitalised(e.text) || parse_dtype(e.text)) {
    error(e.text, is_capitalised(e.text)
                      ? fmt::format("no operand has dtype `{}`", e.text)
                      : fmt::format("values cannot be cast to {} in kernels", e.text));
    return kFaulty;
  }
  const auto is_called_so = [&](const auto& declared) { return declared.name == e.text; };
  if (std::any_of(tree_.operands.begin(), tree_.operands.end(), is_called_so) ||
      std::any_of(tree_.scalars.begin(), tree_.scalars.end(), is_called_so)) {
    error(e.text, fmt::format("`{}` is not a function", e.text));
    return kFaulty;
  }
  std::vector<std::string> known = tree_.dtype_params;
  for (const auto& names : {function_names(), reduction_names(), operand_dtype_names(),
                            library_.let_names(), library_.reduction_names()})
    known.insert(known.end(), names.begin(), names.end());
  const std::string near = nearest_name(e.text, known);
  error(e.text, near.empty()
                    ? fmt::format("there is no function `{}`", e.text)
                    : fmt::format("there is no function `{}`: did you mean `{}`?", e.text, near));
  return kFaulty;
}

int Values::call_let(const ast::Let& let, const ast::Pool& pool, const ast::Expr& e) {
  if (!has_args(e, let.params.size())) return kFaulty;
  if (e.bracket.size() != let.axes.size()) {
    error(e.range, let.axes.empty()
                       ? fmt::format("`{}` takes no axes", let.name)
                       : fmt::format("`{}` takes {} {}, not {}: write {}[{}](...)", let.name,
                                     let.axes.size(), let.axes.size() == 1 ? "axis" : "axes",
                                     e.bracket.size(), let.name, fmt::join(let.axes, ", ")));
    return kFaulty;
  }
  if (calls_.size() == kMaxCalls) {
    error(e.range, "functions are nested too deeply");
    return kFaulty;
  }
  Scope scope{&let, {}, {}};
  std::vector<int> args, axes;
  for (std::size_t i = 0; i < e.args.size(); ++i) {
    args.push_back(evaluate(pool, e.args[i]));
    if (args.back() == kFaulty) return kFaulty;
    scope.params[let.params[i]] = args.back();
  }
  for (std::size_t i = 0; i < e.bracket.size(); ++i) {
    if (e.bracket[i].value >= 0) {
      error(e.bracket[i].text, "a function takes the names of axes alone");
      return kFaulty;
    }
    const auto axis = find_axis(e.bracket[i].text);
    if (!axis) return kFaulty;
    axes.push_back(*axis);
    scope.axes[let.axes[i]] = *axis;
  }
  const auto [found, fresh] = expanded_.emplace(std::tuple{&let, args, axes}, kFaulty);
  if (!fresh) return found->second;  // or reported already
  const Scope* outer = std::exchange(scope_, &scope);
  calls_.push_back(e.range);
  const int value = evaluate(let.exprs, let.value);
  calls_.pop_back();
  scope_ = outer;
  return found->second = value;
}

std::optional<Type> Values::cast_type(std::string_view name) const {
  for (std::size_t i = 0; i < tree_.dtype_params.size(); ++i)
    if (tree_.dtype_params[i] == name) return Type{DType::f32, static_cast<int>(i)};
  const auto dtype = parse_dtype(name);
  if (dtype && is_operand_dtype(*dtype)) return Type{*dtype, -1};
  return std::nullopt;
}

bool Values::has_args(const ast::Expr& e, std::size_t wanted) {
  if (e.args.size() == wanted) return true;
  error(e.range, fmt::format("`{}` takes {} argument{}, not {}", e.text, wanted,
                             wanted == 1 ? "" : "s", e.args.size()));
  return false;
}

int Values::cast(const ast::Pool& pool, const ast::Expr& e, Type type) {
  if (!has_args(e, 1)) return kFaulty;
  const int arg = evaluate(pool, e.args[0]);
  if (arg == kFaulty) return kFaulty;
  if (node(arg).type == type) return arg;
  if (node(arg).type == kCondition) {
    error(e.range, "a comparison is no number: choose between two with select(condition, a, b)");
    return kFaulty;
  }
  if (type == kI32 && is_whole_number(arg)) return as_i32(arg, e.range);
  return add(Op::cast, type, {arg}, e.range);
}

std::optional<int> Values::find_axis(std::string_view name) {
  if (scope_) {
    if (const auto found = scope_->axes.find(name); found != scope_->axes.end())
      return found->second;
    error(name, fmt::format("a function knows its own axes alone: write let {}[{}](...)",
                            scope_->let->name, name));
    return std::nullopt;
  }
  const auto end = tree_.axes.begin() + tree_.num_iterated;
  const auto found = std::find(tree_.axes.begin(), end, name);
  if (found != end) return static_cast<int>(found - tree_.axes.begin());
  if (std::find(end, tree_.axes.end(), name) != tree_.axes.end()) {
    error(name, fmt::format("axis {} is only gathered along, so nothing varies along it", name));
    return std::nullopt;
  }
  const std::string near = nearest_name(name, tree_.axes);
  error(name, near.empty() ? fmt::format("there is no axis {}", name)
                           : fmt::format("there is no axis {}: did you mean {}?", name, near));
  return std::nullopt;
}

std::optional<AxisSet> Values::bracket_axes(const ast::Expr& e) {
  AxisSet out = 0;
  for (const ast::BracketItem& item : e.bracket) {
    if (item.is_number || item.value >= 0) {
      error(item.text, fmt::format("`{}` takes the names of axes between brackets", e.text));
      return std::nullopt;
    }
    const auto axis = find_axis(item.text);
    if (!axis) return std::nullopt;
    if ((out >> *axis) & 1u) {
      error(item.text, fmt::format("axis {} is named twice", item.text));
      return std::nullopt;
    }
    out |= 1u << *axis;
  }
  return out;
}

int Values::axis_function(const ast::Pool& pool, const ast::Expr& e) {
  if (!has_args(e, 1)) return kFaulty;
  const ast::Expr& arg = at(pool, e.args[0]);
  if (e.has_bracket || arg.kind != ast::Expr::Kind::name || arg.has_bracket) {
    error(e.range, fmt::format("`{0}` takes the name of an axis, as in {0}(cols)", e.text));
    return kFaulty;
  }
  Node out;
  out.type = kI32;
  if (e.text == "extent" && !scope_) {  // of a gathered axis too
    const auto found = std::find(tree_.axes.begin(), tree_.axes.end(), arg.text);
    if (found != tree_.axes.end()) {
      out.op = Op::extent;
      out.index = static_cast<int>(found - tree_.axes.begin());
      return add(std::move(out), e.range);
    }
  }
  const auto axis = find_axis(arg.text);
  if (!axis) return kFaulty;
  out.index = *axis;
  out.op = e.text == "index" ? Op::index : Op::extent;
  if (out.op == Op::index) out.axes = 1u << *axis;
  return add(std::move(out), e.range);
}

int Values::reduction(const ast::Pool& pool, const ast::Expr& e) {
  const Function* function = find_reduction(e.text);
  const Combine* combine = function ? nullptr : library_.find_reduction(e.text);
  if (!function && !combine) {
    if (find_function(e.text) || cast_type(e.text)) {
      error(e.range, fmt::format("`{}` takes no axes", e.text));
      return kFaulty;
    }
    std::vector<std::string> known = reduction_names();
    for (const std::string& own : library_.reduction_names()) known.push_back(own);
    error(e.text,
          fmt::format("there is no reduction `{}`: use {}", e.text, fmt::join(known, ", ")));
    return kFaulty;
  }
  if (!has_args(e, 1)) return kFaulty;
  const int arg = evaluate_f32(pool, e.args[0]);
  const auto reduced = bracket_axes(e);
  if (arg == kFaulty || !reduced) return kFaulty;
  const AxisSet missing = *reduced & ~node(arg).axes;
  if (missing != 0) {
    error(e.range, fmt::format("what is reduced over {} does not vary along {}: {}",
                               fmt::join(axes_in(*reduced), ", "),
                               missing == *reduced && axes_in(missing).size() == 1
                                   ? std::string("it")
                                   : fmt::format("{}", fmt::join(axes_in(missing), ", ")),
                               describe(at(pool, e.args[0]), arg)));
    return kFaulty;
  }
  Node out;
  out.args[0] = arg;
  out.axes = node(arg).axes & ~*reduced;
  out.reduced = *reduced;
  if (function) {
    out.op = function->op;
    if (out.op == Op::reduce_argmin || out.op == Op::reduce_argmax) out.type = kI32;
  } else {
    out.op = Op::reduce_custom;
    const auto found = std::find_if(tree_.combines.begin(), tree_.combines.end(),
                                    [&](const Combine& known) { return known.name == e.text; });
    out.index = static_cast<int>(found - tree_.combines.begin());
    if (found == tree_.combines.end()) tree_.combines.push_back(*combine);
  }
  return add(std::move(out), e.range);
}

/// A function or operator, element by element; operands broadcast along axes that they lack.
int Values::apply(const Function& function, const ast::Pool& pool, const ast::Expr& e) {
  if (!has_args(e, function.num_args)) return kFaulty;
  std::vector<int> args;
  for (const int arg : e.args) args.push_back(evaluate(pool, arg));
  if (std::find(args.begin(), args.end(), kFaulty) != args.end()) return kFaulty;
  const auto all_of_type = [&](const Type& type, std::size_t first) {
    for (std::size_t i = first; i < args.size(); ++i)
      args[i] = number_of_type(args[i], at(pool, e.args[i]), type);
    return std::find(args.begin(), args.end(), kFaulty) == args.end();
  };
  const auto any_i32 = [&](std::size_t first) {
    return std::any_of(args.begin() + static_cast<long>(first), args.end(),
                       [&](int arg) { return node(arg).type == kI32; });
  };
  const auto may_be_i32 = [&](std::size_t first) {
    return any_i32(first) &&
           std::all_of(args.begin() + static_cast<long>(first), args.end(),
                       [&](int arg) { return node(arg).type == kI32 || is_whole_number(arg); });
  };
  Type type;
  switch (function.domain) {
    case Domain::floating:
      if (!all_of_type(kF32, 0)) return kFaulty;
      break;
    case Domain::number:
      type = function.op == Op::modulo || may_be_i32(0) ? kI32 : kF32;
      if (function.op == Op::modulo && !any_i32(0) &&
          std::any_of(args.begin(), args.end(), [&](int arg) { return !is_whole_number(arg); })) {
        error(e.range, "% is of i32 values");
        return kFaulty;
      }
      if (!all_of_type(type, 0)) return kFaulty;
      break;
    case Domain::condition:
      for (std::size_t i = 0; i < args.size(); ++i)
        if (!(node(args[i]).type == kCondition)) {
          error(at(pool, e.args[i]).range,
                fmt::format("{} joins comparisons, as in a < b {} c < d", e.text, e.text));
          return kFaulty;
        }
      type = kCondition;
      break;
    case Domain::choice:
      if (!(node(args[0]).type == kCondition)) {
        error(at(pool, e.args[0]).range, "the condition of select is a comparison, as in a < b");
        return kFaulty;
      }
      if (may_be_i32(1) && !all_of_type(kI32, 1)) return kFaulty;
      type = node(args[1]).type;
      if (!(type == node(args[2]).type) || type == kCondition) {
        error(e.range, fmt::format("select needs two values of one dtype, not {} and {}",
                                   spell(type), spell(node(args[2]).type)));
        return kFaulty;
      }
      break;
  }
  if (function.op >= Op::less && function.op <= Op::not_equal) type = kCondition;
  if (function.op == Op::negate && node(args[0]).op == Op::constant) {
    Node out = node(args[0]);
    out.value = -out.value;
    return add(std::move(out), e.range);
  }
  return add(function.op, type, args, e.range);
}

}  // namespace quern::dsl
