#pragma once
#include <memory>

#include "compiler/dsl_ast.h"
#include "compiler/dsl_diagnostics.h"
#include "compiler/dsl_library.h"
#include "compiler/dsl_tree.h"

namespace quern::dsl {

/// Resolves names, types and axes of one kernel. Faults are reported; the tree is then null.
std::shared_ptr<const Tree> check_kernel(const ast::Kernel& kernel, const Library& library,
                                         Diagnostics& diagnostics);

}  // namespace quern::dsl
