#include "autotune/row_traits.h"

#include <algorithm>
#include <set>

#include "compiler/dsl_tree.h"

namespace quern {
namespace {

using dsl::Node;
using dsl::Op;

/// How far two builds agree about a value.
enum class Grade {
  exact,
  product,  // exact, but a sum with it may be contracted to one rounding (fused multiply-add)
  inexact,
};

class Analysis {
 public:
  explicit Analysis(const dsl::Tree& tree) : tree_(tree) {
    for (const Node& node : tree.nodes) {
      grades_.push_back(grade(node));
      non_negative_.push_back(is_non_negative(node));
    }
  }

  RowTraits traits() {
    out_.operands.resize(tree_.operands.size());
    std::set<std::pair<int, std::vector<std::int64_t>>> picks;
    for (const Node& node : tree_.nodes) {
      if (node.op == Op::load) {
        RowTraits::Operand& operand = out_.operands[static_cast<std::size_t>(node.index)];
        operand.num_picks += picks.emplace(node.index, node.picked).second;
        if (node.gathered != 0) note_gather(node, operand);
      }
      if (has_root(node.op) && !non_negative_[at(node.args[0])])
        visit_loads(node.args[0], [](RowTraits::Operand& operand) { operand.positive = true; });
    }
    for (const dsl::Store& store : tree_.stores) note_store(store);
    return std::move(out_);
  }

 private:
  static std::size_t at(int index) { return static_cast<std::size_t>(index); }
  static bool has_root(Op op) {
    return op == Op::log || op == Op::log2 || op == Op::sqrt || op == Op::rsqrt || op == Op::power;
  }

  Grade worst_argument(const Node& node) const {
    Grade worst = Grade::exact;
    for (const int argument : node.args)
      if (argument >= 0) worst = std::max(worst, grades_[at(argument)]);
    return worst;
  }

  Grade grade(const Node& node) const {
    const Grade worst = worst_argument(node);
    if (worst == Grade::inexact) return Grade::inexact;
    const bool is_f32 = node.type.param < 0 && node.type.dtype == DType::f32;
    switch (node.op) {
      case Op::add:
      case Op::subtract:
        return is_f32 && worst == Grade::product ? Grade::inexact : Grade::exact;
      case Op::multiply:
        return is_f32 ? Grade::product : Grade::exact;
      case Op::negate:
      case Op::abs:
        return worst;
      case Op::divide:
        return is_f32 ? Grade::inexact : Grade::exact;
      case Op::sqrt:
      case Op::rsqrt:
      case Op::exp:
      case Op::exp2:
      case Op::log:
      case Op::log2:
      case Op::tanh:
      case Op::erf:
      case Op::sin:
      case Op::cos:
      case Op::sigmoid:
      case Op::power:
      case Op::reduce_sum:
      case Op::reduce_mean:
      case Op::reduce_custom:
        return Grade::inexact;
      default:
        return Grade::exact;
    }
  }

  bool is_non_negative(const Node& node) const {
    const auto of = [&](int argument) {
      return node.args[at(argument)] >= 0 && non_negative_[at(node.args[at(argument)])];
    };
    switch (node.op) {
      case Op::constant:
        return node.value >= 0;
      case Op::scalar:  // an epsilon, most often
      case Op::index:
      case Op::extent:
      case Op::abs:
      case Op::sqrt:
      case Op::rsqrt:
      case Op::exp:
      case Op::exp2:
      case Op::sigmoid:
        return true;
      case Op::load:
        return node.type.param < 0 && node.type.dtype == DType::u8;
      case Op::multiply:
        return node.args[0] == node.args[1] || (of(0) && of(1));
      case Op::add:
      case Op::divide:
      case Op::min:
      case Op::power:
        return of(0) && of(1);
      case Op::max:
        return of(0) || of(1);
      case Op::select:
        return of(1) && of(2);
      case Op::cast:
      case Op::floor:
      case Op::ceil:
      case Op::round:
      case Op::trunc:
      case Op::reduce_sum:
      case Op::reduce_mean:
      case Op::reduce_min:
      case Op::reduce_max:
        return of(0);
      default:
        return false;
    }
  }

  /// Calls f(operand) for every operand that a value is computed from.
  template <class F>
  void visit_loads(int root, F&& f) {
    std::set<int> seen;
    std::vector<int> open{root};
    while (!open.empty()) {
      const int number = open.back();
      open.pop_back();
      if (!seen.insert(number).second) continue;
      const Node& node = tree_.nodes[at(number)];
      if (node.op == Op::load) f(out_.operands[at(node.index)]);
      for (const int argument : node.args)
        if (argument >= 0) open.push_back(argument);
    }
  }

  void note_gather(const Node& node, RowTraits::Operand& operand) {
    operand.gathers.push_back(node.axes);
    const auto& layout = tree_.layouts[at(node.index)];
    std::size_t argument = 0;
    for (std::size_t d = 0; d < layout.size(); ++d) {
      if (!((node.gathered >> d) & 1u)) continue;
      const int axis = layout[d].axis;
      visit_loads(node.args[argument++],
                  [axis](RowTraits::Operand& indices) { indices.indexed_axes.push_back(axis); });
    }
  }

  void note_store(const dsl::Store& store) {
    RowTraits::Operand& operand = out_.operands[at(store.operand)];
    operand.exact = operand.exact && grades_[at(store.value)] != Grade::inexact;
    operand.per_element = operand.per_element || tree_.store_level(store) == dsl::Level::element;
    std::set<int> seen;
    std::vector<int> open{store.value};
    while (!open.empty()) {
      const int number = open.back();
      open.pop_back();
      if (!seen.insert(number).second) continue;
      const Node& node = tree_.nodes[at(number)];
      operand.sum = operand.sum || node.op == Op::reduce_sum || node.op == Op::reduce_custom;
      operand.position =
          operand.position || ((node.op == Op::reduce_argmin || node.op == Op::reduce_argmax) &&
                               grades_[at(number)] == Grade::inexact);
      for (const int argument : node.args)
        if (argument >= 0) open.push_back(argument);
    }
  }

  const dsl::Tree& tree_;
  std::vector<Grade> grades_;
  std::vector<bool> non_negative_;
  RowTraits out_;
};

}  // namespace

RowTraits row_traits(const dsl::Kernel& kernel) { return Analysis(kernel.tree()).traits(); }

}  // namespace quern
