#pragma once
#include <llvm/IR/IRBuilder.h>

/// Functions of f32 as IR without branches or calls, so that loops around them are vectorised.
/// Within 3 units in the last place of the true value, over the whole range; infinities and NaN as
/// in the C library.
namespace quern::dsl::ir {

using Builder = llvm::IRBuilder<>;

llvm::Value* exp(Builder& b, llvm::Value* x);
llvm::Value* exp2(Builder& b, llvm::Value* x);
llvm::Value* sigmoid(Builder& b, llvm::Value* x);
llvm::Value* log(Builder& b, llvm::Value* x);
llvm::Value* log2(Builder& b, llvm::Value* x);
llvm::Value* tanh(Builder& b, llvm::Value* x);
llvm::Value* erf(Builder& b, llvm::Value* x);
llvm::Value* sin(Builder& b, llvm::Value* x);
llvm::Value* cos(Builder& b, llvm::Value* x);

}  // namespace quern::dsl::ir
