#pragma once
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "model/quantization.h"
#include "runtime/base/dtype.h"
#include "runtime/base/json.h"

namespace quern {

enum class Architecture { llama, mistral };

/// Frequency scaling of Llama 3.1 and later ("rope_type": "llama3"); see model/rope.h.
struct RopeScaling {
  double factor = 1;
  double low_freq_factor = 1;
  double high_freq_factor = 4;
  std::int64_t original_max_position_embeddings = 8192;
};

/// What config.json and generation_config.json of a Hugging Face folder say, checked: every size is
/// positive and sane, num_heads is a multiple of num_kv_heads, head_dim is even.
struct ModelConfig {
  Architecture architecture = Architecture::llama;
  std::int64_t vocab_size = 0;
  std::int64_t hidden_size = 0;
  std::int64_t intermediate_size = 0;
  std::int64_t num_layers = 0;
  std::int64_t num_heads = 0;
  std::int64_t num_kv_heads = 0;
  std::int64_t head_dim = 0;
  std::int64_t max_position_embeddings = 0;  // tokens that a sequence may hold
  double rms_norm_eps = 0;
  double rope_theta = 10000;
  std::optional<RopeScaling> rope_scaling;
  /// Token i attends to token j where i - sliding_window < j <= i; unset: to all before it.
  std::optional<std::int64_t> sliding_window;
  bool tie_word_embeddings = false;
  DType dtype = DType::bf16;  // of the checkpoint
  std::optional<std::int32_t> bos_token_id;
  /// Ids that end a generation: those of config.json and generation_config.json together.
  std::vector<std::int32_t> stop_token_ids;
  std::optional<Quantization> quantization;

  std::int64_t q_size() const { return num_heads * head_dim; }
  std::int64_t kv_size() const { return num_kv_heads * head_dim; }
};

/// Reads a parsed config.json; `where` names it in errors. Both spellings of rotary embeddings are
/// understood (`rope_parameters`; `rope_theta` with `rope_scaling`). Throws InputError, one
/// sentence naming the key, for whatever is missing, malformed, absurd or not supported.
ModelConfig parse_config(const json& config, const std::string& where = "config.json");

/// Reads config.json and, if there, generation_config.json of a model folder.
ModelConfig load_config(const std::filesystem::path& folder);

}  // namespace quern
