#pragma once
#include <cstddef>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "autotune/kernel_catalog.h"
#include "autotune/workspace.h"
#include "runtime/cublaslt.h"
#include "runtime/device.h"
#include "runtime/module.h"

namespace quern {

class TrialTools;

/// A kernel fitted to one set of actual sizes, for launching it many times. Cheap to copy; valid as
/// long as its KernelLibrary.
class BoundKernel {
 public:
  /// Scratch that a launch needs.
  std::size_t workspace_bytes() const { return workspace_bytes_; }
  /// Launches on `stream`; capturable. `addresses` are those of Family::operands(), in order.
  /// Throws Error if the workspace is too small, CudaError.
  void enqueue(const Stream& stream, std::span<const CUdeviceptr> addresses,
               const Workspace& workspace) const;

 private:
  friend class ReadyKernel;
  friend class KernelLibrary;
  struct Kernel;
  std::shared_ptr<const Kernel> kernel_;
  Params problem_;
  LaunchPlan plan_;    // of our kernels
  MatmulShape shape_;  // of a library's routine
  int rank_ = 0;
  std::size_t workspace_bytes_ = 0;
};

/// A kernel loaded on the device, or a routine of cuBLASLt, fitted to one problem. Cheap to copy;
/// valid as long as its KernelLibrary.
class ReadyKernel {
 public:
  const Family& family() const;
  const Params& config() const;
  /// False: nothing usable was recorded for this problem and the family's default runs.
  bool tuned() const { return record().has_value(); }
  /// The record behind a tuned kernel.
  const std::optional<TuningRecord>& record() const;
  /// What ptxas said; all zero for a library routine.
  const ResourceReport& report() const;
  /// "gemm m=16 n=4096 k=4096 | tile_m=16 stages=4 | tuned 38.1 us".
  std::string description() const;

  /// `problem` is the one that the kernel was asked for with the actual values of its dynamic
  /// fields. Throws InputError if the config cannot serve these values.
  BoundKernel bind(const Params& problem) const;
  /// Scratch that a launch of this problem needs.
  std::size_t workspace_bytes(const Params& problem) const {
    return bind(problem).workspace_bytes();
  }
  /// bind() and launch.
  void enqueue(const Stream& stream, const Params& problem, std::span<const CUdeviceptr> addresses,
               const Workspace& workspace) const {
    bind(problem).enqueue(stream, addresses, workspace);
  }

 private:
  friend class KernelLibrary;
  using Kernel = BoundKernel::Kernel;
  explicit ReadyKernel(std::shared_ptr<const Kernel> kernel) : kernel_(std::move(kernel)) {}
  std::shared_ptr<const Kernel> kernel_;
};

/// From problem to kernel: looks up what tuning found, compiles through the cache, loads. Owns
/// NVRTC, cuBLASLt, both stores and the loaded modules. Use it on the thread of its context.
///
/// Lookup of a problem, its dynamic fields rounded up to powers of two (bucket()):
///   1. a record of this GPU (fingerprint) whose template text is unchanged and whose config is
///      legal;
///   2. else such a record that was imported, or made on the same model of GPU under another driver
///      or power limit: its kernel must first pass the correctness gate here, and is then recorded
///      as this GPU's own;
///   3. else the family's default, which works for every supported problem.
class KernelLibrary : public KernelCatalog {
 public:
  /// `context` must outlive the library. Throws DeviceError if NVRTC is missing, InputError if the
  /// cache folder cannot serve. Without cuBLASLt, configs that name its routines are passed over.
  KernelLibrary(const Context& context, FamilyRegistry families, KernelLibraryOptions options);

  /// The same problem costs nothing the second time. Throws InputError for an unknown family or an
  /// unsupported problem, CompileError.
  ReadyKernel get(std::string_view family, const Params& problem);
  /// The record that get() would serve, without loading its kernel; one of elsewhere is gated first.
  std::optional<TuningRecord> recorded(std::string_view family, const Params& problem);
  /// Compiles what these problems need and the cache lacks, in parallel; get() is then quick.
  /// Throws CompileError if one fails.
  void prepare(std::span<const KernelRequest> requests);
  /// A given config, whatever is recorded.
  ReadyKernel load(const Family& family, const Params& problem, const Params& config);
  ReadyKernel load(const Family& family, const Params& problem, const Params& config,
                   const CompiledKernel& compiled);

  /// Makes get() serve this config for the problem, whatever is recorded, until forget() or
  /// record(): for races of configs inside a whole step.
  void serve(const Family& family, const Params& problem, const Params& config);
  void forget(const Family& family, const Params& problem);

  std::optional<std::string> refusal(const Family& family, const Params& problem,
                                     const Params& config) override;
  /// Keeps a result; get() serves it from now on.
  void record(const TuningRecord& record) override;
  /// Serves from now on what somebody else's tuner has recorded in the same cache.
  void note_record(const TuningRecord& record);

  const Context& context() const { return context_; }
  /// Made on first use.
  const TrialTools& trial_tools();

 private:
  CublasLt* cublas();
  std::shared_ptr<const Module> module_of(const CompiledKernel& compiled);
  ReadyKernel make(const Family& family, const Params& problem, const Params& config,
                   std::optional<TuningRecord> record);
  std::optional<TuningRecord> find_record(const Family& family, const Params& problem);
  std::optional<TuningRecord> adopt(const Family& family, const Params& problem);

  const Context& context_;
  std::unique_ptr<CublasLt> cublas_;
  bool cublas_tried_ = false;
  std::shared_ptr<const TrialTools> trial_tools_;

  struct Loaded {
    std::shared_ptr<const Module> module;
    ResourceReport report;
  };
  std::map<std::string, Loaded> modules_;     // by image key
  std::map<std::string, ReadyKernel> ready_;  // by family and bucketed problem
};

}  // namespace quern
