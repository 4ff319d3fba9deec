#include "model/engine.h"

#include <fmt/format.h>

#include <charconv>

#include "model/cpu_backend.h"
#include "model/gpu_backend.h"
#include "model/gpu_session.h"
#include "model/weights.h"
#include "runtime/base/error.h"
#include "runtime/base/log.h"

namespace quern {
namespace {

/// Ordinal of the GPU that `device` asks for; nothing for the CPU.
std::optional<int> gpu_ordinal(const std::string& device) {
  if (device == "cpu") return std::nullopt;
  if (device == "auto") {
    if (driver_problem().empty()) return 0;
    return std::nullopt;
  }
  int ordinal = 0;
  const auto [end, error] = std::from_chars(device.data(), device.data() + device.size(), ordinal);
  if (error != std::errc() || end != device.data() + device.size() || ordinal < 0)
    throw InputError(fmt::format("'{}' is no device: give a GPU's number or cpu", device));
  return ordinal;
}

}  // namespace

double Generation::tokens_per_second() const {
  return output_ids.size() > 1 && decode_seconds > 0
             ? static_cast<double>(output_ids.size() - 1) / decode_seconds
             : 0;
}

Engine::Engine(const EngineOptions& options)
    : options_(options), config_(load_config(options.model)) {
  tokenizer_ = std::make_unique<Tokenizer>(options.model);
  const auto ordinal = gpu_ordinal(options.device);
  if (!ordinal) {
    backend_ = std::make_unique<CpuBackend>(options.model, config_, options.max_context);
    return;
  }
  session_ = std::make_unique<GpuSession>(
      GpuSessionOptions{*ordinal, options.cache, options.library_dirs, options.templates});
  GpuModelOptions model_options;
  model_options.max_context = options.max_context;
  const ModelWeights weights = load_weights(options.model, config_);
  auto model = session_->open(config_, weights, gpu_dtype(config_), model_options,
                              [&](std::size_t done, std::size_t total) {
                                if (options_.progress)
                                  options_.progress("weights", static_cast<double>(done),
                                                    static_cast<double>(total));
                              });
  if (options.strict) model->require_tuned();
  backend_ = std::make_unique<GpuBackend>(config_, std::move(model));
}

Engine::~Engine() {
  backend_.reset();  // before the session whose memory it uses
}

std::string Engine::device_name() const {
  return session_ ? session_->context().device().name : backend_->name();
}

GpuModel* Engine::gpu_model() {
  return session_ ? &static_cast<GpuBackend&>(*backend_).model() : nullptr;
}

Generation Engine::generate(std::span<const std::int32_t> prompt, const GenerateOptions& options,
                            const std::function<bool(std::string_view)>& on_text) {
  using Clock = std::chrono::steady_clock;
  Generation out;
  out.prompt_ids.assign(prompt.begin(), prompt.end());
  StreamDecoder decoder(*tokenizer_);
  bool cancelled = false;
  const auto emit = [&](const std::string& text) {
    out.text += text;
    if (on_text && !text.empty() && !on_text(text)) cancelled = true;
  };
  const auto start = Clock::now();
  auto first = start, last = start;
  const FinishReason reason = backend_->generate(
      prompt, options.sampling, options.max_new_tokens, config_.stop_token_ids,
      [&](std::int32_t id) {
        last = Clock::now();
        if (out.output_ids.empty()) first = last;
        out.output_ids.push_back(id);
        if (!tokenizer_->is_special(id)) emit(decoder.push(id));
        return !cancelled;
      });
  emit(decoder.finish());
  out.finish_reason = name(reason);
  out.prefill_seconds = std::chrono::duration<double>(first - start).count();
  out.decode_seconds = std::chrono::duration<double>(last - first).count();
  return out;
}

}  // namespace quern
