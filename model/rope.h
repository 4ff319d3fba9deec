#pragma once
#include <vector>

#include "model/config.h"

namespace quern {

/// Angular velocity of each pair of a head's elements under rotary embedding (Su et al. 2021,
/// arXiv:2104.09864), [head_dim / 2]: rope_theta^(-2i / head_dim). With "llama3" scaling
/// (Llama 3.1) wavelengths above original_max_position_embeddings / low_freq_factor are stretched
/// by `factor`, those below original_max_position_embeddings / high_freq_factor are kept, and those
/// between are interpolated. Element i pairs with element i + head_dim / 2 (the "rotate half"
/// layout of Hugging Face checkpoints). The angle at a position is the f32 product position *
/// frequency, as in transformers, whose rounding the models were trained with.
std::vector<float> rope_frequencies(const ModelConfig& config);

}  // namespace quern
