#include "compiler/compiled.h"

#include <fmt/format.h>

#include <optional>
#include <utility>

#include "runtime/base/error.h"
#include "runtime/base/log.h"

namespace quern {
namespace {

/// nullopt if the entry is intact on disk but its report is not one of ours.
std::optional<KernelImage> to_image(StoredImage stored) {
  try {
    KernelImage image;
    image.report = resource_report_from_json(json(stored.report));
    image.cubin = std::move(stored.image);
    image.log = std::move(stored.log);
    return image;
  } catch (const InputError&) {
    return std::nullopt;
  }
}

/// The resource report, and what a person needs to see which kernel this is.
ordered_json describe(const std::string& nvrtc_version, const CompileRequest& request,
                      const KernelImage& image) {
  ordered_json report = {{"name", request.name},        {"entry", request.entry},
                         {"arch", request.arch.name()}, {"nvrtc", nvrtc_version},
                         {"options", request.options},  {"compile_ms", image.compile_ms}};
  report.update(to_json(image.report));
  return report;
}

}  // namespace

CompiledKernel compile_cached(const Nvrtc& nvrtc, ImageStore* store, const CompileRequest& request,
                              const HeaderMap& headers) {
  return compile_cached(
      [&](const CompileRequest& wanted) { return nvrtc.compile(wanted, headers); }, nvrtc.version(),
      store, request, headers);
}

CompiledKernel compile_cached(const CompileFunction& compile, const std::string& nvrtc_version,
                              ImageStore* store, const CompileRequest& request,
                              const HeaderMap& headers) {
  CompiledKernel result{image_key(request, headers, nvrtc_version), {}, false};
  if (store) {
    if (auto stored = store->find(result.key))
      if (auto image = to_image(std::move(*stored))) {
        result.image = std::move(*image);
        result.from_cache = true;
        return result;
      }
  }
  result.image = compile(request);
  if (store) {
    try {
      store->put(result.key, {request.source, result.image.cubin,
                              describe(nvrtc_version, request, result.image), result.image.log});
    } catch (const InputError& error) {
      log(LogLevel::warning, fmt::format("a compiled kernel is not kept: {}", error.what()));
    }
  }
  return result;
}

}  // namespace quern
