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
  cast,
  negate,
  abs,
  sqrt,
  rsqrt,
  exp,
  log,
  tanh,
  erf,
  sin,
  cos,
  sigmoid,
  add,
  subtract,
  multiply,
  divide,
  min,
  max,
  less,
  less_equal,
  greater,
  greater_equal,
  equal,
  not_equal,
  select,
  reduce_sum,
  reduce_mean,
  reduce_min,
  reduce_max,
};

inline bool is_reduction(Op op) { return op >= Op::reduce_sum; }

/// Type of a value: a dtype, or one of the kernel's dtype parameters.
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
  float value = 0;                   // of a constant
  int index = -1;                    // of the operand (load) or the scalar
  std::vector<std::int64_t> picked;  // load: one constant index for each fixed axis
  AxisSet reduced = 0;               // axes that a reduction folds
  std::string name;                  // what the user called it; may be empty
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
};

struct Tree {
  std::string name;
  std::vector<OperandInfo> operands;
  std::vector<std::vector<Dimension>> layouts;  // of each operand, outermost first
  std::vector<Type> operand_types;
  std::vector<ScalarInfo> scalars;
  std::vector<std::string> dtype_params;
  std::vector<std::string> axes;
  std::vector<Node> nodes;
  std::vector<Store> stores;

  /// The innermost axis: the one that reductions fold and threads walk.
  int last_axis() const { return static_cast<int>(axes.size()) - 1; }
  bool varies_along_last(AxisSet set) const { return (set >> last_axis()) & 1u; }
};

/// Dtypes that operands may have.
bool is_operand_dtype(DType dtype);

/// The dtype that a binding gives this type. Throws CompileError if the parameter is unbound or
/// bound to a dtype that kernels cannot have.
DType resolve(const Tree& tree, const Type& type, const Binding& binding);

}  // namespace quern::dsl
