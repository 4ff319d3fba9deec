#include "compiler/dsl_llvm.h"

#include <llvm/IR/IRBuilder.h>
#include <llvm/IR/Intrinsics.h>
#include <llvm/IR/Module.h>

#include <functional>
#include <limits>

#include "compiler/dsl_passes.h"

namespace quern::dsl {
namespace {

using llvm::Value;

class ModuleBuilder {
 public:
  ModuleBuilder(const Tree& tree, const Binding& binding, llvm::LLVMContext& context)
      : tree_(tree),
        binding_(binding),
        passes_(plan_passes(tree, /*keep=*/false)),
        module_(std::make_unique<llvm::Module>(tree.name, context)),
        b_(context),
        f32_(b_.getFloatTy()),
        i32_(b_.getInt32Ty()),
        i64_(b_.getInt64Ty()) {}

  std::unique_ptr<llvm::Module> build() {
    llvm::Function* kernel = kernel_function();
    entry_ = llvm::BasicBlock::Create(b_.getContext(), "entry", kernel);
    b_.SetInsertPoint(entry_);
    values_.resize(tree_.nodes.size());
    over_leading_axes(0);
    b_.CreateRetVoid();
    run_function(kernel);
    return std::move(module_);
  }

 private:
  static std::size_t at(int number) { return static_cast<std::size_t>(number); }
  const Node& node(int number) const { return tree_.nodes[at(number)]; }
  DType dtype_of(const Type& type) const {
    return type.dtype == DType::boolean ? type.dtype : resolve(tree_, type, binding_);
  }

  llvm::Type* storage(DType dtype) {
    switch (dtype) {
      case DType::f16:
      case DType::bf16:
        return b_.getInt16Ty();
      case DType::i32:
        return i32_;
      case DType::i8:
      case DType::u8:
        return b_.getInt8Ty();
      default:
        return f32_;
    }
  }

  Value* f32(double value) { return llvm::ConstantFP::get(f32_, value); }
  Value* u32(std::uint32_t value) { return b_.getInt32(value); }
  Value* i64(std::int64_t value) { return b_.getInt64(static_cast<std::uint64_t>(value)); }
  Value* bits(Value* v) { return b_.CreateBitCast(v, i32_); }
  Value* as_f32(Value* v) { return b_.CreateBitCast(v, f32_); }

  llvm::Function* kernel_function() {
    std::vector<llvm::Type*> types(tree_.operands.size(), b_.getPtrTy());
    for (const ScalarInfo& scalar : tree_.scalars) types.push_back(storage(scalar.dtype));
    types.insert(types.end(), tree_.axes.size(), i64_);
    auto* function =
        llvm::Function::Create(llvm::FunctionType::get(b_.getVoidTy(), types, false),
                               llvm::Function::ExternalLinkage, "kernel." + tree_.name, *module_);
    function->setDoesNotThrow();
    unsigned number = 0;
    for (const OperandInfo& operand : tree_.operands) {
      llvm::Argument* arg = function->getArg(number);
      arg->setName(operand.name);
      arg->addAttr(llvm::Attribute::NoAlias);
      if (operand.role == OperandInfo::Role::in) arg->addAttr(llvm::Attribute::ReadOnly);
      pointers_.push_back(arg);
      ++number;
    }
    for (const ScalarInfo& scalar : tree_.scalars) {
      function->getArg(number)->setName(scalar.name);
      scalars_.push_back(function->getArg(number++));
    }
    for (const std::string& axis : tree_.axes) {
      function->getArg(number)->setName(axis);
      const auto bound = binding_.extents.find(axis);
      extents_.push_back(bound == binding_.extents.end()
                             ? static_cast<Value*>(function->getArg(number))
                             : i64(bound->second));
      ++number;
    }
    return function;
  }

