#pragma once
#include <string_view>
#include <vector>

/// A file as written. Names and ranges are pieces of the file's text, so that every one of them can
/// be pointed at.
namespace quern::dsl::ast {

/// Between brackets: the name of an axis, a whole number, or axis = expression.
struct BracketItem {
  std::string_view text;
  bool is_number = false;
  double number = 0;
  int value = -1;  // of axis = expression: its number in the pool
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
  std::vector<int> args;  // numbers in the pool
  int depth = 1;
};

/// Expressions refer to each other by number: arguments come before their users.
using Pool = std::vector<Expr>;

struct Statement {
  std::string_view target;
  std::vector<BracketItem> bracket;  // constant indices along fixed axes; may be empty
  std::string_view target_range;
  int value = -1;
};

struct Kernel {
  std::string_view name;
  std::vector<Operand> operands;
  std::vector<Scalar> scalars;
  Pool exprs;
  std::vector<Statement> statements;
};

/// let name[axes](params) = value
struct Let {
  std::string_view name;
  std::vector<std::string_view> axes, params;
  Pool exprs;
  int value = -1;
};

/// reduction name(left, right) = value from identity
struct Reduction {
  std::string_view name, left, right;
  Pool exprs;
  int value = -1, identity = -1;
};

/// The contents of one file, in order within each kind.
struct File {
  std::vector<std::string_view> uses;  // of other files, without the quotes
  std::vector<Let> lets;
  std::vector<Reduction> reductions;
  std::vector<Kernel> kernels;
};

}  // namespace quern::dsl::ast
