// Fuzz target of the kernel language: whatever the text, there are diagnostics or kernels, and what
// kernels there are can be planned and written as CUDA source.
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "compiler/dsl.h"
#include "runtime/base/error.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace quern;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  // Any name is a file that uses itself and others.
  const dsl::Includes includes = [](const std::string& name) -> std::optional<std::string> {
    if (name.size() > 4) return std::nullopt;
    return "use \"" + name + "\" use \"" + name + "a\" let f" + name + "(x) = x + 1";
  };
  try {
    for (const dsl::Kernel& kernel : dsl::parse(text, "fuzz.qk", includes)) {
      dsl::Binding binding;
      for (const std::string& param : kernel.dtype_params()) binding.dtypes[param] = DType::bf16;
      for (const std::string& axis : kernel.axes()) binding.extents[axis] = 32;
      const dsl::Schedule schedule = dsl::default_schedule(kernel, binding);
      dsl::emit_cuda(kernel, binding, schedule);
      dsl::plan(kernel, binding, schedule, binding.extents);
    }
  } catch (const CompileError&) {
  } catch (const InputError&) {
  }
  return 0;
}