  void run_function(llvm::Function* kernel) {
    const std::vector<llvm::Type*> types(3, b_.getPtrTy());
    auto* function =
        llvm::Function::Create(llvm::FunctionType::get(b_.getVoidTy(), types, false),
                               llvm::Function::ExternalLinkage, kRunFunction, *module_);
    function->setDoesNotThrow();
    b_.SetInsertPoint(llvm::BasicBlock::Create(b_.getContext(), "entry", function));
    const auto element = [&](unsigned array, llvm::Type* type, std::size_t index) -> Value* {
      return b_.CreateLoad(type,
                           b_.CreateConstInBoundsGEP1_64(type, function->getArg(array), index));
    };
    std::vector<Value*> args;
    for (std::size_t i = 0; i < tree_.operands.size(); ++i)
      args.push_back(element(0, b_.getPtrTy(), i));
    for (std::size_t i = 0; i < tree_.scalars.size(); ++i) {
      Value* value = element(1, b_.getDoubleTy(), i);
      args.push_back(tree_.scalars[i].dtype == DType::i32 ? b_.CreateFPToSI(value, i32_)
                                                          : b_.CreateFPTrunc(value, f32_));
    }
    for (std::size_t i = 0; i < tree_.axes.size(); ++i) args.push_back(element(2, i64_, i));
    b_.CreateCall(kernel, args);
    b_.CreateRetVoid();
  }

  // Loops.

  void loop(Value* count, const std::string& name, const std::function<void(Value*)>& body) {
    llvm::Function* function = b_.GetInsertBlock()->getParent();
    llvm::BasicBlock* before = b_.GetInsertBlock();
    auto* inside = llvm::BasicBlock::Create(b_.getContext(), "each_" + name, function);
    auto* after = llvm::BasicBlock::Create(b_.getContext(), "after_" + name, function);
    b_.CreateCondBr(b_.CreateICmpSGT(count, i64(0)), inside, after);
    b_.SetInsertPoint(inside);
    llvm::PHINode* index = b_.CreatePHI(i64_, 2, name + "_index");
    index->addIncoming(i64(0), before);
    body(index);
    Value* next = b_.CreateAdd(index, i64(1), "", /*NUW=*/true, /*NSW=*/true);
    index->addIncoming(next, b_.GetInsertBlock());
    b_.CreateCondBr(b_.CreateICmpSLT(next, count), inside, after);
    b_.SetInsertPoint(after);
  }

  void over_leading_axes(int axis) {
    if (axis == tree_.last_axis()) return row();
    loop(extents_[at(axis)], tree_.axes[at(axis)], [&](Value* index) {
      indices_[at(axis)] = index;
      over_leading_axes(axis + 1);
    });
  }

  void row() {
    for (std::size_t p = 0; p < passes_.passes.size(); ++p) {
      const Pass& pass = passes_.passes[p];
      for (const int n : pass.row_nodes) values_[at(n)] = compute(n, nullptr);
      const bool last = p + 1 == passes_.passes.size();
      if (!pass.column_nodes.empty() || last) walk(pass, last);
    }
    for (const Store& store : tree_.stores)
      if (!spans_last(store.operand)) write(store, nullptr);
  }

  void walk(const Pass& pass, bool last) {
    std::vector<llvm::AllocaInst*> accumulators;
    for (const int n : pass.reductions) {
      llvm::IRBuilder<> at_entry(entry_, entry_->begin());
      accumulators.push_back(at_entry.CreateAlloca(f32_));
      b_.CreateStore(identity(node(n).op), accumulators.back());
    }
    const bool writes =
        last && std::any_of(tree_.stores.begin(), tree_.stores.end(),
                            [&](const Store& store) { return spans_last(store.operand); });
    if (writes || !pass.reductions.empty())
      loop(extents_.back(), tree_.axes.back(), [&](Value* column) {
        for (const int n : pass.column_nodes) values_[at(n)] = compute(n, column);
        for (std::size_t r = 0; r < pass.reductions.size(); ++r) {
          const Node& reduction = node(pass.reductions[r]);
          b_.CreateStore(fold(reduction.op, b_.CreateLoad(f32_, accumulators[r]),
                              values_[at(reduction.args[0])]),
                         accumulators[r]);
        }
        if (last)
          for (const Store& store : tree_.stores)
            if (spans_last(store.operand)) write(store, column);
      });
    for (std::size_t r = 0; r < pass.reductions.size(); ++r) {
      Value* total = b_.CreateLoad(f32_, accumulators[r]);
      if (node(pass.reductions[r]).op == Op::reduce_mean)
        total = b_.CreateFDiv(total, b_.CreateSIToFP(extents_.back(), f32_));
      values_[at(pass.reductions[r])] = total;
    }
  }

  Value* identity(Op op) {
    constexpr double infinity = std::numeric_limits<double>::infinity();
    return f32(op == Op::reduce_max ? -infinity : op == Op::reduce_min ? infinity : 0.0);
  }

