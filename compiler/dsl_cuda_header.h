#pragma once
#include <set>
#include <string>

#include "compiler/dsl_cuda_helpers.h"
#include "compiler/dsl_tree.h"

namespace quern::dsl {

/// "Kernel rmsnorm of Quern's kernel language, T = bf16, cols = 4096"
std::string title(const Tree& tree, const Binding& binding);

/// The struct that pack_args lays out: pointers of the operands but for those left out, scalars,
/// extents.
std::string args_struct(const Tree& tree, const Binding& binding, const std::string& name,
                        const std::set<int>& left_out, Helpers& helpers);

}  // namespace quern::dsl
