#include "compiler/dsl_llvm.h"

#include <llvm/IR/IRBuilder.h>
#include <llvm/IR/Intrinsics.h>
#include <llvm/IR/Module.h>

#include <algorithm>
#include <functional>

#include "compiler/dsl_llvm_casts.h"
#include "compiler/dsl_llvm_values.h"
#include "compiler/dsl_passes.h"

namespace quern::dsl {
namespace {

using llvm::Value;

class ModuleBuilder {
 public:
  ModuleBuilder(const Tree& tree, const Binding& binding, llvm::LLVMContext& context)
      : tree_(tree),
        binding_(binding),
        passes_(plan_passes(tree, Reuse::none)),
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
    indices_.resize(tree_.axes.size());
    accumulators_.resize(tree_.nodes.size());
    over_axes(tree_.leading(), [&] { row(); });
    b_.CreateRetVoid();
    run_function(kernel);
    return std::move(module_);
  }

 private:
  /// Of one reduction. `position` is that of argmin and argmax, -1 as long as nothing was found.
  struct Accumulator {
    llvm::AllocaInst *value = nullptr, *position = nullptr;
  };

  static std::size_t at(int number) { return static_cast<std::size_t>(number); }
  const Node& node(int number) const { return tree_.nodes[at(number)]; }
  DType dtype_of(const Type& type) const { return resolve(tree_, type, binding_); }
  DType dtype_of_operand(int operand) const { return dtype_of(tree_.operand_types[at(operand)]); }

  Value* f32(double value) { return llvm::ConstantFP::get(f32_, value); }
  Value* i64(std::int64_t value) { return b_.getInt64(static_cast<std::uint64_t>(value)); }

