#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "model/config.h"
#include "model/weights.h"

namespace quern {

/// The weight of one linear layer in device memory, [out_features, in_features]; or of several that
/// share their input, one after another unless they are interleaved.
struct LinearWeight {
  std::vector<std::string> modules;  // "model.layers.0.self_attn.q_proj", ...
  std::vector<std::int64_t> rows;    // of each
  std::int64_t in_features = 0;
  int bits = 0;                 // of a code; 0: elements of the model's type
  std::int64_t group_size = 0;  // inputs that share a scale
  bool zero_points = false;     // otherwise they are 2^(bits - 1)
  bool reordered = false;       // x has to be gathered with `order` before it is multiplied
  /// Rows are those of two modules, interleaved (model/row_interleave.h).
  bool interleaved = false;
  // Device addresses.
  std::uint64_t weight = 0;  // elements [out, in]; or codes in the order of templates/gemm_wna16
  std::uint64_t scales = 0;  // of codes, in that order too, as are zero points
  std::uint64_t zeros = 0;   // u8
  std::uint64_t order = 0;   // i32 [in]

  std::int64_t out_features() const;
  bool quantised() const { return bits > 0; }
};

/// One layer's weights.
struct LayerAddresses {
  std::uint64_t input_norm = 0;  // [hidden_size]
  /// q, k and v as one matrix [(num_heads + 2 num_kv_heads) head_dim, hidden_size]; or as three,
  /// where they are not stored alike.
  std::vector<LinearWeight> qkv;
  LinearWeight o;               // [hidden_size, num_heads head_dim]
  std::uint64_t post_norm = 0;  // [hidden_size]
  /// One matrix [2 intermediate_size, hidden_size]: gate and up interleaved where they have groups
  /// of 8 rows; else gate rows, then up rows. Or two matrices, where they are not stored alike.
  std::vector<LinearWeight> gate_up;
  LinearWeight down;                       // [hidden_size, intermediate_size]
  std::uint64_t k_cache = 0, v_cache = 0;  // [num_pages, num_kv_heads, page_size, head_dim]
};

/// Everything that a step reads besides its inputs. Addresses never move while a model is open.
struct ModelAddresses {
  std::uint64_t embedding = 0;   // [vocab_size, hidden_size]
  std::uint64_t final_norm = 0;  // [hidden_size]
  LinearWeight lm_head;          // [vocab_size, hidden_size]; the embedding where tied
  std::uint64_t rope_table = 0;  // f32 [max_positions, head_dim / 2, 2]: cos, sin
  std::vector<LayerAddresses> layers;
  int page_size = 64;  // tokens per KV page
  int num_pages = 0;
  int max_blocks = 0;  // pages per sequence: columns of the block table
  int max_positions = 0;
};

/// Which matrices a model's weights make, without addresses. Without weights at hand, projections
/// that the config quantises alike are taken to have their inputs in the same order, as those of
/// one input have in checkpoints that act-order made.
ModelAddresses weight_layout(const ModelConfig& config, const ModelWeights* weights = nullptr);

}  // namespace quern
