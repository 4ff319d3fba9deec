#pragma once
#include <string_view>
#include <vector>

/// A file as written. Names and ranges are pieces of the file's text, so that every one of them can
/// be pointed at.
namespace quern::dsl::ast {

/// Between brackets: the name of an axis or a whole number.
struct BracketItem {
  std::string_view text;
  bool is_number = false;
  double number = 0;
};

struct Operand {
  std::string_view name, dtype;
  bool inout = false, output = false;
  std::vector<BracketItem> axes;
  std::string_view axes_range;
};

struct Scalar {
  std::string_view name, dtype;
};

struct Expr {
  enum class Kind {
    number,
    name,    // text, or with a bracket text[index, ...]
    unary,   // text is the operator
    binary,  // text is the operator
    call,    // text(args), or with a bracket text[axes](args)
  };
  Kind kind = Kind::number;
  std::string_view text, range;
  double number = 0;
  std::vector<BracketItem> bracket;
  bool has_bracket = false;
  std::vector<int> args;  // numbers in Kernel::exprs
  int depth = 1;
};

struct Statement {
  std::string_view target;
  int value = -1;
};

struct Kernel {
  std::string_view name;
  std::vector<Operand> operands;
  std::vector<Scalar> scalars;
  std::vector<Expr> exprs;
  std::vector<Statement> statements;
};

}  // namespace quern::dsl::ast
