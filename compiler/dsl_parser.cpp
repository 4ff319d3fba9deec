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
  explicit Parser(Diagnostics& diagnostics)
      : diagnostics_(diagnostics), tokens_(tokenize(diagnostics)) {}

  std::vector<ast::Kernel> run() {
    std::vector<ast::Kernel> kernels;
    while (now().kind != Token::Kind::end && !diagnostics_.full()) {
      try {
        kernels.push_back(kernel());
      } catch (const SyntaxFault&) {
        while (now().kind != Token::Kind::end && !now().is("kernel")) ++at_;
      }
    }
    return kernels;
  }

 private:
  const Token& now() const { return tokens_[at_]; }
  const Token& after() const { return tokens_[std::min(at_ + 1, tokens_.size() - 1)]; }

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

  std::vector<ast::BracketItem> bracket() {
    std::vector<ast::BracketItem> items;
    expect("[", "before the axes");
    do {
      if (now().kind != Token::Kind::name && now().kind != Token::Kind::number)
        unexpected("the name of an axis or a whole number");
      const Token& token = take();
      items.push_back({token.text, token.kind == Token::Kind::number, token.number});
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
    out.axes = bracket();
    out.axes_range = range_from(begin);
    return out;
  }

  ast::Kernel kernel() {
    if (!now().is("kernel")) unexpected("'kernel'");
    take();
    nesting_ = 0;
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
      statement.target = name("a statement (name = expression) or '}'");
      expect("=", "in a statement (name = expression)");
      statement.value = expr(out);
      out.statements.push_back(statement);
      if (now().is(";")) fault(now().text, "statements end by themselves: no ';' is needed");
    }
    return out;
  }

  int add(ast::Kernel& k, ast::Expr e, std::string_view begin) {
    e.range = range_from(begin);
    for (const int arg : e.args)
      e.depth = std::max(e.depth, k.exprs[static_cast<std::size_t>(arg)].depth + 1);
    if (e.depth > kMaxDepth) fault(begin, "this expression is too deep: name a part of it first");
    k.exprs.push_back(std::move(e));
    return static_cast<int>(k.exprs.size()) - 1;
  }

  int binary(ast::Kernel& k, std::initializer_list<std::string_view> operators, bool chain,
             int (Parser::*part)(ast::Kernel&)) {
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

  int expr(ast::Kernel& k) {
    if (++nesting_ > kMaxNesting)
      fault(now().text, "this expression is nested too deeply: name a part of it first");
    const int out = binary(k, {"<", "<=", ">", ">=", "==", "!="}, false, &Parser::sum);
    --nesting_;
    return out;
  }

  int sum(ast::Kernel& k) { return binary(k, {"+", "-"}, true, &Parser::product); }
  int product(ast::Kernel& k) { return binary(k, {"*", "/"}, true, &Parser::unary); }

  int unary(ast::Kernel& k) {
    if (!now().is("-")) return primary(k);
    const std::string_view begin = now().text;
    std::size_t count = 0;
    while (accept("-")) ++count;
    if (count > 1) fault(begin, "write one minus sign, or parentheses between them");
    ast::Expr e;
    e.kind = ast::Expr::Kind::unary;
    e.text = begin;
    e.args = {primary(k)};
    return add(k, std::move(e), begin);
  }

  int primary(ast::Kernel& k) {
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
      e.bracket = bracket();
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

std::vector<ast::Kernel> parse_kernels(Diagnostics& diagnostics) {
  return Parser(diagnostics).run();
}

}  // namespace quern::dsl
