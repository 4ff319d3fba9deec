#pragma once
#include <filesystem>
#include <variant>
#include <vector>

#include "model/config.h"
#include "model/quantised_linear.h"
#include "model/safetensors.h"

namespace quern {

/// The weight of a linear layer, [out, in]: elements of f32, f16 or bf16, or codes.
using Projection = std::variant<TensorView, QuantisedLinear>;

/// One decoder layer. Projections are stored as they are in the file, [out, in].
struct LayerWeights {
  TensorView input_norm;           // [hidden_size]
  Projection q_proj;               // [num_heads * head_dim, hidden_size]
  Projection k_proj;               // [num_kv_heads * head_dim, hidden_size]
  Projection v_proj;               // [num_kv_heads * head_dim, hidden_size]
  Projection o_proj;               // [hidden_size, num_heads * head_dim]
  TensorView post_attention_norm;  // [hidden_size]
  Projection gate_proj;            // [intermediate_size, hidden_size]
  Projection up_proj;              // [intermediate_size, hidden_size]
  Projection down_proj;            // [hidden_size, intermediate_size]
};

/// Every tensor that the forward pass reads, with shapes checked against the config. The views live
/// as long as the checkpoint.
struct ModelWeights {
  Checkpoint checkpoint;
  TensorView embedding;  // [vocab_size, hidden_size]
  std::vector<LayerWeights> layers;
  TensorView final_norm;  // [hidden_size]
  Projection lm_head;     // [vocab_size, hidden_size]; the embedding where they are tied
};

/// Throws InputError for a missing tensor, a wrong shape or dtype, and for quantised projections
/// whose tensors contradict each other.
ModelWeights load_weights(const std::filesystem::path& folder, const ModelConfig& config);

}  // namespace quern
