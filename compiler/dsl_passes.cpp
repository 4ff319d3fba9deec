#include "compiler/dsl_passes.h"

#include <algorithm>

namespace quern::dsl {
namespace {

using Set = std::vector<bool>;  // of nodes

class Planner {
 public:
  Planner(const Tree& tree, Reuse reuse)
      : tree_(tree),
        reuse_(reuse),
        count_(tree.nodes.size()),
        needed_(count_),
        computed_(count_),
        kept_(count_),
        passes_before_(count_) {}

  Passes plan() {
    find_needed();
    Passes out;
    out.passes.resize(num_passes_);
    for (std::size_t p = 0; p < num_passes_; ++p) plan_pass(p, out.passes[p]);
    for (std::size_t n = 0; n < count_; ++n)
      if (kept_[n]) out.kept.push_back(static_cast<int>(n));
    return out;
  }

 private:
  static std::size_t at(int number) { return static_cast<std::size_t>(number); }
  bool is_level(std::size_t n, Level level) const { return tree_.levels[n] == level; }
  bool folds(std::size_t n) const { return is_reduction(tree_.nodes[n].op); }
  bool folds_row(std::size_t n) const { return folds(n) && is_level(n, Level::row); }
  bool folds_segment(std::size_t n) const { return folds(n) && !is_level(n, Level::row); }

  template <class Action>
  void for_each_arg(std::size_t n, Action action) const {
    for (const int arg : tree_.nodes[n].args)
      if (arg >= 0) action(at(arg));
  }

  /// What the stores need, and how many whole-row passes must be over before each of it.
  void find_needed() {
    for (std::size_t n = 0; n < count_; ++n) {
      for_each_arg(n, [&](std::size_t arg) {
        passes_before_[n] = std::max(passes_before_[n], passes_before_[arg]);
      });
      if (folds_row(n)) ++passes_before_[n];
    }
    for (const Store& store : tree_.stores) needed_[at(store.value)] = true;
    for (std::size_t n = count_; n-- > 0;) {
      if (!needed_[n]) continue;
      num_passes_ = std::max(num_passes_, passes_before_[n] + 1);
      for_each_arg(n, [&](std::size_t arg) { needed_[arg] = true; });
    }
  }

  bool is_available(std::size_t n) const {
    if (is_level(n, Level::row)) return true;
    if (reuse_ == Reuse::none || !computed_[n]) return false;
    return reuse_ == Reuse::all || is_own_load(n);
  }

  /// A load that Reuse::loads keeps.
  bool is_own_load(std::size_t n) const {
    const Node& node = tree_.nodes[n];
    return is_level(n, Level::element) && node.op == Op::load &&
           (tree_.leading() == 0 || (node.axes & tree_.leading()) != 0);
  }

  void plan_pass(std::size_t p, Pass& pass) {
    const bool last = p + 1 == num_passes_;
    std::vector<int> row_reductions;
    Set targets(count_);  // what the last walk must know
    for (std::size_t n = 0; n < count_; ++n) {
      if (!needed_[n]) continue;
      if (folds_row(n) && passes_before_[n] == p + 1) {
        row_reductions.push_back(static_cast<int>(n));
        targets[at(tree_.nodes[n].args[0])] = true;
      }
      if (is_level(n, Level::row) && !folds(n) && passes_before_[n] == p)
        pass.row_nodes.push_back(static_cast<int>(n));
    }
    if (last)
      for (const Store& store : tree_.stores) targets[at(store.value)] = true;
    // Latency: no load waits for a reduction.
    Set first(count_);
    if (p == 0 && reuse_ != Reuse::none)
      for (std::size_t n = 0; n < count_; ++n)
        first[n] = needed_[n] && is_level(n, Level::element) && tree_.nodes[n].op == Op::load &&
                   is_from_memory(n) && (reuse_ == Reuse::all || is_own_load(n));

    Set wanted = targets;
    for (std::size_t n = 0; n < count_; ++n)
      if (first[n]) wanted[n] = true;
    for (std::size_t n = count_; n-- > 0;)
      if (wanted[n] && !is_available(n))
        for_each_arg(n, [&](std::size_t arg) { wanted[arg] = true; });
    // How many walks along the segment must be over before each of it.
    std::vector<std::size_t> walks_before(count_, 0);
    std::size_t num_walks = 1;
    for (std::size_t n = 0; n < count_; ++n) {
      if (!wanted[n] || is_available(n)) continue;
      for_each_arg(n, [&](std::size_t arg) {
        walks_before[n] = std::max(walks_before[n], walks_before[arg]);
      });
      if (folds_segment(n)) ++walks_before[n];
      num_walks = std::max(num_walks, walks_before[n] + 1);
    }

    pass.walks.resize(num_walks);
    Set in_pass(count_);  // values of the segment that this pass has computed
    for (std::size_t s = 0; s < num_walks; ++s) {
      Walk& walk = pass.walks[s];
      Set elements(count_);
      for (std::size_t n = 0; n < count_; ++n) {
        if (s == 0 && first[n]) elements[n] = true;
        if (s + 1 == num_walks && targets[n]) elements[n] = true;
        if (!wanted[n] || !is_level(n, Level::segment) || is_available(n) || in_pass[n]) continue;
        if (folds(n) ? walks_before[n] == s + 1 : walks_before[n] == s) {
          in_pass[n] = true;
          if (folds(n)) {
            walk.reductions.push_back(static_cast<int>(n));
            elements[at(tree_.nodes[n].args[0])] = true;
          } else {
            walk.segment_nodes.push_back(static_cast<int>(n));
          }
        }
      }
      if (s + 1 == num_walks)
        walk.reductions.insert(walk.reductions.end(), row_reductions.begin(), row_reductions.end());
      for (std::size_t n = count_; n-- > 0;) {
        if (!elements[n] || !is_level(n, Level::element)) continue;
        if (is_available(n)) {
          kept_[n] = true;
          walk.kept_before.push_back(static_cast<int>(n));
          continue;
        }
        walk.element_nodes.push_back(static_cast<int>(n));
        for_each_arg(n, [&](std::size_t arg) { elements[arg] = true; });
      }
      std::reverse(walk.element_nodes.begin(), walk.element_nodes.end());
      std::reverse(walk.kept_before.begin(), walk.kept_before.end());
      for (const int n : walk.element_nodes) computed_[at(n)] = true;
    }
    for (std::size_t n = 0; n < count_; ++n)
      if (in_pass[n]) computed_[n] = true;
  }

  /// No reduction is needed to know where it is loaded from.
  bool is_from_memory(std::size_t load) const {
    Set before(count_);
    before[load] = true;
    for (std::size_t n = load + 1; n-- > 0;) {
      if (!before[n]) continue;
      if (folds(n)) return false;
      for_each_arg(n, [&](std::size_t arg) { before[arg] = true; });
    }
    return true;
  }

  const Tree& tree_;
  Reuse reuse_;
  std::size_t count_;
  Set needed_;
  Set computed_;  // by an earlier walk (values of segments: by an earlier pass)
  Set kept_;
  std::vector<std::size_t> passes_before_;
  std::size_t num_passes_ = 1;
};

}  // namespace

Passes plan_passes(const Tree& tree, Reuse reuse) { return Planner(tree, reuse).plan(); }

}  // namespace quern::dsl