  Value* fold(Op op, Value* total, Value* value) {
    if (op == Op::reduce_max) return b_.CreateMaxNum(total, value);
    if (op == Op::reduce_min) return b_.CreateMinNum(total, value);
    llvm::IRBuilder<>::FastMathFlagGuard guard(b_);
    llvm::FastMathFlags flags;
    flags.setAllowReassoc();  // lets the sum be vectorised
    b_.setFastMathFlags(flags);
    return b_.CreateFAdd(total, value);
  }

  // Memory.

  bool spans_last(int operand) const {
    for (const Dimension& dimension : tree_.layouts[at(operand)])
      if (dimension.axis == tree_.last_axis()) return true;
    return false;
  }

  Value* address(int operand, const std::vector<std::int64_t>& picked, Value* column) {
    Value* offset = i64(0);
    std::size_t num_picked = 0;
    for (const Dimension& dimension : tree_.layouts[at(operand)]) {
      Value* extent;
      Value* index;
      if (dimension.axis < 0) {
        extent = i64(dimension.extent);
        index = i64(picked[num_picked++]);
      } else {
        extent = extents_[at(dimension.axis)];
        index = dimension.axis == tree_.last_axis() ? column : indices_[at(dimension.axis)];
      }
      offset = b_.CreateAdd(b_.CreateMul(offset, extent, "", true, true), index, "", true, true);
    }
    return b_.CreateInBoundsGEP(storage(dtype_of(tree_.operand_types[at(operand)])),
                                pointers_[at(operand)], offset);
  }

  void write(const Store& store, Value* column) {
    b_.CreateStore(values_[at(store.value)], address(store.operand, {}, column));
  }

  // Values.

  Value* arg(const Node& n, std::size_t i) { return values_[at(n.args[i])]; }

  Value* compute(int number, Value* column) {
    const Node& n = node(number);
    switch (n.op) {
      case Op::constant:
        return f32(static_cast<double>(n.value));
      case Op::scalar:
        return scalars_[at(n.index)];
      case Op::load:
        return b_.CreateLoad(storage(dtype_of(n.type)), address(n.index, n.picked, column), n.name);
      case Op::cast:
        return cast(arg(n, 0), dtype_of(node(n.args[0]).type), dtype_of(n.type));
      case Op::negate:
        return b_.CreateFNeg(arg(n, 0));
      case Op::abs:
        return b_.CreateUnaryIntrinsic(llvm::Intrinsic::fabs, arg(n, 0));
      case Op::sqrt:
        return b_.CreateUnaryIntrinsic(llvm::Intrinsic::sqrt, arg(n, 0));
      case Op::rsqrt:
        return b_.CreateFDiv(f32(1), b_.CreateUnaryIntrinsic(llvm::Intrinsic::sqrt, arg(n, 0)));
      case Op::exp:
        return exp(arg(n, 0));
      case Op::log:
        return math_call("logf", arg(n, 0));
      case Op::tanh:
        return math_call("tanhf", arg(n, 0));
      case Op::erf:
        return math_call("erff", arg(n, 0));
      case Op::sin:
        return math_call("sinf", arg(n, 0));
      case Op::cos:
        return math_call("cosf", arg(n, 0));
      case Op::sigmoid:
        return b_.CreateFDiv(f32(1), b_.CreateFAdd(f32(1), exp(b_.CreateFNeg(arg(n, 0)))));
      case Op::add:
        return b_.CreateFAdd(arg(n, 0), arg(n, 1));
      case Op::subtract:
        return b_.CreateFSub(arg(n, 0), arg(n, 1));
      case Op::multiply:
        return b_.CreateFMul(arg(n, 0), arg(n, 1));
      case Op::divide:
        return b_.CreateFDiv(arg(n, 0), arg(n, 1));
      case Op::min:
        return b_.CreateMinNum(arg(n, 0), arg(n, 1));
      case Op::max:
        return b_.CreateMaxNum(arg(n, 0), arg(n, 1));
      case Op::less:
        return b_.CreateFCmpOLT(arg(n, 0), arg(n, 1));
      case Op::less_equal:
        return b_.CreateFCmpOLE(arg(n, 0), arg(n, 1));
      case Op::greater:
        return b_.CreateFCmpOGT(arg(n, 0), arg(n, 1));
      case Op::greater_equal:
        return b_.CreateFCmpOGE(arg(n, 0), arg(n, 1));
      case Op::equal:
        return b_.CreateFCmpOEQ(arg(n, 0), arg(n, 1));
      case Op::not_equal:
        return b_.CreateFCmpUNE(arg(n, 0), arg(n, 1));
      case Op::select:
        return b_.CreateSelect(arg(n, 0), arg(n, 1), arg(n, 2));
      case Op::reduce_sum:
      case Op::reduce_mean:
      case Op::reduce_min:
      case Op::reduce_max:
        break;  // folded by walk()
    }
    return nullptr;
  }

