#include "compiler/nvrtc.h"

#include <fmt/format.h>
#include <nvrtc.h>

#include <chrono>

#include "compiler/include_closure.h"
#include "compiler/resource_report.h"
#include "runtime/base/error.h"
#include "runtime/library.h"

namespace quern {
namespace {

/// Entry points of libnvrtc, resolved by name.
struct Functions {
#define QUERN_NVRTC_FUNCTIONS(X)                                                          \
  X(Version)                                                                              \
  X(CreateProgram)                                                                        \
  X(DestroyProgram) X(CompileProgram) X(GetCUBIN) X(GetCUBINSize) X(GetPTX) X(GetPTXSize) \
      X(GetProgramLog) X(GetProgramLogSize) X(GetErrorString)
#define QUERN_DECLARE(f) decltype(&nvrtc##f) f = nullptr;
  QUERN_NVRTC_FUNCTIONS(QUERN_DECLARE)
#undef QUERN_DECLARE

  /// False if the library lacks one.
  bool load(const Library& library) {
    bool complete = true;
#define QUERN_LOAD(f) complete = library.load(f, "nvrtc" #f) && complete;
    QUERN_NVRTC_FUNCTIONS(QUERN_LOAD)
#undef QUERN_LOAD
    return complete;
  }
};

/// One program, destroyed on every path.
class Program {
 public:
  Program(const Functions& nvrtc, const CompileRequest& request, const HeaderMap& headers)
      : nvrtc_(nvrtc) {
    std::vector<const char*> texts, names;
    for (const std::string& name : include_closure(request.source, headers)) {
      const auto& header = *headers.find(name);
      names.push_back(header.first.c_str());
      texts.push_back(header.second.c_str());
    }
    check(nvrtc_.CreateProgram(&program_, request.source.c_str(), "kernel.cu",
                               static_cast<int>(names.size()), texts.data(), names.data()));
  }
  ~Program() {
    if (program_) nvrtc_.DestroyProgram(&program_);
  }
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  nvrtcResult compile(const std::vector<std::string>& options) {
    std::vector<const char*> pointers;
    for (const std::string& option : options) pointers.push_back(option.c_str());
    return nvrtc_.CompileProgram(program_, static_cast<int>(pointers.size()), pointers.data());
  }
  std::string log() const { return text(nvrtc_.GetProgramLogSize, nvrtc_.GetProgramLog); }
  std::string ptx() const { return text(nvrtc_.GetPTXSize, nvrtc_.GetPTX); }
  std::string cubin() const { return bytes(nvrtc_.GetCUBINSize, nvrtc_.GetCUBIN); }

 private:
  void check(nvrtcResult status) const {
    if (status != NVRTC_SUCCESS)
      throw CudaError(fmt::format("NVRTC failed: {}", nvrtc_.GetErrorString(status)), status);
  }
  template <class Size, class Get>
  std::string bytes(Size size, Get get) const {
    std::size_t count = 0;
    check(size(program_, &count));
    std::string result(count, '\0');
    if (count > 0) check(get(program_, result.data()));
    return result;
  }
  /// Logs and PTX come with their terminating zero.
  template <class Size, class Get>
  std::string text(Size size, Get get) const {
    std::string result = bytes(size, get);
    while (!result.empty() && result.back() == '\0') result.pop_back();
    return result;
  }

  const Functions& nvrtc_;
  nvrtcProgram program_ = nullptr;
};

/// The line of a log that says best what went wrong, or nothing.
std::string first_error(const std::string& log) {
  const std::size_t at = log.find("error");
  if (at == std::string::npos) return {};
  const std::size_t before = log.rfind('\n', at);
  const std::size_t begin = before == std::string::npos ? 0 : before + 1;
  return log.substr(begin, log.find('\n', at) - begin);
}

/// "13.0.88" of the PTX comment "Cuda compilation tools, release 13.0, V13.0.88"; the API itself
/// tells only major and minor.
std::string build_version(const std::string& ptx) {
  const std::size_t line = ptx.find("release ");
  const std::size_t at = line == std::string::npos ? line : ptx.find(", V", line);
  if (at == std::string::npos) return {};
  const std::size_t begin = at + 3;
  return ptx.substr(begin, ptx.find_first_not_of("0123456789.", begin) - begin);
}

/// Whether the ELF image has a code section for the kernel.
bool defines_kernel(const std::string& cubin, const std::string& entry) {
  return cubin.find(".text." + entry + '\0') != std::string::npos;
}

}  // namespace

struct Nvrtc::Impl {
  Library library;
  Functions nvrtc;
  std::string version;
  std::vector<std::string> extra_options;  // those of our wishes that this NVRTC knows

