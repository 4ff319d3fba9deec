#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "compiler/dsl.h"

namespace quern::dsl {

enum class Op {
  constant,
  scalar,
  load,
  index,      // i32: position along an axis
  extent,     // i32: elements of an axis
  parameter,  // of a Combine
  cast,
  negate,
  abs,
  sqrt,
  rsqrt,
  exp,
  exp2,
  log,
  log2,
  tanh,
  erf,
  sin,
  cos,
  sigmoid,
  floor,
  ceil,
  round,
  trunc,
  add,
  subtract,
  multiply,
  divide,
  modulo,
  power,
  min,
  max,
  less,
  less_equal,
  greater,
  greater_equal,
  equal,
  not_equal,
  both,
  either,
  invert,
  select,
  reduce_sum,
  reduce_mean,
  reduce_min,
  reduce_max,
  reduce_argmin,
  reduce_argmax,
  reduce_custom,
};

inline bool is_reduction(Op op) { return op >= Op::reduce_sum; }

/// Type of a value: a dtype, or one of the kernel's dtype parameters. Arithmetic is in f32 or i32;
/// conditions are boolean; the others are only loaded, selected, cast and stored.
struct Type {
  DType dtype = DType::f32;
  int param = -1;  // number of the dtype parameter; -1: `dtype` is the type
  bool operator==(const Type&) const = default;
};

/// Bit i: the value varies along Tree::axes[i].
using AxisSet = std::uint32_t;

constexpr int kMaxRank = 4;

/// One value. Nodes are numbered so that arguments come before their users, which lets every reader
/// of a tree be a loop over the list.
struct Node {
  Op op = Op::constant;
  Type type;
  AxisSet axes = 0;
  std::array<int, 3> args{-1, -1, -1};
  double value = 0;  // of a constant, f32 or i32
  int index = -1;    // of the operand (load), scalar, axis (index, extent), Combine or parameter
  std::vector<std::int64_t> picked;  // load: one constant index for each fixed dimension
  /// load, bit d: dimension d of the operand is indexed by an argument (i32; arguments in order of
  /// dimensions). An index outside the axis reads as 0.
  std::uint32_t gathered = 0;
  AxisSet reduced = 0;  // axes that a reduction folds
  std::string name;     // what the user called it; may be empty
};

/// One dimension of an operand as laid out in memory.
struct Dimension {
  int axis = -1;            // number of the named axis, or
  std::int64_t extent = 0;  // the fixed extent of an unnamed one
};

/// The only effects of a kernel, in order of assignment. A load always reads what was in memory
/// before the kernel ran: names rebound by an assignment are resolved by the checker.
struct Store {
  int operand = -1;
  int value = -1;
  std::vector<std::int64_t> picked;  // one constant index for each fixed dimension
};

/// A reduction of the user's: folds f32 values by an expression of two parameters, which should be
/// associative and commutative, since the order of folding is open.
struct Combine {
  std::string name;
  std::vector<Node> nodes;  // of Op::parameter, constants and arithmetic
  int result = -1;
  double identity = 0;
};

/// How often a value is computed: once per row, once per segment of a row, or for each element.
enum class Level { row, segment, element };

struct Tree {
  std::string name;
  std::vector<OperandInfo> operands;
  std::vector<std::vector<Dimension>> layouts;  // of each operand, outermost first
  std::vector<Type> operand_types;
  std::vector<ScalarInfo> scalars;
  std::vector<std::string> dtype_params;
  /// Iterated axes first, outermost first; then those along which operands are only gathered.
  std::vector<std::string> axes;
  int num_iterated = 0;
  std::vector<Node> nodes;
  std::vector<Store> stores;
  std::vector<Combine> combines;

  /// Iterated axes that one "row" consists of; the others number the rows. With reductions: all
  /// axes that any of them folds. Without: the innermost axis.
  AxisSet walked = 0;
  /// The innermost of the walked axes, where some values vary along the outer ones alone (a maximum
  /// for each group of a row); 0: there are no segments.
  AxisSet segment = 0;
  bool reduces = false;
  std::vector<Level> levels;  // of each node

  /// The innermost iterated axis.
  int last_axis() const { return num_iterated - 1; }
  bool varies_along_last(AxisSet set) const { return (set >> last_axis()) & 1u; }
  AxisSet iterated() const { return (1u << num_iterated) - 1; }
  /// The axes that number the rows.
  AxisSet leading() const { return iterated() & ~walked; }
  /// The walked axes are not the innermost: rows are columns of memory, as in sum[rows](x).
  bool is_column() const { return leading() > (walked & (~walked + 1)); }
  Level level(int node) const { return levels[static_cast<std::size_t>(node)]; }
  /// Axes of an operand as iterated: without those that it is only gathered along.
  AxisSet axes_of(int operand) const {
    AxisSet out = 0;
    for (const Dimension& dimension : layouts[static_cast<std::size_t>(operand)])
      if (dimension.axis >= 0 && dimension.axis < num_iterated) out |= 1u << dimension.axis;
    return out;
  }
  /// How often a written operand is written.
  Level store_level(const Store& store) const {
    const AxisSet set = axes_of(store.operand) & walked;
    return set == 0 ? Level::row : set == walked ? Level::element : Level::segment;
  }
};

/// Dtypes that operands may have.
bool is_operand_dtype(DType dtype);

/// The dtype that a binding gives this type. Throws CompileError if the parameter is unbound or
/// bound to a dtype that kernels cannot have.
DType resolve(const Tree& tree, const Type& type, const Binding& binding);

}  // namespace quern::dsl
