#include <fmt/format.h>
#include <llvm/Config/llvm-config.h>
#include <llvm/ExecutionEngine/Orc/ExecutionUtils.h>
#include <llvm/ExecutionEngine/Orc/JITTargetMachineBuilder.h>
#include <llvm/ExecutionEngine/Orc/LLJIT.h>
#include <llvm/ExecutionEngine/Orc/ThreadSafeModule.h>
#include <llvm/IR/LLVMContext.h>
#include <llvm/IR/Module.h>
#include <llvm/IR/Verifier.h>
#include <llvm/Passes/PassBuilder.h>
#include <llvm/Support/TargetSelect.h>
#include <llvm/Support/raw_ostream.h>
#include <llvm/Target/TargetMachine.h>

#include <cmath>
#include <limits>
#include <mutex>

#include "compiler/dsl.h"
#include "compiler/dsl_llvm.h"
#include "runtime/base/error.h"

namespace quern::dsl {
namespace {

namespace orc = llvm::orc;

[[noreturn]] void fail(const std::string& what, const std::string& log) {
  throw CompileError(fmt::format("LLVM {}", what), log);
}

template <class T>
T value_or_throw(llvm::Expected<T> value, const char* what) {
  if (!value) fail(what, llvm::toString(value.takeError()));
  return std::move(*value);
}

orc::JITTargetMachineBuilder host_target() {
  static std::once_flag once;
  std::call_once(once, [] {
    llvm::InitializeNativeTarget();
    llvm::InitializeNativeTargetAsmPrinter();
  });
  return value_or_throw(orc::JITTargetMachineBuilder::detectHost(), "does not know this CPU");
}

/// O3 for the CPU at hand, loops vectorised.
void optimise(llvm::Module& module, llvm::TargetMachine& target) {
#if LLVM_VERSION_MAJOR >= 21
  module.setTargetTriple(target.getTargetTriple());
#else
  module.setTargetTriple(target.getTargetTriple().str());
#endif
  module.setDataLayout(target.createDataLayout());
  std::string log;
  llvm::raw_string_ostream out(log);
  if (llvm::verifyModule(module, &out)) fail("was given malformed IR", out.str());
  llvm::LoopAnalysisManager loops;
  llvm::FunctionAnalysisManager functions;
  llvm::CGSCCAnalysisManager graphs;
  llvm::ModuleAnalysisManager modules;
  llvm::PassBuilder builder(&target);
  builder.registerModuleAnalyses(modules);
  builder.registerCGSCCAnalyses(graphs);
  builder.registerFunctionAnalyses(functions);
  builder.registerLoopAnalyses(loops);
  builder.crossRegisterProxies(loops, functions, graphs, modules);
  builder.buildPerModuleDefaultPipeline(llvm::OptimizationLevel::O3).run(module, modules);
}

struct Built {
  std::unique_ptr<llvm::LLVMContext> context;
  std::unique_ptr<llvm::Module> module;
};

Built build(const Tree& tree, const Binding& binding, const orc::JITTargetMachineBuilder& host) {
  for (const auto& [axis, extent] : binding.extents)
    if (extent < 0) throw InputError(fmt::format("axis {} cannot have {} elements", axis, extent));
  Built out;
  out.context = std::make_unique<llvm::LLVMContext>();
  out.module = build_module(tree, binding, *out.context);
  auto copy = host;
  const auto target = value_or_throw(copy.createTargetMachine(), "cannot build for this CPU");
  optimise(*out.module, *target);
  return out;
}

}  // namespace

std::string emit_llvm(const Kernel& kernel, const Binding& binding) {
  const Built built = build(kernel.tree(), binding, host_target());
  std::string text;
  llvm::raw_string_ostream out(text);
  built.module->print(out, nullptr);
  return out.str();
}

struct CpuKernel::Impl {
  Kernel kernel;
  std::map<std::string, std::int64_t> bound;
  std::unique_ptr<orc::LLJIT> jit;
  void (*run)(void* const*, const double*, const std::int64_t*) = nullptr;

