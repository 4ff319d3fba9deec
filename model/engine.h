#pragma once
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "model/backend.h"
#include "model/chat_template.h"
#include "model/config.h"
#include "model/sampling.h"
#include "model/tokenizer.h"

namespace quern {

class GpuModel;
class GpuSession;

struct EngineOptions {
  std::filesystem::path model;                     // Hugging Face folder
  std::string device = "auto";                     // GPU number, "cpu", or "auto": GPU 0 if any
  std::filesystem::path cache;                     // of kernels and tuning records
  std::vector<std::string> library_dirs;           // searched first for NVIDIA's libraries
  std::optional<std::filesystem::path> templates;  // instead of the embedded ones
  int max_context = 0;                             // tokens a sequence may hold; 0: the model's
  std::filesystem::path system_cache = {};         // only ever read; empty = none
  bool strict = false;                             // refuse kernels that were never tuned
  std::vector<std::string> worker_command{};       // as in KernelLibraryOptions
  /// Told of slow things as they happen: "weights", done, total.
  std::function<void(std::string_view what, double done, double total)> progress;
};

/// What `device` of EngineOptions asks for: a GPU's number, or nothing for the CPU; "auto" is the
/// CPU where the driver finds no GPU. Throws InputError for anything else. A number is taken at its
/// word.
std::optional<int> gpu_ordinal(const std::string& device);

/// What Engine::generate() brought.
struct TextGeneration {
  std::vector<std::int32_t> prompt_ids, output_ids;
  std::string text;           // special tokens left out
  std::string finish_reason;  // "stop" (a stop token), "length" or "cancelled"
  double prompt_seconds = 0;  // until the first token
  double decode_seconds = 0;  // all further ones
  /// Of the tokens after the first; 0 where there is none.
  double tokens_per_second() const;
};

/// A model opened for use on one device: the library's front door. Not thread-safe; a GPU's engine
/// is used on the thread that made it.
class Engine {
 public:
  /// Throws InputError for a bad model folder, DeviceError if the device asked for is missing.
  explicit Engine(const EngineOptions& options);
  ~Engine();

  const ModelConfig& config() const { return config_; }
  const Tokenizer& tokenizer() const { return *tokenizer_; }
  Backend& backend() { return *backend_; }
  /// "CPU, 16 threads" or "NVIDIA H200".
  std::string device_name() const;
  /// nullptr on the CPU.
  GpuSession* gpu() { return session_.get(); }
  GpuModel* gpu_model();

  /// Starts a sequence of its own and continues the prompt until a stop token of `options` or of
  /// the model. `on_text` gets text as it is generated, whole characters at a time, and returns
  /// false to stop. Throws InputError if the prompt is empty, has ids out of range, or does not fit
  /// the context.
  TextGeneration generate(std::span<const std::int32_t> prompt, GenerateOptions options,
                          const std::function<bool(std::string_view)>& on_text = {});

 private:
  EngineOptions options_;
  ModelConfig config_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::unique_ptr<GpuSession> session_;
  std::unique_ptr<Backend> backend_;
};

}  // namespace quern
