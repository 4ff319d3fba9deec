#pragma once
#include <llvm/IR/IRBuilder.h>

#include "runtime/base/dtype.h"

namespace quern::dsl::ir {

using Builder = llvm::IRBuilder<>;

/// What values of a dtype are in IR: f32 and i32 are themselves, conditions i1; all others travel
/// as their bits, i4 as an i8 that holds its value.
llvm::Type* type_of(Builder& b, DType dtype);

/// A cast as the language page has it; runtime/base/half.h and fp8.h do the same on the host.
llvm::Value* cast(Builder& b, llvm::Value* value, DType from, DType to);

}  // namespace quern::dsl::ir
