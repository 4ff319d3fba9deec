#pragma once
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "runtime/base/arch.h"
#include "runtime/base/json.h"

namespace quern {

/// Text of every file that CUDA source may #include, by the name it is included under.
using HeaderMap = std::map<std::string, std::string, std::less<>>;

/// One translation unit for NVRTC.
struct CompileRequest {
  std::string name;    // for messages: "gemm m16 n4096 k4096 ..."
  std::string source;  // a generated stub, or CUDA generated from the DSL
  std::string entry;   // extern "C" kernel name
  Arch arch;
  std::vector<std::string> options;  // besides the architecture and the language standard
};

/// What ptxas said of one kernel.
struct ResourceReport {
  int registers = 0;
  int spill_store_bytes = 0, spill_load_bytes = 0;
  int stack_bytes = 0;
  int static_smem_bytes = 0;
  /// wgmma serialised (C751x) or setmaxnreg ignored (C7508): the kernel runs, but not as written.
  bool pipeline_warning = false;
};
ordered_json to_json(const ResourceReport& report);
ResourceReport resource_report_from_json(const json& value);

/// Compiled code and everything worth keeping of how it came about.
struct KernelImage {
  std::string cubin;
  ResourceReport report;
  std::string log;
  double compile_ms = 0;  // 0 if it came from the cache
};

/// NVRTC, loaded with dlopen. compile() may be called from several threads at once.
class Nvrtc {
 public:
  /// Throws DeviceError with one sentence if libnvrtc cannot be loaded. `library_dirs` first.
  explicit Nvrtc(const std::vector<std::string>& library_dirs = {});
  ~Nvrtc();
  /// "13.0.88": part of every image's key.
  std::string version() const;
  /// Where it was found, for another process that should use the same one.
  std::string library_folder() const;
  /// Throws CompileError with the whole log.
  KernelImage compile(const CompileRequest& request, const HeaderMap& headers) const;
  /// PTX text for the architecture, for people.
  std::string compile_to_ptx(const CompileRequest& request, const HeaderMap& headers) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// The text of `source` and, in order of first inclusion, of every header that it reaches, hashed
/// with entry, architecture, options and NVRTC version: the key of its image. The name is for people
/// and does not count.
std::string image_key(const CompileRequest& request, const HeaderMap& headers,
                      const std::string& nvrtc_version);

/// Hash of the header texts that `source` reaches, without the source itself: a tuning record made
/// with another hash is out of date.
std::string header_closure_hash(const std::string& source, const HeaderMap& headers);

}  // namespace quern
