#include "runtime/driver.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>

#include "runtime/base/error.h"
#include "runtime/library.h"

namespace quern {
namespace {

// cuda.h maps names to their current versions by macro (cuMemAlloc to cuMemAlloc_v2). The name is
// expanded before it becomes a string, so symbol and signature always belong together.
#define QUERN_STRING(x) #x
#define QUERN_SYMBOL(x) QUERN_STRING(x)

constexpr int kOldestVersion = 12000;  // brought cuGraphAddKernelNode_v2

/// Resolves every entry point; the first symbol that the library lacks, or nullptr.
const char* resolve(Driver& driver, const Library& library) {
#define QUERN_LOAD(f) library.load(driver.f, QUERN_SYMBOL(cu##f));
  QUERN_DRIVER_FUNCTIONS(QUERN_LOAD)
#undef QUERN_LOAD
  // Drivers before CUDA 12.8 have version 1 alone, whose signature and meaning are the same.
  if (!driver.EventElapsedTime) library.load(driver.EventElapsedTime, "cuEventElapsedTime");
#define QUERN_FIND_MISSING(f) \
  if (!driver.f) return QUERN_SYMBOL(cu##f);
  QUERN_DRIVER_FUNCTIONS(QUERN_FIND_MISSING)
#undef QUERN_FIND_MISSING
  return nullptr;
}

std::string words(const Driver& driver, CUresult status) {
  const char* text = nullptr;
  if (!driver.GetErrorString || driver.GetErrorString(status, &text) != CUDA_SUCCESS || !text)
    return fmt::format("error {}", static_cast<int>(status));
  return text;
}

std::string version_text(int version) {
  return fmt::format("{}.{}", version / 1000, version % 1000 / 10);
}

/// Fills `driver`; says why it cannot be used, or nothing.
std::string load(Driver& driver) {
  const Library library({"libcuda.so.1"}, {});
  if (!library) return "no NVIDIA driver was found (libcuda.so.1 cannot be loaded)";
  const char* missing = resolve(driver, library);
  int version = 0;
  if (driver.DriverGetVersion) driver.DriverGetVersion(&version);
  if (missing || (version > 0 && version < kOldestVersion))
    return fmt::format(
        "the NVIDIA driver is too old: it supports CUDA {}, and {} is needed",
        version_text(version),
        missing && version >= kOldestVersion ? missing : version_text(kOldestVersion));
  const CUresult status = driver.Init(0);
  int count = 0;
  if (status == CUDA_ERROR_NO_DEVICE ||
      (status == CUDA_SUCCESS && driver.DeviceGetCount(&count) == CUDA_SUCCESS && count == 0))
    return "the driver reports no GPU";
  if (status == CUDA_ERROR_STUB_LIBRARY)
    return "no NVIDIA driver was found (libcuda.so.1 is the CUDA toolkit's stub)";
  if (status != CUDA_SUCCESS)
    return fmt::format("the NVIDIA driver does not start: {}", words(driver, status));
  return {};
}

struct Loaded {
  Driver driver;
  const std::string problem = load(driver);
};

/// Never destroyed: handles that are released while the process ends still need it.
const Loaded& loaded() {
  static const Loaded& instance = *new Loaded;
  return instance;
}

/// "Stream::synchronize" of "void quern::Stream::synchronize() const".
std::string_view short_name(std::string_view function) {
  function = function.substr(0, function.find('('));
  if (const std::size_t blank = function.rfind(' '); blank != std::string_view::npos)
    function.remove_prefix(blank + 1);
  function.remove_prefix(std::min(function.find_first_not_of("*&"), function.size()));
  if (function.starts_with("quern::")) function.remove_prefix(7);
  return function;
}

}  // namespace

const Driver& driver() {
  if (!loaded().problem.empty()) throw DeviceError(loaded().problem);
  return loaded().driver;
}

std::string driver_problem() { return loaded().problem; }

void check(CUresult status, std::source_location where) {
  if (status == CUDA_SUCCESS) return;
  const Driver& cuda = loaded().driver;
  const char* name = nullptr;
  if (!cuda.GetErrorName || cuda.GetErrorName(status, &name) != CUDA_SUCCESS || !name)
    name = "an unknown status";
  const std::string_view path = where.file_name();
  const std::string sentence = fmt::format("{} failed: the CUDA driver reports {} ({}) at {}:{}",
                                           short_name(where.function_name()), words(cuda, status),
                                           name, path.substr(path.rfind('/') + 1), where.line());
  if (status == CUDA_ERROR_OUT_OF_MEMORY) throw OutOfMemoryError(sentence, status);
  throw CudaError(sentence, status);
}

}  // namespace quern
