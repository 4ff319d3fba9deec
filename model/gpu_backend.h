#pragma once
#include <memory>
#include <vector>

#include "model/backend.h"
#include "model/gpu_model.h"

namespace quern {

/// One sequence on a GPU: prefill node by node, then one graph launch a token, the sampled token
/// fed back on the device and read by the host one step behind.
class GpuBackend final : public Backend {
 public:
  GpuBackend(const ModelConfig& config, std::unique_ptr<GpuModel> model)
      : config_(config), model_(std::move(model)) {}

  GpuModel& model() { return *model_; }
  const ModelConfig& config() const override { return config_; }
  std::int64_t max_context() const override { return model_->max_context(); }
  std::int64_t context_length() const override { return model_->length(0); }
  void reset() override { model_->reset(); }
  std::vector<float> forward(std::span<const std::int32_t> tokens, LogitRows rows) override;
  Generation generate(std::span<const std::int32_t> prompt, const GenerateOptions& options,
                      const std::function<bool(std::int32_t)>& on_token) override;

 private:
  ModelConfig config_;
  std::unique_ptr<GpuModel> model_;
};

}  // namespace quern
