#pragma once
#include <filesystem>
#include <vector>

#include "model/config.h"
#include "model/safetensors.h"

namespace quern {

/// One decoder layer. Projections are stored as they are in the file, [out, in].
struct LayerWeights {
  TensorView input_norm;           // [hidden_size]
  TensorView q_proj;               // [num_heads * head_dim, hidden_size]
  TensorView k_proj;               // [num_kv_heads * head_dim, hidden_size]
  TensorView v_proj;               // [num_kv_heads * head_dim, hidden_size]
  TensorView o_proj;               // [hidden_size, num_heads * head_dim]
  TensorView post_attention_norm;  // [hidden_size]
  TensorView gate_proj;            // [intermediate_size, hidden_size]
  TensorView up_proj;              // [intermediate_size, hidden_size]
  TensorView down_proj;            // [hidden_size, intermediate_size]
};

/// Every tensor that the forward pass reads, with shapes checked against the config; elements are
/// f32, f16 or bf16. The views live as long as the checkpoint.
struct ModelWeights {
  Checkpoint checkpoint;
  TensorView embedding;  // [vocab_size, hidden_size]
  std::vector<LayerWeights> layers;
  TensorView final_norm;  // [hidden_size]
  TensorView lm_head;     // [vocab_size, hidden_size]; the embedding where they are tied
};

/// Throws InputError for a missing tensor, a wrong shape or dtype, and quantised checkpoints.
ModelWeights load_weights(const std::filesystem::path& folder, const ModelConfig& config);

}  // namespace quern
