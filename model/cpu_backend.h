#pragma once
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "model/backend.h"
#include "model/weights.h"

namespace quern {

struct CpuOptions {
  int num_threads = 0;           // 0: one for each hardware thread
  std::int64_t max_context = 0;  // tokens; 0: what the model allows
};

/// The forward pass in portable C++: f32 activations, accumulation and KV cache; weights stay in
/// the file's mapping, in its dtype or as its codes. Row-wise kernels come from templates/row, built by LLVM. The KV
/// cache grows with the sequence.
class CpuBackend final : public Backend {
 public:
  /// Throws InputError if the folder holds no model that can be loaded.
  explicit CpuBackend(const std::filesystem::path& folder, const CpuOptions& options = {});
  CpuBackend(const ModelConfig& config, ModelWeights weights, const CpuOptions& options = {});
  ~CpuBackend() override;

  const ModelConfig& config() const override;
  std::int64_t max_context() const override;
  std::int64_t context_length() const override;
  void reset() override;
  std::vector<float> forward(std::span<const std::int32_t> tokens, LogitRows rows) override;
  Generation generate(std::span<const std::int32_t> prompt, const GenerateOptions& options,
                      const std::function<bool(std::int32_t)>& on_token) override;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace quern
