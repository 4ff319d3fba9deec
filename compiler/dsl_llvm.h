#pragma once
#include <memory>

#include "compiler/dsl_tree.h"

namespace llvm {
class LLVMContext;
class Module;
}  // namespace llvm

namespace quern::dsl {

/// Name of the function of build_module() that takes three arrays.
constexpr const char* kRunFunction = "quern.run";

/// LLVM IR of one kernel, not yet optimised: void @kernel.NAME(operand pointers..., scalars...,
/// extents as i64...), and void @quern.run(ptr operands, ptr scalars, ptr extents) which unpacks
/// arrays of pointers, doubles and i64 and calls it. Loops over the axes that number the rows,
/// around the walks of plan_passes(); every walk reads memory again, since a CPU's caches hold the
/// row. Values travel as dsl_llvm_casts.h says. Arithmetic is strict except that sums may be
/// reassociated.
std::unique_ptr<llvm::Module> build_module(const Tree& tree, const Binding& binding,
                                           llvm::LLVMContext& context);

}  // namespace quern::dsl
