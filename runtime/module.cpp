#include "runtime/module.h"

#include <fmt/format.h>

#include <string_view>

#include "runtime/base/error.h"

namespace quern {
namespace {

constexpr unsigned kDefaultSmemBytes = 48 * 1024;  // what a block may use without asking
constexpr unsigned kPortableCluster = 8;           // blocks

CUmodule load(std::span<const char> cubin) {
  // The driver takes anything else for PTX text and reads on to a terminating zero.
  if (!std::string_view(cubin.data(), cubin.size())
           .starts_with("\x7f"
                        "ELF"))
    throw CudaError("a kernel image is not a cubin", CUDA_ERROR_INVALID_IMAGE);
  CUmodule module = nullptr;
  check(driver().ModuleLoadData(&module, cubin.data()));
  return module;
}

}  // namespace

Module::Module(std::span<const char> cubin) : handle_(load(cubin)) {}
void Module::Unload::operator()(CUmodule module) const noexcept { driver().ModuleUnload(module); }

CUfunction Module::function(const std::string& entry) const {
  CUfunction function = nullptr;
  const CUresult status = driver().ModuleGetFunction(&function, handle_.get(), entry.c_str());
  if (status == CUDA_ERROR_NOT_FOUND)
    throw CudaError(fmt::format("the kernel image holds no kernel '{}'", entry), status);
  check(status);
  return function;
}

void prepare(CUfunction function, const LaunchPlan& plan) {
  const Driver& cuda = driver();
  // The default covers static shared memory too, of which the plan says nothing.
  if (plan.smem_bytes > kDefaultSmemBytes / 2) {
    // Asking is as cheap as a cache of our own, and stays true when a module is unloaded.
    int allowed = 0;
    check(
        cuda.FuncGetAttribute(&allowed, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, function));
    if (static_cast<unsigned>(allowed) < plan.smem_bytes)
      check(cuda.FuncSetAttribute(function, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                                  static_cast<int>(plan.smem_bytes)));
  }
  if (plan.cluster > kPortableCluster)
    check(cuda.FuncSetAttribute(function, CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED, 1));
}

void launch(const Stream& stream, CUfunction function, const LaunchPlan& plan, const void* args,
            std::size_t args_bytes) {
  prepare(function, plan);
  CUlaunchAttribute attributes[2] = {};
  unsigned count = 0;
  if (plan.pdl) {
    attributes[count].id = CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
    attributes[count++].value.programmaticStreamSerializationAllowed = 1;
  }
  if (plan.cluster > 1) {
    attributes[count].id = CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
    attributes[count++].value.clusterDim = {plan.cluster, 1, 1};
  }
  CUlaunchConfig config{};
  config.gridDimX = plan.grid[0];
  config.gridDimY = plan.grid[1];
  config.gridDimZ = plan.grid[2];
  config.blockDimX = plan.block[0];
  config.blockDimY = plan.block[1];
  config.blockDimZ = plan.block[2];
  config.sharedMemBytes = plan.smem_bytes;
  config.hStream = stream.get();
  config.attrs = attributes;
  config.numAttrs = count;
  void* parameters[] = {const_cast<void*>(args)};  // the driver only reads
  check(driver().LaunchKernelEx(&config, function, args_bytes > 0 ? parameters : nullptr, nullptr));
}

}  // namespace quern
