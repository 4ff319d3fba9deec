#pragma once
#include <string_view>

#include "compiler/dsl_ast.h"
#include "compiler/dsl_diagnostics.h"

namespace quern::dsl {

/// What a file (a text of `diagnostics`) holds, as far as its syntax is right; faults are reported,
/// one for each kernel or function at most. Recursive descent; nesting and expression depth are
/// bounded, so that no text exhausts the stack. compiler/README.md has the grammar.
ast::File parse_file(Diagnostics& diagnostics, std::string_view text);

}  // namespace quern::dsl
