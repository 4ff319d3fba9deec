#include "compiler/dsl_parser.h"

#include <fmt/format.h>

#include <algorithm>
#include <initializer_list>

#include "compiler/dsl_lexer.h"

namespace quern::dsl {
namespace {

constexpr int kMaxNesting = 100;
constexpr int kMaxDepth = 300;

/// Thrown to leave a kernel whose syntax is wrong; the fault has been reported.
struct SyntaxFault {};

class Parser {
 public:
  Parser(Diagnostics& diagnostics, std::string_view text)
      : diagnostics_(diagnostics), tokens_(tokenize(diagnostics, text)) {}

  ast::File run() {
    ast::File file;
    while (now().kind != Token::Kind::end && !diagnostics_.full()) {
      nesting_ = 0;
      try {
        if (accept("use"))
          file.uses.push_back(used_file());
        else if (accept("let"))
          file.lets.push_back(let());
        else if (accept("reduction"))
          file.reductions.push_back(reduction());
        else if (accept("kernel"))
          file.kernels.push_back(kernel());
        else
          unexpected("'kernel', 'let', 'reduction' or 'use'");
      } catch (const SyntaxFault&) {
        while (now().kind != Token::Kind::end && !begins_item()) ++at_;
      }
    }
    return file;
  }

 private:
  const Token& now() const { return tokens_[at_]; }
  const Token& after() const { return tokens_[std::min(at_ + 1, tokens_.size() - 1)]; }

  bool begins_item() const {
    return now().is("kernel") || (now().is("let") && after().kind == Token::Kind::name) ||
           (now().is("reduction") && after().kind == Token::Kind::name) ||
           (now().is("use") && after().kind == Token::Kind::text);
  }

  const Token& take() {
    const Token& token = now();
    if (token.kind != Token::Kind::end) ++at_;
    return token;
  }

  bool accept(std::string_view text) {
    if (!now().is(text)) return false;
    ++at_;
    return true;
  }

  [[noreturn]] void fault(std::string_view at, const std::string& sentence) {
    diagnostics_.error(at, sentence);
    throw SyntaxFault();
  }

  /// "expected ')' after the operands, found 'x'"
  [[noreturn]] void unexpected(std::string_view wanted) {
    if (now().kind == Token::Kind::end)
      fault(now().text, fmt::format("expected {}, but the file ends here", wanted));
    fault(now().text, fmt::format("expected {}, found '{}'", wanted, now().text.substr(0, 40)));
  }

  void expect(std::string_view text, std::string_view where) {
    if (!accept(text)) unexpected(fmt::format("'{}' {}", text, where));
  }

  std::string_view name(std::string_view wanted) {
    if (now().kind != Token::Kind::name) unexpected(wanted);
    const std::string_view text = take().text;
    if (text.size() > 64) fault(text, "names have at most 64 characters");
    return text;
  }

  /// From the first character of `begin` to the last token taken.
  std::string_view range_from(std::string_view begin) const {
    const std::string_view last = tokens_[at_ - 1].text;
    return {begin.data(), static_cast<std::size_t>(last.data() + last.size() - begin.data())};
  }

  /// Names and whole numbers; with a pool also axis = expression.
  std::vector<ast::BracketItem> bracket(ast::Pool* pool) {
    std::vector<ast::BracketItem> items;
    expect("[", "before the axes");
    if (!pool && accept("]")) return items;
    do {
      if (now().kind != Token::Kind::name && now().kind != Token::Kind::number)
        unexpected("the name of an axis or a whole number");
      const Token& token = take();
      ast::BracketItem item{token.text, token.kind == Token::Kind::number, token.number, -1};
      if (pool && !item.is_number && accept("=")) item.value = expr(*pool);
      items.push_back(item);
    } while (accept(","));
    expect("]", "after the axes");
    return items;
  }

  ast::Operand operand(bool output) {
    ast::Operand out;
    out.output = output;
    out.name = name("the name of an operand");
    expect(":", "and a dtype after the name of the operand");
    if (now().is("inout") && after().kind == Token::Kind::name) {
      out.inout = true;
      take();
    }
    out.dtype = name("a dtype");
    const std::string_view begin = now().text;
    if (!now().is("[")) unexpected("'[' and the operand's axes");
    out.axes = bracket(nullptr);
    out.axes_range = range_from(begin);
    return out;
  }

  std::string_view used_file() {
    if (now().kind != Token::Kind::text) unexpected("the name of a file in quotes");
    const std::string_view text = take().text;
    return text.substr(1, text.size() - 2);
  }

  std::vector<std::string_view> names(std::string_view end, std::string_view wanted) {
    std::vector<std::string_view> out;
    if (!now().is(end)) {
      do {
        out.push_back(name(wanted));
      } while (accept(","));
    }
    return out;
  }

  ast::Let let() {
    ast::Let out;
    out.name = name("the name of the function");
    if (accept("[")) {
      out.axes = names("]", "a name for an axis");
      expect("]", "after the axes");
    }
    expect("(", "before the parameters");
    out.params = names(")", "the name of a parameter");
    expect(")", "after the parameters");
    expect("=", "before what the function stands for");
    out.value = expr(out.exprs);
    return out;
  }

