#include "model/engine.h"

#include <fmt/format.h>

#include <charconv>
#include <thread>

#include "model/cpu_backend.h"
#include "model/gpu_backend.h"
#include "model/gpu_session.h"
#include "model/weights.h"
#include "runtime/base/error.h"
#include "runtime/base/log.h"

namespace quern {

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

double TextGeneration::tokens_per_second() const {
  return output_ids.size() > 1 && decode_seconds > 0
             ? static_cast<double>(output_ids.size() - 1) / decode_seconds
             : 0;
}

Engine::Engine(const EngineOptions& options)
    : options_(options), config_(load_config(options.model)) {
  const auto ordinal = gpu_ordinal(options.device);
  tokenizer_ = std::make_unique<Tokenizer>(options.model);
  if (!ordinal) {
    backend_ = std::make_unique<CpuBackend>(config_, load_weights(options.model, config_),
                                            CpuOptions{0, options.max_context});
    return;
  }
  session_ = std::make_unique<GpuSession>(
      GpuSessionOptions{*ordinal, options.cache, options.library_dirs, options.templates,
                        options.worker_command, options.system_cache});
  GpuModelOptions model_options;
  model_options.max_context = options.max_context;
  const ModelWeights weights = load_weights(options.model, config_);
  auto model = session_->open(config_, weights, gpu_dtype(config_), model_options,
                              [&](std::size_t done, std::size_t total) {
                                if (options_.progress)
                                  options_.progress("weights", static_cast<double>(done),
                                                    static_cast<double>(total));
                              });
  if (options.strict) {
    model->set_strict(true);
    model->ensure_graph(1);  // now rather than in the middle of an answer
  }
  backend_ = std::make_unique<GpuBackend>(config_, std::move(model));
}

Engine::~Engine() {
  backend_.reset();  // before the session whose memory it uses
}

std::string Engine::device_name() const {
  return session_ ? session_->context().device().name
                  : fmt::format("CPU, {} threads", std::thread::hardware_concurrency());
}

GpuModel* Engine::gpu_model() {
  return session_ ? &static_cast<GpuBackend&>(*backend_).model() : nullptr;
}

TextGeneration Engine::generate(std::span<const std::int32_t> prompt, GenerateOptions options,
                                const std::function<bool(std::string_view)>& on_text) {
  options.stop_ids.insert(options.stop_ids.end(), config_.stop_token_ids.begin(),
                          config_.stop_token_ids.end());
  TextGeneration out;
  out.prompt_ids.assign(prompt.begin(), prompt.end());
  StreamDecoder decoder(*tokenizer_);
  const auto emit = [&](const std::string& text) {
    out.text += text;
    return !on_text || text.empty() || on_text(text);
  };
  backend_->reset();
  Generation generation = backend_->generate(prompt, options, [&](std::int32_t id) {
    return tokenizer_->is_special(id) || emit(decoder.push(id));
  });
  emit(decoder.finish());
  out.output_ids = std::move(generation.ids);
  out.finish_reason = generation.finish_reason == FinishReason::stop     ? "stop"
                      : generation.finish_reason == FinishReason::length ? "length"
                                                                         : "cancelled";
  out.prompt_seconds = generation.prompt_seconds;
  out.decode_seconds = generation.decode_seconds;
  return out;
}

}  // namespace quern
