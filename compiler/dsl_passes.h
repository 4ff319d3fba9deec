#pragma once
#include <vector>

#include "compiler/dsl_tree.h"

namespace quern::dsl {

/// One walk along the elements of a segment (of the whole row, where a kernel has no segments).
/// Numbers are those of nodes, in an order in which they can be computed.
struct Walk {
  std::vector<int> segment_nodes;  // once per segment, before the walk
  std::vector<int> element_nodes;  // for each element
  std::vector<int> kept_before;    // for each element: computed by an earlier walk and kept
  /// Folded by the walk, done after it (those over the whole row: after the walks of all segments).
  /// Reductions of values of Level::segment fold once per segment.
  std::vector<int> reductions;
};

/// What is done to all segments of a row, one after another, before the next pass begins.
struct Pass {
  std::vector<int> row_nodes;  // once per row, before the walks
  std::vector<Walk> walks;     // over each segment; the last one folds the reductions over the row
};

/// What later walks take from earlier ones instead of computing it again.
enum class Reuse {
  none,   // every walk computes what it needs from memory
  /// The first walk loads what is the row's own (of a kernel without rows: all); what all rows
  /// share is loaded where it is needed, and arithmetic is repeated.
  loads,
  all,    // what several walks need is computed once and kept, values of segments included
};

/// A kernel as passes over each row: a reduction over the row that depends on another needs a pass
/// of its own; one over a segment that depends on another over the segment needs a walk of its own.
/// All stores belong to the last walk of the last pass, so that every load sees what was in memory
/// before (values of segments and rows are stored after it).
struct Passes {
  std::vector<Pass> passes;
  std::vector<int> kept;  // nodes of Level::element that later walks reuse; empty with Reuse::none
};

Passes plan_passes(const Tree& tree, Reuse reuse);

}  // namespace quern::dsl