  Value* math_call(const char* function, Value* x) {
    const llvm::FunctionCallee callee = module_->getOrInsertFunction(function, f32_, f32_);
    llvm::CallInst* call = b_.CreateCall(callee, {x});
    call->setDoesNotAccessMemory();
    call->setDoesNotThrow();
    return call;
  }

  /// exp by range reduction, e^x = 2^n e^r with |r| <= ln(2)/2, and the polynomial of Cephes' expf;
  /// within 2 ulp of the true value. Unlike a call of libm it can be vectorised.
  Value* exp(Value* x) {
    // Past these the result is 0 or infinity; NaN is put back at the end.
    Value* clamped = b_.CreateMinNum(b_.CreateMaxNum(x, f32(-104)), f32(89));
    constexpr double magic =
        12582912;  // 1.5 * 2^23: adding it rounds to an integer in the low bits
    Value* shifted = b_.CreateFAdd(b_.CreateFMul(clamped, f32(1.44269504088896341)), f32(magic));
    Value* n = b_.CreateSub(bits(shifted), u32(0x4b400000u));
    Value* whole = b_.CreateFSub(shifted, f32(magic));
    // ln 2 in two parts, so that n times the first is exact.
    Value* r = b_.CreateFSub(clamped, b_.CreateFMul(whole, f32(0.693359375)));
    r = b_.CreateFSub(r, b_.CreateFMul(whole, f32(-2.12194440e-4)));
    Value* p = f32(1.9875691500e-4);
    for (const double c :
         {1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1})
      p = b_.CreateFAdd(b_.CreateFMul(p, r), f32(c));
    Value* y = b_.CreateFAdd(b_.CreateFAdd(b_.CreateFMul(p, b_.CreateFMul(r, r)), r), f32(1));
    // 2^n in two factors: n reaches from -150 to 128, beyond what one exponent field holds.
    Value* half = b_.CreateAShr(n, u32(1));
    const auto power = [&](Value* exponent) {
      return as_f32(b_.CreateShl(b_.CreateAdd(exponent, u32(127)), u32(23)));
    };
    y = b_.CreateFMul(b_.CreateFMul(y, power(half)), power(b_.CreateSub(n, half)));
    return b_.CreateSelect(b_.CreateFCmpUNO(x, x), x, y);
  }

  // Conversions; runtime/base/half.h does the same on scalars.

  Value* cast(Value* v, DType from, DType to) {
    if (from == to) return v;
    const auto integer = [](DType dtype) {
      return dtype == DType::i32 || dtype == DType::i8 || dtype == DType::u8;
    };
    if (integer(from) && integer(to)) return integer_cast(v, from, to);
    return from_f32(to_f32(v, from), to);
  }

  Value* widen(Value* v, DType from) {
    return from == DType::u8 ? b_.CreateZExt(v, i32_) : b_.CreateSExtOrTrunc(v, i32_);
  }

  Value* integer_cast(Value* v, DType from, DType to) {
    v = widen(v, from);
    if (to == DType::i32) return v;
    const auto clamp = [&](int low, int high) {
      v = b_.CreateBinaryIntrinsic(llvm::Intrinsic::smax, v, u32(static_cast<std::uint32_t>(low)));
      v = b_.CreateBinaryIntrinsic(llvm::Intrinsic::smin, v, u32(static_cast<std::uint32_t>(high)));
    };
    if (to == DType::i8)
      clamp(-128, 127);
    else
      clamp(0, 255);
    return b_.CreateTrunc(v, b_.getInt8Ty());
  }

