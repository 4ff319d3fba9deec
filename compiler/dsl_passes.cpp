#include "compiler/dsl_passes.h"

#include <algorithm>

namespace quern::dsl {

Passes plan_passes(const Tree& tree, bool keep) {
  const std::size_t count = tree.nodes.size();
  const auto at = [](int number) { return static_cast<std::size_t>(number); };
  Passes out;
  out.along_last.resize(count);
  std::vector<std::size_t> level(count, 0);  // walks that must be over before it can be computed
  std::vector<bool> needed(count, false);
  for (std::size_t n = 0; n < count; ++n) {
    const Node& node = tree.nodes[n];
    out.along_last[n] = tree.varies_along_last(node.axes);
    for (const int arg : node.args)
      if (arg >= 0) level[n] = std::max(level[n], level[at(arg)]);
    if (is_reduction(node.op)) ++level[n];
  }
  for (const Store& store : tree.stores) needed[at(store.value)] = true;
  std::size_t last = 0;
  for (std::size_t n = count; n-- > 0;) {
    if (!needed[n]) continue;
    last = std::max(last, level[n]);
    for (const int arg : tree.nodes[n].args)
      if (arg >= 0) needed[at(arg)] = true;
  }
  out.passes.resize(last + 1);
  std::vector<bool> computed(count, false), kept(count, false);
  for (std::size_t p = 0; p <= last; ++p) {
    Pass& pass = out.passes[p];
    std::vector<bool> wanted(count, false);
    for (std::size_t n = 0; n < count; ++n) {
      const bool folds = is_reduction(tree.nodes[n].op);
      if (needed[n] && folds && level[n] == p + 1) {
        pass.reductions.push_back(static_cast<int>(n));
        wanted[at(tree.nodes[n].args[0])] = true;
      }
      if (needed[n] && !folds && !out.along_last[n] && level[n] == p)
        pass.row_nodes.push_back(static_cast<int>(n));
    }
    if (keep && p == 0)  // latency: no load waits for a reduction
      for (std::size_t n = 0; n < count; ++n)
        if (needed[n] && out.along_last[n] && tree.nodes[n].op == Op::load) wanted[n] = true;
    if (p == last)
      for (const Store& store : tree.stores)
        if (out.along_last[at(store.value)]) wanted[at(store.value)] = true;
    for (std::size_t n = count; n-- > 0;) {
      if (!wanted[n]) continue;
      if (keep && computed[n]) {
        kept[n] = true;
        pass.kept_before.push_back(static_cast<int>(n));
        continue;
      }
      pass.column_nodes.push_back(static_cast<int>(n));
      for (const int arg : tree.nodes[n].args)
        if (arg >= 0 && out.along_last[at(arg)]) wanted[at(arg)] = true;
    }
    std::reverse(pass.column_nodes.begin(), pass.column_nodes.end());
    std::reverse(pass.kept_before.begin(), pass.kept_before.end());
    for (const int n : pass.column_nodes) computed[at(n)] = true;
  }
  for (std::size_t n = 0; n < count; ++n)
    if (kept[n]) out.kept.push_back(static_cast<int>(n));
  return out;
}

}  // namespace quern::dsl
