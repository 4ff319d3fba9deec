#pragma once
#include <atomic>
#include <functional>
#include <string>

#include "cache/image_store.h"
#include "compiler/nvrtc.h"

namespace quern {

/// A kernel ready to load, and where it came from.
struct CompiledKernel {
  std::string key;  // image_key() of the request
  KernelImage image;
  bool from_cache = false;
};

/// The image of `request`: from `store` if it holds one that is intact, else compiled and stored.
/// `store` may be nullptr. A store that cannot be written is logged as a warning and costs only the
/// next run's time. An image that another process is compiling into the store is waited for. May be
/// called from several threads at once. Throws CompileError.
CompiledKernel compile_cached(const Nvrtc& nvrtc, ImageStore* store, const CompileRequest& request,
                              const HeaderMap& headers);

/// Somebody else who compiles; throws as Nvrtc::compile() does.
using CompileFunction = std::function<KernelImage(const CompileRequest& request)>;
/// The same where `compile` takes NVRTC's place, which has the given version and these headers.
/// Throws Error if it waits for another process when `abandoned` turns true.
CompiledKernel compile_cached(const CompileFunction& compile, const std::string& nvrtc_version,
                              ImageStore* store, const CompileRequest& request,
                              const HeaderMap& headers,
                              const std::atomic<bool>* abandoned = nullptr);

}  // namespace quern
