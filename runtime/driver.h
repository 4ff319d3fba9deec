#pragma once
#include <cuda.h>

#include <source_location>
#include <string>

namespace quern {

/// Entry points of libcuda, resolved with dlopen at first use so that the binary starts without a
/// driver. Names drop the `cu` prefix; signatures are those of cuda.h.
struct Driver {
// clang-format off
#define QUERN_DRIVER_FUNCTIONS(X)                                                                \
  X(Init) X(DriverGetVersion) X(GetErrorName) X(GetErrorString) X(DeviceGetCount) X(DeviceGet)   \
  X(DeviceGetName) X(DeviceGetUuid) X(DeviceGetAttribute) X(DeviceTotalMem)                      \
  X(DevicePrimaryCtxRetain) X(DevicePrimaryCtxRelease) X(CtxSetCurrent) X(CtxSynchronize)        \
  X(MemGetInfo) X(MemAlloc) X(MemFree) X(MemHostAlloc) X(MemFreeHost) X(MemHostGetDevicePointer) \
  X(MemcpyHtoDAsync) X(MemcpyDtoHAsync) X(MemcpyDtoDAsync) X(MemsetD8Async) X(MemsetD32Async)    \
  X(StreamCreate) X(StreamDestroy) X(StreamSynchronize) X(StreamWaitEvent) X(StreamQuery)        \
  X(StreamBeginCapture) X(StreamEndCapture) X(EventCreate) X(EventDestroy) X(EventRecord)        \
  X(EventSynchronize) X(EventElapsedTime) X(EventQuery) X(ModuleLoadData) X(ModuleUnload)        \
  X(ModuleGetFunction) X(FuncSetAttribute) X(FuncGetAttribute)                                   \
  X(OccupancyMaxActiveBlocksPerMultiprocessor) X(LaunchKernelEx) X(GraphCreate) X(GraphDestroy)  \
  X(GraphAddKernelNode) X(GraphInstantiateWithFlags) X(GraphExecDestroy) X(GraphLaunch)          \
  X(GraphUpload) X(GraphGetNodes) X(GraphExecKernelNodeSetParams) X(GraphKernelNodeSetAttribute) \
  X(TensorMapEncodeTiled)
// clang-format on
#define QUERN_DECLARE(f) decltype(&cu##f) f = nullptr;
  QUERN_DRIVER_FUNCTIONS(QUERN_DECLARE)
#undef QUERN_DECLARE
};

/// The loaded driver. Throws DeviceError with one sentence if libcuda is missing, too old, or
/// reports no GPU.
const Driver& driver();

/// Why driver() would throw, or an empty string if it would not. Never throws.
std::string driver_problem();

/// Throws OutOfMemoryError or CudaError naming the call site and the driver's own words if `status`
/// is not CUDA_SUCCESS.
void check(CUresult status, std::source_location where = std::source_location::current());

}  // namespace quern
