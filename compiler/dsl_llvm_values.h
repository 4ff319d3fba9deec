#pragma once
#include <llvm/IR/IRBuilder.h>

#include <array>

#include "compiler/dsl_tree.h"

namespace quern::dsl::ir {

using Builder = llvm::IRBuilder<>;
using Arguments = std::array<llvm::Value*, 3>;

/// An operator or function of f32, i32 or conditions; which of them, the arguments' types say.
llvm::Value* arithmetic(Builder& b, Op op, const Arguments& args);

/// What `fold` does with the accumulator and one more f32 value: sum, mean, min or max.
llvm::Value* fold(Builder& b, Op reduction, llvm::Value* total, llvm::Value* value);
/// The value that `fold` begins with.
double identity(Op reduction);

}  // namespace quern::dsl::ir
