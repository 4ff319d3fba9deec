#include "model/device_weights.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "runtime/base/error.h"
#include "runtime/base/half.h"

namespace quern {
namespace {

/// One matrix or vector as it stands in device memory: rows of several checkpoint tensors, in order.
struct Piece {
  std::vector<std::pair<std::string, std::size_t>> parts;  // checkpoint name, elements
  std::uint64_t* address;                                  // where its device address is noted
  double stddev;                                           // of random contents; 0: all ones
  bool read_every_step = true;

  std::size_t elements() const {
    std::size_t sum = 0;
    for (const auto& part : parts) sum += part.second;
    return sum;
  }
};

std::vector<Piece> pieces(const ModelConfig& c, ModelAddresses& addresses) {
  const auto size = [](std::int64_t a, std::int64_t b = 1) {
    return static_cast<std::size_t>(a) * static_cast<std::size_t>(b);
  };
  // 1/sqrt(fan-in) keeps the scale of activations.
  const auto scale = [](std::int64_t fan_in) { return 1.0 / std::sqrt(static_cast<double>(fan_in)); };
  const std::int64_t q = c.q_size(), kv = c.kv_size();
  const std::int64_t hidden = c.hidden_size, inner = c.intermediate_size;
  std::vector<Piece> out;
  out.push_back({{{"model.embed_tokens.weight", size(c.vocab_size, hidden)}},
                 &addresses.embedding,
                 scale(hidden),
                 c.tie_word_embeddings});
  addresses.layers.resize(static_cast<std::size_t>(c.num_layers));
  for (std::int64_t i = 0; i < c.num_layers; ++i) {
    LayerAddresses& layer = addresses.layers[static_cast<std::size_t>(i)];
    const std::string at = fmt::format("model.layers.{}.", i);
    out.push_back({{{at + "input_layernorm.weight", size(hidden)}}, &layer.input_norm, 0});
    out.push_back({{{at + "self_attn.q_proj.weight", size(q, hidden)},
                    {at + "self_attn.k_proj.weight", size(kv, hidden)},
                    {at + "self_attn.v_proj.weight", size(kv, hidden)}},
                   &layer.qkv,
                   scale(hidden)});
    out.push_back({{{at + "self_attn.o_proj.weight", size(hidden, q)}}, &layer.o, scale(q)});
    out.push_back({{{at + "post_attention_layernorm.weight", size(hidden)}}, &layer.post_norm, 0});
    out.push_back({{{at + "mlp.gate_proj.weight", size(inner, hidden)},
                    {at + "mlp.up_proj.weight", size(inner, hidden)}},
                   &layer.gate_up,
                   scale(hidden)});
    out.push_back({{{at + "mlp.down_proj.weight", size(hidden, inner)}}, &layer.down,
                   scale(inner)});
  }
  out.push_back({{{"model.norm.weight", size(hidden)}}, &addresses.final_norm, 0});
  if (!c.tie_word_embeddings)
    out.push_back({{{"lm_head.weight", size(c.vocab_size, hidden)}}, &addresses.lm_head,
                   scale(hidden)});
  return out;
}

constexpr std::size_t kAlignment = 256;

std::size_t padded_bytes(const Piece& piece, DType dtype) {
  return (bytes_for(dtype, piece.elements()) + kAlignment - 1) / kAlignment * kAlignment;
}

float element(const TensorView& view, std::size_t i) {
  if (view.dtype == DType::f32) {
    float value;
    std::memcpy(&value, view.data.data() + 4 * i, 4);
    return value;
  }
  std::uint16_t bits;
  std::memcpy(&bits, view.data.data() + 2 * i, 2);
  return view.dtype == DType::bf16 ? bf16_to_f32(bits) : f16_to_f32(bits);
}

/// Converts elements [first, first + count) of the view to 16 bits.
void convert(const TensorView& view, std::size_t first, std::size_t count, DType dtype,
             std::uint16_t* out) {
  if (view.dtype == dtype) {
    std::memcpy(out, view.data.data() + 2 * first, 2 * count);
  } else if (dtype == DType::bf16) {
    for (std::size_t i = 0; i < count; ++i) out[i] = f32_to_bf16(element(view, first + i));
  } else {
    for (std::size_t i = 0; i < count; ++i) out[i] = f32_to_f16(element(view, first + i));
  }
}

void require_16_bits(DType dtype) {
  if (dtype != DType::bf16 && dtype != DType::f16)
    throw InputError(fmt::format("weights on the GPU are bf16 or f16, not {}", name(dtype)));
}

}  // namespace

std::size_t DeviceWeights::required_bytes(const ModelConfig& config, DType dtype) {
  ModelAddresses scratch;
  std::size_t total = 0;
  for (const Piece& piece : pieces(config, scratch)) total += padded_bytes(piece, dtype);
  return total;
}

DeviceWeights::DeviceWeights(const ModelConfig& config, DType dtype, const ModelWeights& weights,
                             const Stream& stream, const LoadProgress& progress)
    : buffer_(required_bytes(config, dtype)) {
  require_16_bits(dtype);
  if (config.quantization)
    throw InputError(fmt::format("a quantised checkpoint ({}) runs on the CPU only so far",
                                 config.quantization->text()));
  // Two staging halves: one is filled while the other is on its way.
  constexpr std::size_t half_elements = std::size_t{8} << 20;
  const std::size_t largest = std::min(half_elements, buffer_.size_bytes() / 2);
  const PinnedBuffer staging(2 * largest * 2);
  Event sent[2];
  sent[0].record(stream);
  sent[1].record(stream);
  int half = 0;
  std::uint64_t address = buffer_.address();
  for (const Piece& piece : pieces(config, addresses_)) {
    *piece.address = address;
    std::uint64_t to = address;
    for (const auto& [name, elements] : piece.parts) {
      const TensorView& view = weights.checkpoint.at(name);
      for (std::size_t first = 0; first < elements; first += largest) {
        const std::size_t count = std::min(largest, elements - first);
        std::uint16_t* out =
            staging.as<std::uint16_t>() + static_cast<std::size_t>(half) * largest;
        sent[half].synchronize();
        convert(view, first, count, dtype, out);
        copy_to_device(to, out, 2 * count, stream);
        sent[half].record(stream);
        half ^= 1;
        to += 2 * count;
      }
    }
    address += padded_bytes(piece, dtype);
    if (piece.read_every_step) bytes_per_step_ += bytes_for(dtype, piece.elements());
    if (progress) progress(address - buffer_.address(), buffer_.size_bytes());
  }
  stream.synchronize();
  if (config.tie_word_embeddings) addresses_.lm_head = addresses_.embedding;
}

DeviceWeights::DeviceWeights(const ModelConfig& config, DType dtype, const RandomFill& fill)
    : buffer_(required_bytes(config, dtype)) {
  require_16_bits(dtype);
  std::uint64_t address = buffer_.address();
  for (const Piece& piece : pieces(config, addresses_)) {
    *piece.address = address;
    fill(address, piece.elements(), piece.stddev > 0 ? piece.stddev : 1.0);
    address += padded_bytes(piece, dtype);
    if (piece.read_every_step) bytes_per_step_ += bytes_for(dtype, piece.elements());
  }
  if (config.tie_word_embeddings) addresses_.lm_head = addresses_.embedding;
}

}  // namespace quern
