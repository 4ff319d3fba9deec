#pragma once
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "compiler/dsl_builtins.h"
#include "compiler/dsl_diagnostics.h"
#include "compiler/dsl_library.h"
#include "compiler/dsl_tree.h"

namespace quern::dsl {

/// Turns expressions into nodes of a tree: resolves functions, types and axes. Equal values become
/// one node. Faults are reported where they are.
class Values {
 public:
  static constexpr int kFaulty = -1;  // a value whose fault has been reported

  /// What a name stands for, or kFaulty after reporting why it stands for nothing.
  using Resolve = std::function<int(const ast::Pool& pool, const ast::Expr& e)>;

  Values(Tree& tree, Diagnostics& diagnostics, const Library& library, Resolve resolve)
      : tree_(tree), diagnostics_(diagnostics), library_(library), resolve_(std::move(resolve)) {}

  int evaluate(const ast::Pool& pool, int number);
  /// The same where an f32 is needed.
  int evaluate_f32(const ast::Pool& pool, int number);
  /// The same where an i32 is needed; whole numbers are taken for one.
  int evaluate_i32(const ast::Pool& pool, int number);

  int add(Node node, std::string_view where);
  const Node& node(int number) const { return tree_.nodes[static_cast<std::size_t>(number)]; }
  /// The text that a node was first made for.
  std::string_view where(int number) const { return where_[static_cast<std::size_t>(number)]; }

  void error(std::string_view at, const std::string& sentence);
  bool faulty() const { return faulty_; }

  std::string spell(const Type& type) const;
  std::vector<std::string> axes_in(AxisSet set) const;
  /// Number of the iterated axis of this name, or nothing after reporting that there is none.
  std::optional<int> find_axis(std::string_view name);

 private:
  /// A function whose body is being evaluated.
  struct Scope {
    const ast::Let* let;
    std::map<std::string_view, int> params, axes;
  };

  int add(Op op, Type type, const std::vector<int>& args, std::string_view where);
  int number(const ast::Expr& e);
  int name(const ast::Pool& pool, const ast::Expr& e);
  int call(const ast::Pool& pool, const ast::Expr& e);
  int call_let(const ast::Let& let, const ast::Pool& pool, const ast::Expr& e);
  int cast(const ast::Pool& pool, const ast::Expr& e, Type type);
  int axis_function(const ast::Pool& pool, const ast::Expr& e);
  int reduction(const ast::Pool& pool, const ast::Expr& e);
  int apply(const Function& function, const ast::Pool& pool, const ast::Expr& e);
  int number_of_type(int value, const ast::Expr& e, const Type& wanted);
  bool is_whole_number(int value) const;
  int as_i32(int value, std::string_view where);
  bool has_args(const ast::Expr& e, std::size_t wanted);
  std::optional<Type> cast_type(std::string_view name) const;
  std::optional<AxisSet> bracket_axes(const ast::Expr& e);
  int unknown_function(const ast::Expr& e);
  std::string describe(const ast::Expr& e, int value) const;

  Tree& tree_;
  Diagnostics& diagnostics_;
  const Library& library_;
  Resolve resolve_;
  bool faulty_ = false;
  const Scope* scope_ = nullptr;
  std::vector<std::string_view> calls_;  // of functions, outermost first
  std::vector<std::string_view> where_;  // of each node
  std::map<std::tuple<Op, DType, int, std::array<int, 3>, int, std::uint64_t,
                      std::vector<std::int64_t>, std::uint32_t, AxisSet>,
           int>
      known_;
  std::map<std::tuple<const ast::Let*, std::vector<int>, std::vector<int>>, int> expanded_;
};

/// "axes rows, cols", "axis cols", "no axes".
std::string list_axes(const std::vector<std::string>& names);

}  // namespace quern::dsl
