#pragma once
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "autotune/kernel_library.h"
#include "autotune/row_family.h"
#include "autotune/tuner.h"

namespace quern {

struct RowKernelOptions {
  /// Folder of images and tuning records; made if missing.
  std::filesystem::path cache = {};
  /// Which one of the text's kernels; may be left out if there is one.
  std::string kernel = {};
  /// Of every dtype parameter.
  std::map<std::string, DType> dtypes = {};
  /// Of every scalar: for trials, and where launch() is given none.
  std::map<std::string, double> scalars = {};
  /// Files that `use` names, before those that Quern ships.
  dsl::Includes includes = {};
  /// Searched first for NVIDIA's libraries.
  std::vector<std::string> library_dirs = {};
  /// As in KernelLibraryOptions.
  std::vector<std::string> worker_command = {};
};

/// A kernel of the kernel language (compiler/README.md) in a program of one's own: compiled and
/// tuned for the GPU at hand, launched on the program's own memory and streams. Images and tuning
/// records stay in the cache folder, so that the next run compiles and tunes nothing.
///
///   Context context(0);
///   RowKernel norm(context, text, {.cache = folder, .dtypes = {{"T", DType::bf16}},
///                                  .scalars = {{"eps", 1e-5}}});
///   norm.tune({{"rows", 16}, {"cols", 4096}});
///   norm.launch(stream, {{x, weight, y}}, {{"rows", 13}, {"cols", 4096}});
///
/// An outermost axis `rows` or `tokens` that numbers rows is tuned at powers of two and needs no
/// compile when it changes; every other extent makes a kernel of its own.
///
/// Use it on one thread at a time, where `context` is current (the primary context of its GPU,
/// which the CUDA runtime uses too).
class RowKernel {
 public:
  using Extents = std::map<std::string, std::int64_t>;
  using Scalars = std::map<std::string, double>;

  /// `context` must outlive it. Throws CompileError with the diagnostics in log() if the text is no
  /// kernel, InputError for options that do not fit it or a cache that cannot serve, DeviceError
  /// without NVRTC.
  RowKernel(const Context& context, std::string_view text, RowKernelOptions options);
  ~RowKernel();
  RowKernel(RowKernel&&) noexcept;
  RowKernel& operator=(RowKernel&&) noexcept;

  const dsl::Kernel& kernel() const;
  /// Shapes, dtypes and roles of the operands at these extents. Throws InputError.
  std::vector<OperandSpec> operands(const Extents& extents) const;

  /// Measures schedules for this shape on random operands of its own, unless a result is on record
  /// already (`force`: all the same). 0 seconds: until done. Throws InputError, CudaError; a shape
  /// that cannot be tuned is reported as failed and runs on the default schedule.
  ProblemReport tune(const Extents& extents, double budget_seconds = 0, bool force = false);

  /// Enqueues one launch on the caller's stream (null: the default stream). `operands` are device
  /// addresses in order of kernel().operands(), 16-byte aligned. Runs what tune() or an earlier run
  /// found for the shape, else the default schedule. The first launch of a shape compiles or loads;
  /// later ones can be captured. Throws InputError, CompileError, CudaError.
  void launch(CUstream stream, std::span<const CUdeviceptr> operands, const Extents& extents,
              const Scalars& scalars = {});

  /// What launch() runs for these extents: config, resources, record.
  ReadyKernel ready(const Extents& extents);
  KernelLibrary& library();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace quern