  explicit Impl(const std::vector<std::string>& library_dirs)
      : library({"libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"}, library_dirs) {
    if (!library)
      throw DeviceError(
          "NVRTC, CUDA's runtime compiler, was not found (libnvrtc cannot be loaded)");
    if (!nvrtc.load(library)) throw DeviceError("the NVRTC found here is too old");
    int major = 0, minor = 0;
    nvrtc.Version(&major, &minor);
    // NVRTC opens its builtins by bare name, which finds them only on the system's search path or if
    // they are open already: they lie beside it.
    const Library builtins({fmt::format("libnvrtc-builtins.so.{}.{}", major, minor)},
                           {Library::folder_of(reinterpret_cast<void*>(nvrtc.Version))});
    // The disk cache of NVRTC 12.9 and later hides the ptxas log; without -no-source-include, files
    // in the current folder could stand in for ours.
    for (const char* option : {"--no-cache", "--no-source-include"})
      if (Program probe(nvrtc, {}, {}); probe.compile({option}) == NVRTC_SUCCESS) {
        extra_options.push_back(option);
        version = build_version(probe.ptx());
      }
    if (version.empty()) version = fmt::format("{}.{}", major, minor);
  }

  std::string folder() const {
    return Library::folder_of(reinterpret_cast<void*>(nvrtc.Version));
  }

  void compile(Program& program, const CompileRequest& request, const std::string& target) const {
    // The source includes no CUDA header, so no include folder is ever passed.
    std::vector<std::string> options = {"--gpu-architecture=" + target, "--std=c++20",
                                        "--device-as-default-execution-space",
                                        "--ptxas-options=-v"};
    options.insert(options.end(), extra_options.begin(), extra_options.end());
    options.insert(options.end(), request.options.begin(), request.options.end());
    const nvrtcResult status = program.compile(options);
    if (status == NVRTC_SUCCESS) return;
    const std::string log = program.log();
    std::string reason = first_error(log);
    if (reason.empty())  // memory ran out, most likely
      reason = fmt::format("the compiler gave no reason ({})", nvrtc.GetErrorString(status));
    throw CompileError(fmt::format("{} did not compile for {} with NVRTC {}: {}",
                                   request.name.empty() ? "the kernel" : request.name, target,
                                   version, reason),
                       log);
  }
};

Nvrtc::Nvrtc(const std::vector<std::string>& library_dirs)
    : impl_(std::make_unique<Impl>(library_dirs)) {}
Nvrtc::~Nvrtc() = default;

std::string Nvrtc::version() const { return impl_->version; }

std::string Nvrtc::library_folder() const { return impl_->folder(); }

KernelImage Nvrtc::compile(const CompileRequest& request, const HeaderMap& headers) const {
  const auto start = std::chrono::steady_clock::now();
  Program program(impl_->nvrtc, request, headers);
  impl_->compile(program, request, request.arch.name());
  KernelImage image;
  image.cubin = program.cubin();
  image.log = program.log();
  if (!defines_kernel(image.cubin, request.entry))
    throw CompileError(
        fmt::format("the source of {} defines no kernel '{}'", request.name, request.entry),
        image.log);
  image.report = parse_resource_report(image.log, request.entry);
  image.compile_ms =
      std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
  return image;
}

std::string Nvrtc::compile_to_ptx(const CompileRequest& request, const HeaderMap& headers) const {
  Program program(impl_->nvrtc, request, headers);
  impl_->compile(program, request,
                 fmt::format("compute_{}{}", request.arch.cc(), request.arch.suffix));
  return program.ptx();
}

}  // namespace quern