  llvm::Function* kernel_function() {
    std::vector<llvm::Type*> types(tree_.operands.size(), b_.getPtrTy());
    for (const ScalarInfo& scalar : tree_.scalars) types.push_back(ir::type_of(b_, scalar.dtype));
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

  /// Nested loops over a set of axes, the outermost axis outermost.
  void over_axes(AxisSet set, const std::function<void()>& body, int axis = 0) {
    if ((set >> axis) == 0) return body();
    if (((set >> axis) & 1u) == 0) return over_axes(set, body, axis + 1);
    loop(extents_[at(axis)], tree_.axes[at(axis)], [&](Value* index) {
      indices_[at(axis)] = index;
      over_axes(set, body, axis + 1);
    });
  }

  void row() {
    for (std::size_t p = 0; p < passes_.passes.size(); ++p) {
      const Pass& pass = passes_.passes[p];
      for (const int n : pass.row_nodes) values_[at(n)] = compute(n);
      const bool last = p + 1 == passes_.passes.size();
      const std::vector<int>& folded = pass.walks.back().reductions;
      for_each_at(folded, Level::row, [&](int n) { begin(n); });
      if (!folded.empty() || (last && (stores_at(Level::segment) || stores_at(Level::element))))
        over_axes(tree_.walked & ~walked_at_once(), [&] { segment(pass, last); });
      for_each_at(folded, Level::row, [&](int n) { values_[at(n)] = result(n); });
    }
    write_all(Level::row);
  }

  /// The axes of a walk.
  AxisSet walked_at_once() const { return tree_.segment ? tree_.segment : tree_.walked; }

  void segment(const Pass& pass, bool last_pass) {
    for (const Walk& step : pass.walks) {
      const bool last = last_pass && &step == &pass.walks.back();
      for (const int n : step.segment_nodes) values_[at(n)] = compute(n);
      for_each_at(step.reductions, Level::segment, [&](int n) { begin(n); });
      walk(step, last);
      for_each_at(step.reductions, Level::segment, [&](int n) { values_[at(n)] = result(n); });
      for (const int n : step.reductions)
        if (folds_segments(n)) fold(n);
      if (last) write_all(Level::segment);
    }
  }

  void walk(const Walk& step, bool last) {
    const bool folds = std::any_of(step.reductions.begin(), step.reductions.end(),
                                   [&](int n) { return !folds_segments(n); });
    if (!folds && !(last && stores_at(Level::element))) return;
    over_axes(walked_at_once(), [&] {
      for (const int n : step.element_nodes) values_[at(n)] = compute(n);
      for (const int n : step.reductions)
        if (!folds_segments(n)) fold(n);
      if (last) write_all(Level::element);
    });
  }

  // Reductions.

  template <class Action>
  void for_each_at(const std::vector<int>& reductions, Level level, Action action) {
    for (const int n : reductions)
      if (tree_.level(n) == level) action(n);
  }

  /// Folds a value of each segment, not of each element.
  bool folds_segments(int n) const {
    return tree_.segment != 0 && (node(n).reduced & tree_.segment) == 0;
  }

  static bool finds_position(Op op) { return op == Op::reduce_argmin || op == Op::reduce_argmax; }

  void begin(int n) {
    const Node& reduction = node(n);
    Accumulator& accumulator = accumulators_[at(n)];
    Builder at_entry(entry_, entry_->begin());
    accumulator.value = at_entry.CreateAlloca(f32_);
    const double first = reduction.op == Op::reduce_custom
                             ? tree_.combines[at(reduction.index)].identity
                             : ir::identity(reduction.op);
    b_.CreateStore(f32(first), accumulator.value);
    if (!finds_position(reduction.op)) return;
    accumulator.position = at_entry.CreateAlloca(i32_);
    b_.CreateStore(b_.getInt32(~0u), accumulator.position);
  }

  void fold(int n) {
    const Node& reduction = node(n);
    const Accumulator& accumulator = accumulators_[at(n)];
    Value* total = b_.CreateLoad(f32_, accumulator.value);
    Value* value = values_[at(reduction.args[0])];
    if (finds_position(reduction.op)) {
      Value* position = b_.CreateLoad(i32_, accumulator.position);
      Value* is_first =
          b_.CreateAnd(b_.CreateICmpSLT(position, b_.getInt32(0)), b_.CreateFCmpORD(value, value));
      Value* is_better = reduction.op == Op::reduce_argmax ? b_.CreateFCmpOGT(value, total)
                                                           : b_.CreateFCmpOLT(value, total);
      Value* is_taken = b_.CreateOr(is_first, is_better);
      b_.CreateStore(b_.CreateSelect(is_taken, value, total), accumulator.value);
      b_.CreateStore(b_.CreateSelect(is_taken, position_in(reduction.reduced), position),
                     accumulator.position);
      return;
    }
    b_.CreateStore(reduction.op == Op::reduce_custom
                       ? combine(tree_.combines[at(reduction.index)], total, value)
                       : ir::fold(b_, reduction.op, total, value),
                   accumulator.value);
  }

  Value* result(int n) {
    const Node& reduction = node(n);
    const Accumulator& accumulator = accumulators_[at(n)];
    if (finds_position(reduction.op))
      return b_.CreateBinaryIntrinsic(llvm::Intrinsic::smax,
                                      b_.CreateLoad(i32_, accumulator.position), b_.getInt32(0));
    Value* total = b_.CreateLoad(f32_, accumulator.value);
    if (reduction.op != Op::reduce_mean) return total;
    Value* count = i64(1);
    for (std::size_t axis = 0; axis < extents_.size(); ++axis)
      if ((reduction.reduced >> axis) & 1u) count = b_.CreateMul(count, extents_[axis]);
    return b_.CreateFDiv(total, b_.CreateSIToFP(count, f32_));
  }

  /// Row-major over some of the axes.
  Value* position_in(AxisSet axes) {
    Value* position = i64(0);
    for (std::size_t axis = 0; axis < extents_.size(); ++axis)
      if ((axes >> axis) & 1u)
        position = b_.CreateAdd(b_.CreateMul(position, extents_[axis]), indices_[axis]);
    return b_.CreateTrunc(position, i32_);
  }

  Value* combine(const Combine& custom, Value* left, Value* right) {
    std::vector<Value*> values;
    for (const Node& n : custom.nodes) {
      const bool is_result = static_cast<int>(values.size()) == custom.result;
      Builder::FastMathFlagGuard guard(b_);
      if (is_result && (n.op == Op::add || n.op == Op::multiply)) {
        llvm::FastMathFlags flags;
        flags.setAllowReassoc();  // lets it be vectorised, as a sum
        b_.setFastMathFlags(flags);
      }
      values.push_back(n.op == Op::parameter ? (n.index == 0 ? left : right)
                                             : compute(n, custom.nodes, values));
    }
    return values[at(custom.result)];
  }

  // Memory.

  /// An element's place: `pointer` to it, or for i4 to the byte, in whose bits from `shift` on it
  /// lies.
  struct Place {
    Value *pointer, *shift = nullptr;
  };

  /// `indices`: one of each dimension, from outside to inside.
  Place place(int operand, const std::vector<Value*>& indices) {
    Value* offset = i64(0);
    std::size_t number = 0;
    for (const Dimension& dimension : tree_.layouts[at(operand)])
      offset = b_.CreateAdd(b_.CreateMul(offset, extent_of(dimension), "", true, true),
                            indices[number++], "", true, true);
    const DType dtype = dtype_of_operand(operand);
    if (dtype != DType::i4)
      return {b_.CreateInBoundsGEP(ir::type_of(b_, dtype), pointers_[at(operand)], offset)};
    Value* odd = b_.CreateAnd(b_.CreateTrunc(offset, b_.getInt8Ty()), b_.getInt8(1));
    return {b_.CreateInBoundsGEP(b_.getInt8Ty(), pointers_[at(operand)], b_.CreateLShr(offset, 1)),
            b_.CreateShl(odd, 2)};
  }

  Value* extent_of(const Dimension& dimension) {
    return dimension.axis < 0 ? i64(dimension.extent) : extents_[at(dimension.axis)];
  }

  Value* load(const Node& n) {
    std::vector<Value*> indices;
    Value* is_inside = nullptr;  // of all axes that are gathered from
    std::size_t num_picked = 0, num_args = 0, number = 0;
    for (const Dimension& dimension : tree_.layouts[at(n.index)]) {
      if ((n.gathered >> number++) & 1u) {
        Value* index = b_.CreateSExt(values_[at(n.args[num_args++])], i64_);
        Value* is_below = b_.CreateICmpULT(index, extent_of(dimension));
        is_inside = is_inside ? b_.CreateAnd(is_inside, is_below) : is_below;
        indices.push_back(index);
      } else {
        indices.push_back(dimension.axis < 0 ? i64(n.picked[num_picked++])
                                             : indices_[at(dimension.axis)]);
      }
    }
    if (is_inside)  // keeps the arithmetic of the address within bounds
      for (std::size_t d = 0; d < indices.size(); ++d)
        if ((n.gathered >> d) & 1u) indices[d] = b_.CreateSelect(is_inside, indices[d], i64(0));
    Place from = place(n.index, indices);
    // What lies outside is read from a zero: a branch would keep the loop from being vectorised.
    if (is_inside) from.pointer = b_.CreateSelect(is_inside, from.pointer, zero());
    Value* value = b_.CreateLoad(ir::type_of(b_, dtype_of_operand(n.index)), from.pointer, n.name);
    if (!from.shift) return value;
    value = b_.CreateShl(value, b_.CreateSub(b_.getInt8(4), from.shift));
    return b_.CreateAShr(value, 4);
  }

  /// Memory that holds a zero of any dtype.
  Value* zero() {
    constexpr const char* name = "quern.zero";
    if (llvm::GlobalVariable* known = module_->getNamedGlobal(name)) return known;
    return new llvm::GlobalVariable(*module_, i64_, /*isConstant=*/true,
                                    llvm::GlobalValue::PrivateLinkage, b_.getInt64(0), name);
  }

  /// How often a store is done: a value that only segments know is written once for each.
  Level level(const Store& store) const {
    return std::max(tree_.store_level(store), tree_.level(store.value));
  }
  bool stores_at(Level wanted) const {
    return std::any_of(tree_.stores.begin(), tree_.stores.end(),
                       [&](const Store& store) { return level(store) == wanted; });
  }
  void write_all(Level wanted) {
    for (const Store& store : tree_.stores)
      if (level(store) == wanted) write(store);
  }

  void write(const Store& store) {
    std::vector<Value*> indices;
    std::size_t num_picked = 0;
    for (const Dimension& dimension : tree_.layouts[at(store.operand)])
      indices.push_back(dimension.axis < 0 ? i64(store.picked[num_picked++])
                                           : indices_[at(dimension.axis)]);
    const Place to = place(store.operand, indices);
    Value* value = values_[at(store.value)];
    if (!to.shift) {
      b_.CreateStore(value, to.pointer);
      return;
    }
    // The other half of the byte stays. Atomic so that the loop is not vectorised: LLVM 16
    // overlooks that neighbouring elements read and write one byte.
    llvm::LoadInst* byte = b_.CreateLoad(b_.getInt8Ty(), to.pointer);
    byte->setAtomic(llvm::AtomicOrdering::Unordered);
    Value* mask = b_.CreateShl(b_.getInt8(0xf), to.shift);
    value = b_.CreateShl(b_.CreateAnd(value, b_.getInt8(0xf)), to.shift);
    value = b_.CreateOr(b_.CreateAnd(byte, b_.CreateNot(mask)), value);
    b_.CreateStore(value, to.pointer)->setAtomic(llvm::AtomicOrdering::Unordered);
  }

  // Values.

  Value* compute(int number) { return compute(node(number), tree_.nodes, values_); }

  Value* compute(const Node& n, const std::vector<Node>& nodes, const std::vector<Value*>& values) {
    switch (n.op) {
      case Op::constant:
        return n.type.dtype == DType::i32
                   ? static_cast<Value*>(b_.getInt32(
                         static_cast<std::uint32_t>(static_cast<std::int64_t>(n.value))))
                   : f32(n.value);
      case Op::scalar:
        return scalars_[at(n.index)];
      case Op::load:
        return load(n);
      case Op::index:
        return b_.CreateTrunc(indices_[at(n.index)], i32_);
      case Op::extent:
        return b_.CreateTrunc(extents_[at(n.index)], i32_);
      case Op::cast:
        return ir::cast(b_, values[at(n.args[0])], dtype_of(nodes[at(n.args[0])].type),
                        dtype_of(n.type));
      default: {
        ir::Arguments args{};
        for (std::size_t i = 0; i < args.size() && n.args[i] >= 0; ++i)
          args[i] = values[at(n.args[i])];
        return ir::arithmetic(b_, n.op, args);
      }
    }
  }

  using Builder = ir::Builder;
  const Tree& tree_;
  const Binding& binding_;
  Passes passes_;
  std::unique_ptr<llvm::Module> module_;
  Builder b_;
  llvm::Type *f32_, *i32_, *i64_;
  llvm::BasicBlock* entry_ = nullptr;
  std::vector<Value*> pointers_, scalars_, extents_;
  // At the point being built: the position along each axis, and what each node is.
  std::vector<Value*> indices_, values_;
  std::vector<Accumulator> accumulators_;  // of the nodes that are reductions
};

}  // namespace

std::unique_ptr<llvm::Module> build_module(const Tree& tree, const Binding& binding,
                                           llvm::LLVMContext& context) {
  return ModuleBuilder(tree, binding, context).build();
}

}  // namespace quern::dsl
