#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "compiler/dsl_cuda_text.h"
#include "compiler/dsl_tree.h"

namespace quern::dsl {

/// Where a thread is along the axes, as C++ text: positions along single axes and offsets into
/// operands, from a few variables that count along several axes at once (row, col, ...).
class CudaIndices {
 public:
  CudaIndices(const Tree& tree, const Binding& binding, Names& names);

  /// A variable that counts along these axes. If `of` is given it is derived from the variable of
  /// that name and declared where it is needed.
  void add(AxisSet axes, const std::string& name, const std::string& of = {});
  /// All of them are of type long long.
  void make_wide() { all_wide_ = true; }

  /// Text of an axis' extent: the name of a variable or constant that extents() declares.
  const std::string& extent(int axis) const { return extents_[at(axis)]; }
  /// Number of elements along several axes: "groups * lanes"; "1" for none.
  Code extent(AxisSet axes) const;
  /// "int" where that is enough for positions along these axes.
  std::string type(AxisSet axes) const;

  /// Position along these axes, counted row-major. `along_last` is added where they hold the last
  /// axis: "" or "i".
  Code position(AxisSet axes, const std::string& along_last);
  /// The same as an int.
  Code position_i32(AxisSet axes, const std::string& along_last);
  /// Offset into an operand. Dimensions that are gathered have texts; `places` are the constant
  /// indices of the fixed ones, with zeros for those that are left out.
  Code offset(const std::vector<Dimension>& layout, std::uint32_t gathered,
              const std::vector<std::string>& gathers, const std::vector<std::int64_t>& places,
              const std::string& along_last);

  /// Declares what the text since the mark needs of the positions derived from a variable.
  void declare(Text& text, std::size_t mark, const std::string& of) const;
  /// Declarations of the extents that a text needs.
  void declare_extents(Text& text, std::size_t mark) const;

 private:
  struct Variable {
    AxisSet axes;
    std::string name, of;
  };
  static std::size_t at(int number) { return static_cast<std::size_t>(number); }
  bool is_int(AxisSet axes) const;
  Code variable(const Variable& variable, const std::string& along_last) const;
  Code axis_position(int axis, const std::string& along_last);
  std::string derived(const Variable& from, AxisSet axes) const;

  const Tree& tree_;
  const Binding& binding_;
  Names& names_;
  std::vector<std::string> extents_;
  std::vector<Variable> variables_;
  bool all_wide_ = false;
  std::map<int, std::string> axis_names_;  // of positions along single axes
};

}  // namespace quern::dsl
