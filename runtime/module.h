#pragma once
#include <cstddef>
#include <span>
#include <string>

#include "runtime/base/launch_plan.h"
#include "runtime/driver.h"
#include "runtime/handle.h"
#include "runtime/stream.h"

namespace quern {

/// A loaded cubin.
class Module {
 public:
  Module() = default;
  /// Throws CudaError if the image does not fit this device.
  explicit Module(std::span<const char> cubin);
  /// Throws CudaError naming `entry` if the image lacks it.
  CUfunction function(const std::string& entry) const;

 private:
  struct Unload {
    void operator()(CUmodule) const noexcept;
  };
  Unique<CUmodule, Unload> handle_;
};

/// Gives the function what the plan needs beyond the defaults: more than 48 KB of dynamic shared
/// memory, clusters of more than 8 blocks. launch() and Graph::add_kernel() do this themselves.
void prepare(CUfunction function, const LaunchPlan& plan);

/// Launches a kernel whose one parameter is a struct passed by value: `args` points to `args_bytes`
/// bytes that are copied before return. Raises the dynamic shared memory limit where the plan asks
/// for more than 48 KB. With `plan.pdl` the launch carries programmatic stream serialization, which
/// capture turns into a programmatic edge. Throws CudaError.
void launch(const Stream& stream, CUfunction function, const LaunchPlan& plan, const void* args,
            std::size_t args_bytes);

template <class Args>
void launch(const Stream& stream, CUfunction function, const LaunchPlan& plan, const Args& args) {
  launch(stream, function, plan, &args, sizeof args);
}

}  // namespace quern
