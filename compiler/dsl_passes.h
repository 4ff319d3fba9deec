#pragma once
#include <vector>

#include "compiler/dsl_tree.h"

namespace quern::dsl {

/// One walk along the last axis of a row, and what surrounds it. Numbers are those of nodes, in an
/// order in which they can be computed.
struct Pass {
  std::vector<int> row_nodes;     // once per row, before the walk
  std::vector<int> column_nodes;  // for each element
  std::vector<int> kept_before;   // for each element: computed by an earlier pass and kept
  std::vector<int> reductions;    // folded by the walk, done after it
};

/// A kernel as walks along each row: a reduction that depends on another needs a walk of its own.
/// All stores belong to the last walk, so that every load sees what was in memory before.
struct Passes {
  std::vector<Pass> passes;
  std::vector<bool> along_last;  // of each node: varies along the last axis
  std::vector<int> kept;         // nodes that later passes reuse; empty unless asked for
};

/// `keep`: the first pass loads all that the row needs, and values that several passes need are
/// computed once and kept (in registers of a GPU thread); otherwise each pass computes what it
/// needs from memory.
Passes plan_passes(const Tree& tree, bool keep);

}  // namespace quern::dsl
