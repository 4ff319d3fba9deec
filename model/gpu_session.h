#pragma once
#include <filesystem>
#include <memory>
#include <optional>

#include "autotune/kernel_library.h"
#include "model/gpu_model.h"
#include "model/weights.h"
#include "runtime/device.h"

namespace quern {

struct GpuSessionOptions {
  int device = 0;
  std::filesystem::path cache;
  std::vector<std::string> library_dirs;          // searched first for NVIDIA's libraries
  std::optional<std::filesystem::path> templates; // instead of the embedded ones
  std::vector<std::string> worker_command{};      // as in KernelLibraryOptions
  std::filesystem::path system_cache = {};        // only ever read; empty = none
};

/// One GPU opened for use: its context and its kernels. Use it on the thread that made it.
class GpuSession {
 public:
  /// Throws DeviceError if there is no such device, no driver or no NVRTC; InputError if the cache
  /// cannot serve.
  explicit GpuSession(const GpuSessionOptions& options);

  const Context& context() const { return context_; }
  KernelLibrary& kernels() { return kernels_; }
  /// The measured roof of memory-bound kernels: bytes per second of a kernel that only reads, over
  /// a buffer far larger than the L2. Measured on first call, in some tens of milliseconds.
  double read_roof();

  /// Uploads a checkpoint in `dtype` (bf16 or f16).
  std::unique_ptr<GpuModel> open(const ModelConfig& config, const ModelWeights& weights,
                                 DType dtype, const GpuModelOptions& options,
                                 const LoadProgress& progress = {});
  /// A model of this shape with random weights made on the device.
  std::unique_ptr<GpuModel> open_random(const ModelConfig& config, DType dtype,
                                        const GpuModelOptions& options);
  /// Fills device memory with random contents, for benchmarks: normal values of a 16-bit `dtype`,
  /// or bits where it is i32.
  void fill_random(const Stream& stream, CUdeviceptr address, std::size_t elements, DType dtype,
                   double stddev);

 private:
  Context context_;
  KernelLibrary kernels_;
  std::optional<double> read_roof_;
  std::int64_t next_seed_ = 1;
};

/// The type that weights of a checkpoint take on the GPU: its own where that has 16 bits, else bf16.
DType gpu_dtype(const ModelConfig& config);

}  // namespace quern
