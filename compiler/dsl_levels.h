#pragma once
#include <functional>
#include <string>
#include <string_view>

#include "compiler/dsl_tree.h"

namespace quern::dsl {

/// Where and why a tree's reductions or outputs do not fit together: `node` or `operand` is the
/// number of what is at fault, the other one -1.
using LevelFault = std::function<void(int node, int operand, const std::string& sentence)>;

/// Decides what a row is and how often each value is computed: fills in walked, segment, reduces
/// and levels. False after reporting a fault.
bool plan_levels(Tree& tree, const LevelFault& report);

}  // namespace quern::dsl