  ast::Reduction reduction() {
    ast::Reduction out;
    out.name = name("the name of the reduction");
    expect("(", "before the two parameters");
    out.left = name("the name of a parameter");
    expect(",", "between the two parameters");
    out.right = name("the name of a parameter");
    expect(")", "after the two parameters");
    expect("=", "before the expression that folds them");
    out.value = expr(out.exprs);
    expect("from", "and the value to begin with");
    out.identity = expr(out.exprs);
    return out;
  }

  ast::Kernel kernel() {
    ast::Kernel out;
    out.name = name("the name of the kernel");
    expect("(", "before the operands");
    if (!now().is(")") && !now().is(";")) {
      do {
        out.operands.push_back(operand(false));
      } while (accept(","));
    }
    if (accept(";")) {
      do {
        ast::Scalar scalar;
        scalar.name = name("the name of a scalar");
        expect(":", "and a dtype after the name of the scalar");
        scalar.dtype = name("a dtype");
        out.scalars.push_back(scalar);
      } while (accept(","));
    }
    expect(")", "after the parameters");
    if (accept("->")) {
      expect("(", "before the outputs");
      do {
        out.operands.push_back(operand(true));
      } while (accept(","));
      expect(")", "after the outputs");
    }
    expect("{", "before the statements");
    while (!accept("}")) {
      ast::Statement statement;
      const std::string_view begin = now().text;
      statement.target = name("a statement (name = expression) or '}'");
      if (now().is("[")) statement.bracket = bracket(nullptr);
      statement.target_range = range_from(begin);
      expect("=", "in a statement (name = expression)");
      statement.value = expr(out.exprs);
      out.statements.push_back(statement);
      if (now().is(";")) fault(now().text, "statements end by themselves: no ';' is needed");
    }
    return out;
  }

  int add(ast::Pool& k, ast::Expr e, std::string_view begin) {
    e.range = range_from(begin);
    for (const int arg : e.args)
      e.depth = std::max(e.depth, k[static_cast<std::size_t>(arg)].depth + 1);
    if (e.depth > kMaxDepth) fault(begin, "this expression is too deep: name a part of it first");
    k.push_back(std::move(e));
    return static_cast<int>(k.size()) - 1;
  }

  int binary(ast::Pool& k, std::initializer_list<std::string_view> operators, bool chain,
             int (Parser::*part)(ast::Pool&)) {
    const std::string_view begin = now().text;
    int left = (this->*part)(k);
    const auto at_operator = [&] {
      return std::any_of(operators.begin(), operators.end(),
                         [&](std::string_view text) { return now().is(text); });
    };
    for (int count = 0; at_operator(); ++count) {
      if (count > 0 && !chain) fault(now().text, "comparisons cannot be chained");
      ast::Expr e;
      e.kind = ast::Expr::Kind::binary;
      e.text = take().text;
      const int right = (this->*part)(k);
      e.args = {left, right};
      left = add(k, std::move(e), begin);
    }
    return left;
  }

  int expr(ast::Pool& k) {
    if (++nesting_ > kMaxNesting)
      fault(now().text, "this expression is nested too deeply: name a part of it first");
    const int out = binary(k, {"||"}, true, &Parser::both);
    --nesting_;
    return out;
  }

  int both(ast::Pool& k) { return binary(k, {"&&"}, true, &Parser::comparison); }
  int comparison(ast::Pool& k) {
    return binary(k, {"<", "<=", ">", ">=", "==", "!="}, false, &Parser::sum);
  }

  int sum(ast::Pool& k) { return binary(k, {"+", "-"}, true, &Parser::product); }
  int product(ast::Pool& k) { return binary(k, {"*", "/", "%"}, true, &Parser::unary); }

  int unary(ast::Pool& k) {
    if (!now().is("-") && !now().is("!")) return primary(k);
    const std::string_view begin = take().text;
    if (now().is("-") || now().is("!"))
      fault(now().text, "write one minus sign or '!', or parentheses between them");
    ast::Expr e;
    e.kind = ast::Expr::Kind::unary;
    e.text = begin;
    e.args = {primary(k)};
    return add(k, std::move(e), begin);
  }

  int primary(ast::Pool& k) {
    const std::string_view begin = now().text;
    ast::Expr e;
    if (now().kind == Token::Kind::number) {
      e.number = now().number;
      e.text = take().text;
      return add(k, std::move(e), begin);
    }
    if (accept("(")) {
      const int inner = expr(k);
      expect(")", "to close the parenthesis");
      return inner;
    }
    e.text = name("an expression");
    e.kind = ast::Expr::Kind::name;
    if (now().is("[")) {
      e.has_bracket = true;
      e.bracket = bracket(&k);
    }
    if (accept("(")) {
      e.kind = ast::Expr::Kind::call;
      if (!now().is(")")) {
        do {
          e.args.push_back(expr(k));
        } while (accept(","));
      }
      expect(")", "after the arguments");
    }
    return add(k, std::move(e), begin);
  }

  Diagnostics& diagnostics_;
  std::vector<Token> tokens_;
  std::size_t at_ = 0;
  int nesting_ = 0;
};

}  // namespace

ast::File parse_file(Diagnostics& diagnostics, std::string_view text) {
  return Parser(diagnostics, text).run();
}

}  // namespace quern::dsl
