#include "compiler/compiled.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <optional>
#include <thread>
#include <utility>

#include "runtime/base/error.h"
#include "runtime/base/log.h"

namespace quern {
namespace {

constexpr auto kClaimPatience = std::chrono::seconds(60);

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

/// The right to build the image. Whoever has it may hang: patience ends, and then two build it.
Descriptor wait_for_claim(ImageStore& store, const std::string& key,
                          const std::atomic<bool>* abandoned) {
  const auto deadline = std::chrono::steady_clock::now() + kClaimPatience;
  auto pause = std::chrono::milliseconds(1);
  while (true) {
    if (auto claim = store.try_claim(key)) return std::move(*claim);
    if (std::chrono::steady_clock::now() > deadline) return {};
    if (abandoned && *abandoned) throw Error("the compile was abandoned");
    std::this_thread::sleep_for(pause);
    pause = std::min(2 * pause, std::chrono::milliseconds(32));
  }
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
                              const HeaderMap& headers, const std::atomic<bool>* abandoned) {
  CompiledKernel result{image_key(request, headers, nvrtc_version), {}, false};
  const auto found = [&] {
    auto stored = store->find(result.key);
    auto image = stored ? to_image(std::move(*stored)) : std::nullopt;
    if (image) result.image = std::move(*image);
    result.from_cache = image.has_value();
    return result.from_cache;
  };
  if (store && found()) return result;
  Descriptor claim;
  if (store) {
    claim = wait_for_claim(*store, result.key, abandoned);
    if (found()) return result;  // built meanwhile
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
