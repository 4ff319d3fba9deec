#pragma once
#include <memory>
#include <string>

#include "compiler/nvrtc.h"
#include "runtime/base/error.h"

namespace quern::test {

constexpr const char* kNoNvrtc = "NVRTC is not installed";

/// NVRTC, loaded once; nullptr where there is none.
inline const Nvrtc* nvrtc() {
  static const std::unique_ptr<Nvrtc> loaded = []() -> std::unique_ptr<Nvrtc> {
    try {
      return std::make_unique<Nvrtc>();
    } catch (const DeviceError&) {
      return nullptr;
    }
  }();
  return loaded.get();
}

/// What scale_by() includes.
inline HeaderMap scale_headers() { return {{"scale.cuh", "constexpr float kScale = 2;\n"}}; }

/// A small kernel, another one for each factor.
inline CompileRequest scale_by(int factor, const std::string& name = "scale") {
  return {.name = name,
          .source =
              "#include \"scale.cuh\"\n"
              "extern \"C\" __global__ void scale(float* x) { x[threadIdx.x] *= kScale * " +
              std::to_string(factor) + "; }\n",
          .entry = "scale",
          .arch = parse_arch("sm_90a"),
          .options = {}};
}

}  // namespace quern::test
