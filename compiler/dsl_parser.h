#pragma once
#include <vector>

#include "compiler/dsl_ast.h"
#include "compiler/dsl_diagnostics.h"

namespace quern::dsl {

/// The kernels of a file whose syntax is right; faults are reported, one for each kernel at most.
/// Recursive descent; nesting and expression depth are bounded, so that no text exhausts the stack.
///
///   file      = kernel*
///   kernel    = "kernel" NAME "(" [operand ("," operand)*] [";" scalar ("," scalar)*] ")"
///               ["->" "(" operand ("," operand)* ")"] "{" (NAME "=" expr)* "}"
///   operand   = NAME ":" ["inout"] NAME bracket
///   scalar    = NAME ":" NAME
///   bracket   = "[" (NAME | NUMBER) ("," (NAME | NUMBER))* "]"
///   expr      = sum [("<" | "<=" | ">" | ">=" | "==" | "!=") sum]
///   sum       = product (("+" | "-") product)*
///   product   = unary (("*" | "/") unary)*
///   unary     = "-" unary | primary
///   primary   = NUMBER | "(" expr ")" | NAME [bracket] ["(" expr ("," expr)* ")"]
std::vector<ast::Kernel> parse_kernels(Diagnostics& diagnostics);

}  // namespace quern::dsl