  Value* to_f32(Value* v, DType from) {
    switch (from) {
      case DType::bf16:
        return as_f32(b_.CreateShl(b_.CreateZExt(v, i32_), u32(16)));
      case DType::f16: {
        Value* wide = b_.CreateZExt(v, i32_);
        Value* sign = b_.CreateShl(b_.CreateAnd(wide, u32(0x8000)), u32(16));
        Value* magnitude = b_.CreateShl(b_.CreateAnd(wide, u32(0x7fff)), u32(13));
        // Multiplying by 2^112 moves the exponent's bias; it is exact, for subnormals too.
        Value* finite =
            bits(b_.CreateFMul(as_f32(magnitude), f32(5192296858534827628530496329220096.0)));
        Value* special = b_.CreateOr(magnitude, u32(0x7f800000u));
        Value* is_special = b_.CreateICmpUGE(magnitude, u32(0x7c00u << 13));
        return as_f32(b_.CreateOr(b_.CreateSelect(is_special, special, finite), sign));
      }
      case DType::i32:
      case DType::i8:
      case DType::u8:
        return b_.CreateSIToFP(widen(v, from), f32_);
      default:
        return v;
    }
  }

  Value* from_f32(Value* v, DType to) {
    switch (to) {
      case DType::bf16: {
        Value* u = bits(v);
        Value* odd = b_.CreateAnd(b_.CreateLShr(u, u32(16)), u32(1));
        Value* rounded = b_.CreateLShr(b_.CreateAdd(b_.CreateAdd(u, u32(0x7fff)), odd), u32(16));
        Value* quiet = b_.CreateOr(b_.CreateLShr(u, u32(16)), u32(0x40));
        return b_.CreateTrunc(b_.CreateSelect(b_.CreateFCmpUNO(v, v), quiet, rounded),
                              b_.getInt16Ty());
      }
      case DType::f16: {
        Value* u = bits(v);
        Value* sign = b_.CreateAnd(b_.CreateLShr(u, u32(16)), u32(0x8000));
        Value* magnitude = b_.CreateAnd(u, u32(0x7fffffffu));
        Value* odd = b_.CreateAnd(b_.CreateLShr(magnitude, u32(13)), u32(1));
        Value* rounded = b_.CreateAdd(b_.CreateAdd(magnitude, u32(0xfff)), odd);
        Value* out = b_.CreateLShr(b_.CreateSub(rounded, u32(112u << 23)), u32(13));
        // Below 2^-14: adding 1/2 rounds to a multiple of 2^-24, which is f16's smallest step.
        Value* tiny =
            b_.CreateSub(bits(b_.CreateFAdd(as_f32(magnitude), f32(0.5))), u32(0x3f000000u));
        out = b_.CreateSelect(b_.CreateICmpULT(magnitude, u32(0x38800000u)), tiny, out);
        out = b_.CreateSelect(b_.CreateICmpUGE(magnitude, u32(0x477ff000u)), u32(0x7c00), out);
        out = b_.CreateSelect(b_.CreateICmpUGT(magnitude, u32(0x7f800000u)), u32(0x7e00), out);
        return b_.CreateTrunc(b_.CreateOr(out, sign), b_.getInt16Ty());
      }
      case DType::i32:
      case DType::i8:
      case DType::u8: {
        // Round to nearest even, saturate, NaN to 0.
        Value* rounded = b_.CreateUnaryIntrinsic(llvm::Intrinsic::rint, v);
        return b_.CreateIntrinsic(
            to == DType::u8 ? llvm::Intrinsic::fptoui_sat : llvm::Intrinsic::fptosi_sat,
            {storage(to), f32_}, {rounded});
      }
      default:
        return v;
    }
  }

  const Tree& tree_;
  const Binding& binding_;
  Passes passes_;
  std::unique_ptr<llvm::Module> module_;
  llvm::IRBuilder<> b_;
  llvm::Type *f32_, *i32_, *i64_;
  llvm::BasicBlock* entry_ = nullptr;
  std::vector<Value*> pointers_, scalars_, extents_;
  std::array<Value*, kMaxRank> indices_{};  // of the leading axes
  std::vector<Value*> values_;              // of each node, at the point being built
};

}  // namespace

std::unique_ptr<llvm::Module> build_module(const Tree& tree, const Binding& binding,
                                           llvm::LLVMContext& context) {
  return ModuleBuilder(tree, binding, context).build();
}

}  // namespace quern::dsl
