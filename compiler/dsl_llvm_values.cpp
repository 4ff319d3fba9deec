#include "compiler/dsl_llvm_values.h"

#include <llvm/IR/Intrinsics.h>
#include <llvm/IR/Module.h>

#include <limits>

#include "compiler/dsl_llvm_math.h"

namespace quern::dsl::ir {
namespace {

using llvm::Value;
namespace intrinsic = llvm::Intrinsic;

Value* one(Builder& b) { return llvm::ConstantFP::get(b.getFloatTy(), 1.0); }

Value* power(Builder& b, Value* x, Value* y) {
  llvm::Module& module = *b.GetInsertBlock()->getModule();
  const llvm::FunctionCallee callee =
      module.getOrInsertFunction("powf", b.getFloatTy(), b.getFloatTy(), b.getFloatTy());
  llvm::CallInst* call = b.CreateCall(callee, {x, y});
  call->setDoesNotAccessMemory();
  call->setDoesNotThrow();
  return call;
}

/// By 0 divides by 1, and by -1 negates, wrapping around. Other divisors that are not constant go
/// through f64, whose quotient of two i32 truncates to the right one: that is vectorised, and LLVM
/// 16 folds vectors of quotients by select(y == 0, 1, y) as if y had been divided by.
Value* integer_quotient(Builder& b, Value* x, Value* y) {
  Value* is_minus_one = b.CreateICmpEQ(y, b.getInt32(~0u));
  Value* is_simple = b.CreateOr(is_minus_one, b.CreateICmpEQ(y, b.getInt32(0)));
  Value* divisor = b.CreateSelect(is_simple, b.getInt32(1), y);
  Value* quotient = nullptr;
  if (llvm::isa<llvm::ConstantInt>(divisor)) {
    quotient = b.CreateSDiv(x, divisor);
  } else {
    llvm::Type* f64 = b.getDoubleTy();
    quotient = b.CreateFPToSI(b.CreateFDiv(b.CreateSIToFP(x, f64), b.CreateSIToFP(divisor, f64)),
                              b.getInt32Ty());
  }
  return b.CreateSelect(is_minus_one, b.CreateNeg(x), quotient);
}

Value* integer_arithmetic(Builder& b, Op op, Value* x, Value* y) {
  switch (op) {
    case Op::negate:
      return b.CreateNeg(x);
    case Op::abs:
      return b.CreateBinaryIntrinsic(intrinsic::abs, x, b.getFalse());
    case Op::add:
      return b.CreateAdd(x, y);
    case Op::subtract:
      return b.CreateSub(x, y);
    case Op::multiply:
      return b.CreateMul(x, y);
    case Op::divide:
      return integer_quotient(b, x, y);
    case Op::modulo: {
      Value* divisor = b.CreateSelect(b.CreateICmpEQ(y, b.getInt32(0)), b.getInt32(1), y);
      return b.CreateSub(x, b.CreateMul(integer_quotient(b, x, divisor), divisor));
    }
    case Op::min:
      return b.CreateBinaryIntrinsic(intrinsic::smin, x, y);
    case Op::max:
      return b.CreateBinaryIntrinsic(intrinsic::smax, x, y);
    case Op::less:
      return b.CreateICmpSLT(x, y);
    case Op::less_equal:
      return b.CreateICmpSLE(x, y);
    case Op::greater:
      return b.CreateICmpSGT(x, y);
    case Op::greater_equal:
      return b.CreateICmpSGE(x, y);
    case Op::equal:
      return b.CreateICmpEQ(x, y);
    case Op::not_equal:
      return b.CreateICmpNE(x, y);
    default:
      return nullptr;
  }
}

Value* float_arithmetic(Builder& b, Op op, Value* x, Value* y) {
  switch (op) {
    case Op::negate:
      return b.CreateFNeg(x);
    case Op::abs:
      return b.CreateUnaryIntrinsic(intrinsic::fabs, x);
    case Op::sqrt:
      return b.CreateUnaryIntrinsic(intrinsic::sqrt, x);
    case Op::rsqrt:
      return b.CreateFDiv(one(b), b.CreateUnaryIntrinsic(intrinsic::sqrt, x));
    case Op::exp:
      return exp(b, x);
    case Op::exp2:
      return exp2(b, x);
    case Op::log:
      return log(b, x);
    case Op::log2:
      return log2(b, x);
    case Op::tanh:
      return tanh(b, x);
    case Op::erf:
      return erf(b, x);
    case Op::sin:
      return sin(b, x);
    case Op::cos:
      return cos(b, x);
    case Op::sigmoid:
      return sigmoid(b, x);
    case Op::floor:
      return b.CreateUnaryIntrinsic(intrinsic::floor, x);
    case Op::ceil:
      return b.CreateUnaryIntrinsic(intrinsic::ceil, x);
    case Op::round:  // to even: the rounding mode is never changed
      return b.CreateUnaryIntrinsic(intrinsic::rint, x);
    case Op::trunc:
      return b.CreateUnaryIntrinsic(intrinsic::trunc, x);
    case Op::add:
      return b.CreateFAdd(x, y);
    case Op::subtract:
      return b.CreateFSub(x, y);
    case Op::multiply:
      return b.CreateFMul(x, y);
    case Op::divide:
      return b.CreateFDiv(x, y);
    case Op::power:
      return power(b, x, y);
    case Op::min:
      return b.CreateMinNum(x, y);
    case Op::max:
      return b.CreateMaxNum(x, y);
    case Op::less:
      return b.CreateFCmpOLT(x, y);
    case Op::less_equal:
      return b.CreateFCmpOLE(x, y);
    case Op::greater:
      return b.CreateFCmpOGT(x, y);
    case Op::greater_equal:
      return b.CreateFCmpOGE(x, y);
    case Op::equal:
      return b.CreateFCmpOEQ(x, y);
    case Op::not_equal:
      return b.CreateFCmpUNE(x, y);
    default:
      return nullptr;
  }
}

}  // namespace

Value* arithmetic(Builder& b, Op op, const Arguments& args) {
  const auto [x, y, z] = args;
  switch (op) {
    case Op::select:
      return b.CreateSelect(x, y, z);
    // Both sides are values without effects; i1 needs no short cut.
    case Op::both:
      return b.CreateAnd(x, y);
    case Op::either:
      return b.CreateOr(x, y);
    case Op::invert:
      return b.CreateNot(x);
    default:
      return x->getType()->isIntegerTy() ? integer_arithmetic(b, op, x, y)
                                         : float_arithmetic(b, op, x, y);
  }
}

double identity(Op reduction) {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  return reduction == Op::reduce_max ? -infinity : reduction == Op::reduce_min ? infinity : 0.0;
}

Value* fold(Builder& b, Op reduction, Value* total, Value* value) {
  if (reduction == Op::reduce_max) return b.CreateMaxNum(total, value);
  if (reduction == Op::reduce_min) return b.CreateMinNum(total, value);
  Builder::FastMathFlagGuard guard(b);
  llvm::FastMathFlags flags;
  flags.setAllowReassoc();  // lets the sum be vectorised
  b.setFastMathFlags(flags);
  return b.CreateFAdd(total, value);
}

}  // namespace quern::dsl::ir
