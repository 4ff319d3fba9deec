#include "model/weight_layout.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "model/quantised_matrix.h"
#include "model/row_interleave.h"

namespace quern {
namespace {

struct Part {
  const char* module;  // within the layer
  std::int64_t rows;
  const Projection* weight;  // may be null
};

LinearWeight one(const ModelConfig& config, std::string module, std::int64_t rows,
                 std::int64_t in_features, const Projection* weight) {
  LinearWeight out;
  out.in_features = in_features;
  if (config.quantization && config.quantization->applies_to(module)) {
    const Quantization& q = *config.quantization;
    out.bits = q.bits;
    out.group_size = q.inputs_per_group(in_features);
    out.zero_points = q.zero_points;
    // With one group for all inputs, their order does not matter.
    out.reordered = weight ? !std::get<QuantisedLinear>(*weight).g_idx.empty()
                           : q.act_order && out.group_size < in_features;
  }
  out.modules.push_back(std::move(module));
  out.rows.push_back(rows);
  return out;
}

/// Whether all parts are stored alike, so that their rows can follow one another.
bool alike(const std::vector<LinearWeight>& parts, const std::vector<Part>& sources) {
  if (std::ranges::any_of(parts, [&](const LinearWeight& p) { return p.bits != parts[0].bits; }))
    return false;
  if (!parts[0].quantised() || !sources[0].weight) return true;
  std::vector<const QuantisedLinear*> linears;
  for (const Part& source : sources) linears.push_back(&std::get<QuantisedLinear>(*source.weight));
  return can_join(linears);
}

/// Projections of one input: one matrix if they are stored alike.
std::vector<LinearWeight> joined(const ModelConfig& config, const std::string& prefix,
                                 std::int64_t in_features, const std::vector<Part>& sources) {
  std::vector<LinearWeight> parts;
  for (const Part& part : sources)
    parts.push_back(one(config, prefix + part.module, part.rows, in_features, part.weight));
  if (!alike(parts, sources)) return parts;
  for (std::size_t i = 1; i < parts.size(); ++i) {
    parts[0].modules.push_back(parts[i].modules[0]);
    parts[0].rows.push_back(parts[i].rows[0]);
  }
  parts.resize(1);
  return parts;
}

}  // namespace

std::int64_t LinearWeight::out_features() const {
  return std::accumulate(rows.begin(), rows.end(), std::int64_t{0});
}

ModelAddresses weight_layout(const ModelConfig& config, const ModelWeights* weights) {
  ModelAddresses out;
  const std::int64_t hidden = config.hidden_size, inner = config.intermediate_size;
  for (std::int64_t i = 0; i < config.num_layers; ++i) {
    const LayerWeights* layer =
        weights ? &weights->layers.at(static_cast<std::size_t>(i)) : nullptr;
    const auto of = [&](Projection LayerWeights::*member) {
      return layer ? &(layer->*member) : nullptr;
    };
    const std::string prefix = fmt::format("model.layers.{}.", i);
    LayerAddresses to;
    to.qkv = joined(config, prefix, hidden,
                    {{"self_attn.q_proj", config.q_size(), of(&LayerWeights::q_proj)},
                     {"self_attn.k_proj", config.kv_size(), of(&LayerWeights::k_proj)},
                     {"self_attn.v_proj", config.kv_size(), of(&LayerWeights::v_proj)}});
    to.o = one(config, prefix + "self_attn.o_proj", hidden, config.q_size(),
               of(&LayerWeights::o_proj));
    to.gate_up = joined(config, prefix, hidden,
                        {{"mlp.gate_proj", inner, of(&LayerWeights::gate_proj)},
                         {"mlp.up_proj", inner, of(&LayerWeights::up_proj)}});
    LinearWeight& gate_up = to.gate_up.front();
    gate_up.interleaved = to.gate_up.size() == 1 && inner % kInterleavedRows == 0;
    to.down = one(config, prefix + "mlp.down_proj", hidden, inner, of(&LayerWeights::down_proj));
    out.layers.push_back(std::move(to));
  }
  if (config.tie_word_embeddings) {
    out.lm_head.modules = {"model.embed_tokens"};
    out.lm_head.rows = {config.vocab_size};
    out.lm_head.in_features = hidden;
  } else {
    out.lm_head =
        one(config, "lm_head", config.vocab_size, hidden, weights ? &weights->lm_head : nullptr);
  }
  return out;
}

}  // namespace quern
