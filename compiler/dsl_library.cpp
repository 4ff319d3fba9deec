#include "compiler/dsl_library.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "compiler/dsl_builtins.h"
#include "compiler/dsl_parser.h"
#include "compiler/dsl_values.h"

namespace quern::dsl {
namespace {

constexpr std::size_t kMaxFiles = 64;

bool is_used(const ast::Pool& pool, std::string_view name) {
  return std::any_of(pool.begin(), pool.end(), [&](const ast::Expr& e) {
    return e.text == name && e.kind == ast::Expr::Kind::name;
  });
}

bool is_axis_used(const ast::Pool& pool, std::string_view name) {
  const auto names_it = [&](const ast::BracketItem& item) { return item.text == name; };
  return std::any_of(pool.begin(), pool.end(), [&](const ast::Expr& e) {
    return std::any_of(e.bracket.begin(), e.bracket.end(), names_it) ||
           (e.text == name && e.kind == ast::Expr::Kind::name);
  });
}

}  // namespace

void Library::add(ast::File& file, const Includes& includes) {
  for (const std::string_view name : file.uses) use(name, includes);
  for (ast::Let& let : file.lets) {
    if (!claim(let.name)) continue;
    for (std::size_t i = 0; i < let.params.size(); ++i) {
      const std::string_view param = let.params[i];
      if (is_builtin(param) || parse_dtype(param))
        diagnostics_.error(param, fmt::format("`{}` is built in: choose another name", param));
      else if (std::find(let.params.begin(), let.params.begin() + static_cast<long>(i), param) !=
               let.params.begin() + static_cast<long>(i))
        diagnostics_.error(param, fmt::format("`{}` is declared twice", param));
      else if (!is_used(let.exprs, param))
        diagnostics_.error(param, fmt::format("`{}` is never used", param));
    }
    check_names(let);
    for (const std::string_view axis : let.axes)
      if (!is_axis_used(let.exprs, axis))
        diagnostics_.error(axis, fmt::format("`{}` is never used", axis));
    lets_.push_back(std::make_unique<ast::Let>(std::move(let)));
  }
  for (ast::Reduction& reduction : file.reductions) {
    if (!claim(reduction.name)) continue;
    sources_.push_back(std::make_unique<ast::Reduction>(std::move(reduction)));
    define(*sources_.back());
  }
}

/// Values::name says the same of what is used; this also reaches what no kernel uses.
void Library::check_names(const ast::Let& let) {
  const auto has = [](const std::vector<std::string_view>& names, std::string_view name) {
    return std::find(names.begin(), names.end(), name) != names.end();
  };
  for (const ast::Expr& e : let.exprs)
    if (e.kind == ast::Expr::Kind::name && !has(let.params, e.text) && !has(let.axes, e.text) &&
        !is_builtin(e.text))
      diagnostics_.error(
          e.text, fmt::format("a function is made of its parameters: there is no `{}`", e.text));
}

void Library::use(std::string_view name, const Includes& includes) {
  if (used_.contains(name)) return;
  used_.emplace(name, true);
  if (used_.size() > kMaxFiles)
    return diagnostics_.error(name, fmt::format("at most {} files can be used", kMaxFiles));
  const std::optional<std::string> text =
      includes ? includes(std::string(name)) : std::optional<std::string>();
  if (!text) return diagnostics_.error(name, fmt::format("there is no file \"{}\"", name));
  ast::File file = parse_file(diagnostics_, diagnostics_.add_file(*text, name));
  add(file, includes);
}

bool Library::claim(std::string_view name) {
  if (is_builtin(name) || parse_dtype(name)) {
    diagnostics_.error(name, fmt::format("`{}` is built in: choose another name", name));
    return false;
  }
  if (is_capitalised(name)) {
    diagnostics_.error(name, "capitalised names are dtype parameters: choose another name");
    return false;
  }
  const auto [found, fresh] = names_.emplace(name, name);
  if (fresh) return true;
  diagnostics_.error(name, fmt::format("`{}` is defined twice", name));
  diagnostics_.note(found->second, "it was defined here");
  return false;
}

void Library::define(const ast::Reduction& source) {
  Tree scratch;
  Values values(scratch, diagnostics_, *this, [&](const ast::Pool&, const ast::Expr& e) {
    const bool right = e.text == source.right;
    if ((e.text != source.left && !right) || e.has_bracket) {
      diagnostics_.error(e.range, fmt::format("a reduction is made of `{}` and `{}` alone",
                                              source.left, source.right));
      return Values::kFaulty;
    }
    Node parameter;
    parameter.op = Op::parameter;
    parameter.index = right;
    parameter.name = e.text;
    return values.add(std::move(parameter), e.range);
  });
  if (source.left == source.right)
    return diagnostics_.error(source.right, fmt::format("`{}` is declared twice", source.right));
  for (const std::string_view name : {source.left, source.right})
    if (!is_used(source.exprs, name))
      return diagnostics_.error(name, fmt::format("`{}` is never used", name));
  Combine out;
  out.name = source.name;
  const int identity = values.evaluate_f32(source.exprs, source.identity);
  out.result = values.evaluate_f32(source.exprs, source.value);
  if (identity == Values::kFaulty || out.result == Values::kFaulty) return;
  const Node& constant = scratch.nodes[static_cast<std::size_t>(identity)];
  if (constant.op != Op::constant)
    return diagnostics_.error(source.exprs[static_cast<std::size_t>(source.identity)].range,
                              "a reduction begins from a number, as in `from 0` or `from -inf`");
  for (const Node& node : scratch.nodes)
    if (is_reduction(node.op) || node.op == Op::index || node.op == Op::extent)
      return diagnostics_.error(source.name, "a reduction folds two numbers: it cannot use axes");
  out.identity = constant.value;
  out.nodes = std::move(scratch.nodes);
  reductions_.push_back(std::make_unique<Combine>(std::move(out)));
}

const ast::Let* Library::find_let(std::string_view name, const ast::Let* before) const {
  for (const auto& let : lets_) {
    if (let.get() == before) return nullptr;
    if (let->name == name) return let.get();
  }
  return nullptr;
}

const Combine* Library::find_reduction(std::string_view name) const {
  for (const auto& reduction : reductions_)
    if (reduction->name == name) return reduction.get();
  return nullptr;
}

std::vector<std::string> Library::let_names() const {
  std::vector<std::string> out;
  for (const auto& let : lets_) out.emplace_back(let->name);
  return out;
}

std::vector<std::string> Library::reduction_names() const {
  std::vector<std::string> out;
  for (const auto& reduction : reductions_) out.emplace_back(reduction->name);
  return out;
}

}  // namespace quern::dsl