  /// Elements of every operand can be counted without overflow, and i4 comes in pairs.
  void check_extents(std::span<const std::int64_t> extents) const {
    const auto& axes = kernel.axes();
    for (std::size_t i = 0; i < axes.size(); ++i) {
      if (extents[i] < 0)
        throw InputError(fmt::format("axis {} of kernel {} cannot have {} elements", axes[i],
                                     kernel.name(), extents[i]));
      const auto fixed = bound.find(axes[i]);
      if (fixed != bound.end() && fixed->second != extents[i])
        throw InputError(fmt::format("kernel {} was built for {} = {}, not {}", kernel.name(),
                                     axes[i], fixed->second, extents[i]));
    }
    const Tree& tree = kernel.tree();
    for (std::size_t i = 0; i < tree.layouts.size(); ++i) {
      std::int64_t count = 4;  // bytes of the widest element
      for (const Dimension& dimension : tree.layouts[i]) {
        const std::int64_t extent = dimension.axis < 0
                                        ? dimension.extent
                                        : extents[static_cast<std::size_t>(dimension.axis)];
        if (extent > 0 && count > std::numeric_limits<std::int64_t>::max() / extent)
          throw InputError(fmt::format("operand {} of kernel {} is too large",
                                       kernel.operands()[i].name, kernel.name()));
        count *= extent;
      }
      if (tree.operands[i].dtype != DType::i4 || tree.layouts[i].empty()) continue;
      const Dimension& last = tree.layouts[i].back();
      const std::int64_t extent =
          last.axis < 0 ? last.extent : extents[static_cast<std::size_t>(last.axis)];
      if (extent % 2 != 0)
        throw InputError(
            fmt::format("the last axis of operand {} of kernel {} has {} elements; i4 "
                        "needs an even number",
                        tree.operands[i].name, kernel.name(), extent));
    }
  }
};

CpuKernel::CpuKernel(const Kernel& kernel, const Binding& binding)
    : impl_(std::make_unique<Impl>(Impl{kernel, binding.extents, nullptr, nullptr})) {
  const auto host = host_target();
  Built built = build(kernel.tree(), binding, host);
  impl_->jit = value_or_throw(orc::LLJITBuilder().setJITTargetMachineBuilder(host).create(),
                              "cannot start its JIT compiler");
  const char prefix = impl_->jit->getDataLayout().getGlobalPrefix();
  impl_->jit->getMainJITDylib().addGenerator(
      value_or_throw(orc::DynamicLibrarySearchGenerator::GetForCurrentProcess(prefix),
                     "cannot look up the C library"));
  if (auto error = impl_->jit->addIRModule(
          orc::ThreadSafeModule(std::move(built.module), std::move(built.context))))
    fail("refused a kernel", llvm::toString(std::move(error)));
  const auto address =
      value_or_throw(impl_->jit->lookup(kRunFunction), "could not compile a kernel");
  impl_->run =
      reinterpret_cast<decltype(impl_->run)>(static_cast<std::uintptr_t>(address.getValue()));
}

CpuKernel::~CpuKernel() = default;
CpuKernel::CpuKernel(CpuKernel&&) noexcept = default;
CpuKernel& CpuKernel::operator=(CpuKernel&&) noexcept = default;

void CpuKernel::run(std::span<void* const> operands, std::span<const double> scalars,
                    std::span<const std::int64_t> extents) const {
  const Kernel& kernel = impl_->kernel;
  if (operands.size() != kernel.operands().size() || scalars.size() != kernel.scalars().size() ||
      extents.size() != kernel.axes().size())
    throw InputError(
        fmt::format("kernel {} takes {} operands, {} scalars and {} extents, not {}, {} and {}",
                    kernel.name(), kernel.operands().size(), kernel.scalars().size(),
                    kernel.axes().size(), operands.size(), scalars.size(), extents.size()));
  for (std::size_t i = 0; i < scalars.size(); ++i)
    if (kernel.scalars()[i].dtype == DType::i32 &&
        !(std::abs(scalars[i]) <= std::numeric_limits<std::int32_t>::max()))
      throw InputError(fmt::format("scalar {} of kernel {} is outside the range of i32",
                                   kernel.scalars()[i].name, kernel.name()));
  impl_->check_extents(extents);
  impl_->run(operands.data(), scalars.data(), extents.data());
}

}  // namespace quern::dsl
