#include "compiler/dsl_levels.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <vector>

namespace quern::dsl {
namespace {

class Planner {
 public:
  Planner(Tree& tree, const LevelFault& report) : tree_(tree), report_(report) {}

  bool run() {
    find_live();
    return find_walked() && find_segment() && check_reductions() && check_outputs() &&
           (set_levels(), true);
  }

 private:
  static std::size_t at(int number) { return static_cast<std::size_t>(number); }
  AxisSet innermost() const { return 1u << tree_.last_axis(); }

  std::string names(AxisSet set) const {
    std::vector<std::string> out;
    for (std::size_t i = 0; i < tree_.axes.size(); ++i)
      if ((set >> i) & 1u) out.push_back(tree_.axes[i]);
    return fmt::format("{}", fmt::join(out, ", "));
  }
  std::string named(AxisSet set) const {
    return fmt::format("{} {}", (set & (set - 1)) == 0 ? "axis" : "axes", names(set));
  }

  /// True if the axes are the last ones of the iterated axes.
  bool is_trailing(AxisSet set) const {
    return set != 0 && (tree_.iterated() & ~set) < (set & (~set + 1));
  }

  void find_live() {
    live_.assign(tree_.nodes.size(), false);
    for (const Store& store : tree_.stores) live_[at(store.value)] = true;
    for (std::size_t n = tree_.nodes.size(); n-- > 0;)
      if (live_[n])
        for (const int arg : tree_.nodes[n].args)
          if (arg >= 0) live_[at(arg)] = true;
    for (std::size_t n = 0; n < tree_.nodes.size(); ++n)
      if (live_[n] && is_reduction(tree_.nodes[n].op)) reductions_.push_back(static_cast<int>(n));
  }

  bool find_walked() {
    tree_.reduces = !reductions_.empty();
    for (const int n : reductions_) tree_.walked |= tree_.nodes[at(n)].reduced;
    if (!tree_.reduces) tree_.walked = innermost();
    return true;
  }

  /// Of a written operand: the axes of a row that it has.
  AxisSet written(const Store& store) const { return tree_.axes_of(store.operand) & tree_.walked; }

  bool find_segment() {
    for (const int n : reductions_) {
      const AxisSet reduced = tree_.nodes[at(n)].reduced;
      if (reduced != tree_.walked && (reduced & innermost())) tree_.segment = reduced;
    }
    if (tree_.segment == 0 && tree_.reduces && is_trailing(tree_.walked))
      for (const Store& store : tree_.stores)
        if (const AxisSet rest = tree_.walked & ~written(store);
            rest != tree_.walked && is_trailing(rest))
          tree_.segment = rest;
    if (tree_.segment == 0 || (is_trailing(tree_.walked) && is_trailing(tree_.segment)))
      return true;
    const AxisSet outer = tree_.walked & ~tree_.segment;
    for (const int n : reductions_)
      if (tree_.nodes[at(n)].reduced == tree_.segment || !is_trailing(tree_.segment))
        return report_(n, -1,
                       fmt::format("reductions over {} and over {} do not fit in one kernel: the "
                                   "second axes should be the innermost, and the first those "
                                   "around them",
                                   names(outer), names(tree_.segment))),
               false;
    return true;
  }

  bool check_reductions() {
    for (const int n : reductions_) {
      const Node& node = tree_.nodes[at(n)];
      if (node.reduced == tree_.walked || node.reduced == tree_.segment) continue;
      const AxisSet outer = tree_.walked & ~tree_.segment;
      if (tree_.segment != 0 && node.reduced == outer &&
          (tree_.nodes[at(node.args[0])].axes & tree_.segment) == 0)
        continue;
      report_(n, -1,
              tree_.segment != 0
                  ? fmt::format("a kernel that reduces over {} can also reduce over {}, but not "
                                "over {} what varies along {}",
                                names(tree_.segment), names(tree_.walked), names(node.reduced),
                                names(tree_.segment))
                  : fmt::format("one kernel cannot reduce over {} and over {}", names(node.reduced),
                                names(tree_.walked & ~node.reduced)));
      return false;
    }
    return true;
  }

  bool check_outputs() {
    bool fine = true;
    for (const Store& store : tree_.stores) {
      const AxisSet set = tree_.axes_of(store.operand);
      const std::string& name = tree_.operands[at(store.operand)].name;
      if (const AxisSet missing = tree_.leading() & ~set) {
        report_(-1, store.operand,
                fmt::format("`{}` is written for each of {}, so it must have {}", name,
                            names(tree_.leading()), named(missing)));
        fine = false;
        continue;
      }
      const AxisSet row = set & tree_.walked, outer = tree_.walked & ~tree_.segment;
      if (row != 0 && row != tree_.walked && (tree_.segment == 0 || row != outer)) {
        report_(-1, store.operand,
                fmt::format("`{}` has {} of the axes of a row, {}: it should have {}or none", name,
                            names(row), names(tree_.walked),
                            tree_.segment == 0 ? std::string("all ")
                                               : fmt::format("all, {} ", names(outer))));
        fine = false;
        continue;
      }
      const auto& layout = tree_.layouts[at(store.operand)];
      if (tree_.operand_types[at(store.operand)].dtype == DType::i4 &&
          tree_.operand_types[at(store.operand)].param < 0 && layout.back().axis >= 0 &&
          (layout.back().axis != tree_.last_axis() || row != tree_.walked)) {
        const bool ends_well = layout.back().axis == tree_.last_axis();
        report_(-1, store.operand,
                fmt::format(
                    "`{}` is packed in pairs, which must be written together: it{} should "
                    "{} {}",
                    name, ends_well ? "" : "s last axis", ends_well ? "have" : "be",
                    ends_well ? named(tree_.walked & ~set) : tree_.axes[at(tree_.last_axis())]));
        fine = false;
      }
    }
    return fine;
  }

  void set_levels() {
    const AxisSet inner = tree_.segment != 0 ? tree_.segment : tree_.walked;
    tree_.levels.resize(tree_.nodes.size(), Level::row);
    for (std::size_t n = 0; n < tree_.nodes.size(); ++n) {
      const Node& node = tree_.nodes[n];
      Level level = (node.axes & inner)          ? Level::element
                    : (node.axes & tree_.walked) ? Level::segment
                                                 : Level::row;
      if (is_reduction(node.op)) {
        // A segment's result belongs to the segment, even if it is the same for all of them.
        level = tree_.segment != 0 && node.reduced == tree_.segment ? Level::segment : Level::row;
      } else {
        for (const int arg : node.args)
          if (arg >= 0) level = std::max(level, tree_.levels[at(arg)]);
      }
      tree_.levels[n] = level;
    }
  }

  Tree& tree_;
  const LevelFault& report_;
  std::vector<bool> live_;
  std::vector<int> reductions_;
};

}  // namespace

bool plan_levels(Tree& tree, const LevelFault& report) { return Planner(tree, report).run(); }

}  // namespace quern::dsl
